"""The YAML header of a model card, as the hub reads it: base model, library, licence, evaluation results."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.measure.registry import F1

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

    from sweeps.export.exported import ExportedTrial

# Metrics that the hub has under another name, with the argument that makes them ours.
_HUB_NAMES: dict[str, tuple[str, dict[str, Any]]] = {
    "f1_macro": ("f1", {"average": "macro"}),
    "f1_weighted": ("f1", {"average": "weighted"}),
    "matthews_corrcoef": ("matthews_correlation", {}),
}
_MOST = 64 * 1024  # characters of a README in which the licence is looked for
_LICENCE = re.compile(r"^(license(?:_name|_link)?):[ \t]*['\"]?([\w.:/+-]+)['\"]?[ \t]*$", re.MULTILINE)
_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")


def header(exported: ExportedTrial, study: str, row: Mapping[str, Any], licence: Mapping[str, str]) -> str:
    """``row``: the trial's, as in tables/trials; without test scores there are no results. ``licence``: of the base
    model, as ``licence_of`` gives it."""
    from huggingface_hub import ModelCardData

    trial, path = exported.trial, exported.trial.model.path
    results = list(_results(exported, study, row)) if row.get("mean") is not None else []
    return ModelCardData(
        base_model=path if _HUB_NAME.fullmatch(path) else None,  # the hub refuses a card that names a path
        library_name="transformers" if exported.merged else "peft",
        pipeline_tag="text-classification" if trial.model.head == "classifier" else "text-generation",
        tags=["lora", "steadytune"],
        model_name=f"{study}, trial {trial.id}" if results else None,
        eval_results=results or None,
        license=licence.get("license"),
        license_name=licence.get("license_name"),
        license_link=licence.get("license_link"),
    ).to_yaml()


def _results(exported: ExportedTrial, study: str, row: Mapping[str, Any]) -> Iterator[EvalResult]:
    from huggingface_hub import EvalResult

    classifier, name = exported.trial.model.head == "classifier", exported.trial.task.metric
    label = name.removeprefix(f"{F1}[").removesuffix("]") if name.startswith(f"{F1}[") else ""
    metric, args = (F1, {"pos_label": label}) if label else _HUB_NAMES.get(name, (name, {}))
    for column, said in (
        ("mean", f"{name}, mean over {row['n_prompts']} test prompts"),
        ("min", f"{name}, worst test prompt"),
        ("std", f"standard deviation of {name} over test prompts"),
    ):
        yield EvalResult(
            task_type="text-classification" if classifier else "text-generation",
            dataset_type="custom",
            dataset_name=f"{study}, {row['n_rows']} test rows",
            dataset_split="test",
            metric_type=metric,
            metric_name=said,
            metric_value=round(float(row[column]), 4),
            metric_args=args or None,
        )


def licence_of(folder: Path | None) -> dict[str, str]:
    """What the README of a base model says of its licence, under the hub's keys."""
    try:
        text = (folder / "README.md").read_text(errors="replace")[:_MOST] if folder is not None else ""
    except OSError:
        return {}
    found = re.match(r"---[ \t]*\n(.*?)^---[ \t]*$", text, re.DOTALL | re.MULTILINE)
    return dict(_LICENCE.findall(found[1])) if found else {}
