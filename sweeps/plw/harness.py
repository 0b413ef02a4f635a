"""The prompt-loss-weight study's benchmarks, run by EleutherAI's harness on the adapters of a run.

``steadytune benchmark RUN`` runs lm-eval's own tasks (their prompts, few-shot examples and accuracy) on every finished
trial's adapter and writes score rows to ``scores/<trial>/<rung>-<task>.parquet``, beside the study's own scores. Their
prompt id is the number of shots. Existing scores are not computed again. With ``--data`` the questions come from local
parquet files instead of the hub; they are converted to the columns of the hub's data sets, so lm-eval's tasks do not
change.

Needs the extra ``benchmark`` (lm-eval). torch, transformers and lm-eval are imported only when the command runs.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sweeps.display.text import percent
from sweeps.run_folder.reading import RunFolder
from sweeps.study.study import Study
from trainer.errors import UserError, nearest
from trainer.files import checksum
from trainer.store import SCORES, Store
from trainer.trial import Model

Columns = Callable[[Mapping[str, Any]], dict[str, Any]]  # a row of the local file -> a row of the hub's data set


@dataclass(frozen=True)
class Benchmark:
    """A task of lm-eval with the study's number of examples before each question. The rest says where its questions are
    in a folder of parquet files."""

    shots: int
    file: str
    column: str
    splits: Mapping[str, str]  # lm-eval's split -> the value of ``column``
    columns: Columns


def _arc(row: Mapping[str, Any]) -> dict[str, Any]:
    letters = [chr(ord("A") + i) for i in range(len(row["choices"]))]
    choices = {"text": row["choices"], "label": letters}
    return {"question": row["question"], "choices": choices, "answerKey": letters[row["label"]]}


def _piqa(row: Mapping[str, Any]) -> dict[str, Any]:
    return {"goal": row["question"], "sol1": row["choices"][0], "sol2": row["choices"][1], "label": row["label"]}


def _truthfulqa(row: Mapping[str, Any]) -> dict[str, Any]:
    """Puts the right choice first: lm-eval's task expects it there."""
    right = row["labels"].index(1)
    choices = [row["choices"][right], *(c for i, c in enumerate(row["choices"]) if i != right)]
    return {"question": row["question"], "mc1_targets": {"choices": choices}}


def _winogrande(row: Mapping[str, Any]) -> dict[str, Any]:
    one, two = row["choices"]
    return {"sentence": row["question"], "option1": one, "option2": two, "answer": str(row["label"] + 1)}


BENCHMARKS = {  # the study's four
    "arc_challenge": Benchmark(
        25,
        "arc.parquet",
        "split",
        {"train": "challenge_train", "validation": "challenge_dev", "test": "challenge_test"},
        _arc,
    ),
    "piqa": Benchmark(0, "piqa.parquet", "split", {"train": "train_part", "validation": "dev"}, _piqa),
    "truthfulqa_mc1": Benchmark(0, "truthfulqa_mc.parquet", "kind", {"validation": "mc1"}, _truthfulqa),
    "winogrande": Benchmark(5, "winogrande.parquet", "split", {"train": "train_l", "validation": "dev"}, _winogrande),
}


def benchmark(
    run: str,
    tasks: Sequence[str] = (),
    data: str | None = None,
    limit: int | None = None,
    shots: int | None = None,
    batch_size: int = 8,
) -> Iterator[str]:
    """Run ``tasks`` (default: the study's four) on every finished trial of ``run``; yields a line for each score file.
    ``limit`` is the number of questions, the first of each task; ``shots`` replaces the study's number of examples.
    Raises UserError."""
    names = list(tasks) or list(BENCHMARKS)
    for name in names:
        if name not in BENCHMARKS:
            raise UserError(f'--tasks = "{name}" is not known.{nearest(name, list(BENCHMARKS))}')
    folder = RunFolder(Store.open(run))
    store, study = folder.store, folder.study
    if study.model.head != "lm":
        raise UserError("model.head = classifier: benchmarks ask for the likelihood of text, which needs head lm")
    wanted = [(t, r, n) for t, r in _finished(folder) for n in names if not _there(store, t, r, n, shots, limit)]
    if not wanted:
        yield "nothing to do: all finished trials have these scores"
        return
    with tempfile.TemporaryDirectory() as scratch:
        found = _tasks(sorted({n for _, _, n in wanted}), data, shots, scratch)
        model, tokenizer = _base(study)
        for trial in dict.fromkeys(t for t, _, _ in wanted):
            adapted = _adapted(model, store, trial, scratch)
            for _, rung, name in [w for w in wanted if w[0] == trial]:
                samples = _evaluate(adapted, tokenizer, name, found[name], limit, batch_size)
                asked = _shots(name, shots)
                table = _rows(trial, rung, name, asked, samples)
                store.write_scores(trial, rung, name, table, _record(store, trial, rung, name, asked, limit))
                right = float(np.mean(table["correct"].to_pylist()))
                yield f"{trial} {name}: {percent(right)} % of {table.num_rows} questions"
            model = adapted.unload()


def _finished(run: RunFolder) -> list[tuple[str, int]]:
    return [(row["trial_id"], int(row["rung"] or 0)) for row in run.trials if row["status"] == "finished"]


def _shots(name: str, shots: int | None) -> int:
    return BENCHMARKS[name].shots if shots is None else shots


def _there(store: Store, trial: str, rung: int, name: str, shots: int | None, limit: int | None) -> bool:
    """Whether the trial has scores for the same questions already."""
    found = store.read_scores(trial, rung, name)
    asked = found[1].get("benchmark") or {} if found else {}
    return bool(asked) and (asked.get("shots"), asked.get("limit")) == (_shots(name, shots), limit)


# lm-eval ----------------------------------------------------------------------------------------------------------


def _lm_eval() -> Any:
    """Import the package. On import, version 0.4.9 uses the name of a class that transformers 5 has renamed. The old
    name is set on the type of the transformers module, because imports replace the module by other objects of it."""
    try:
        import transformers

        kind: Any = type(sys.modules["transformers"])
        if not hasattr(kind, "AutoModelForVision2Seq"):
            kind.AutoModelForVision2Seq = transformers.AutoModelForImageTextToText
        import lm_eval
    except ImportError as error:
        raise UserError(
            f"benchmarks need EleutherAI's harness ({error}): pip install 'steadytune[benchmark]'"
        ) from None
    return lm_eval


def _tasks(names: Sequence[str], data: str | None, shots: int | None, folder: str) -> dict[str, Any]:
    """Name -> lm-eval's task."""
    _lm_eval()
    from lm_eval.tasks import TaskManager, get_task_dict

    manager, found = TaskManager(), {}
    for name in names:
        config: dict[str, Any] = {"task": name, "num_fewshot": _shots(name, shots)}
        if data is not None:
            files = _local_files(name, Path(data), Path(folder))
            config |= {"dataset_path": "parquet", "dataset_name": None, "dataset_kwargs": {"data_files": files}}
        try:
            found[name] = get_task_dict([config], manager)[name]
        except (OSError, ConnectionError, ValueError) as error:
            detail = " ".join(str(error).split())[:200]
            raise UserError(f"{name}: its questions cannot be loaded ({detail}). Give a folder with --data") from None
    return found


def _local_files(name: str, data: Path, folder: Path) -> dict[str, str]:
    """lm-eval's split -> a parquet file with the hub's columns, converted from the local file."""
    local = BENCHMARKS[name]
    path = data / local.file
    if not path.is_file():
        inside = sorted(os.listdir(data)) if data.is_dir() else []
        raise UserError(f"--data = {data}: holds no {local.file}, which {name} reads.{nearest(local.file, inside)}")
    rows = pq.read_table(path).to_pylist()
    files = {}
    for split, value in local.splits.items():
        chosen = [local.columns(r) for r in rows if r[local.column] == value]
        if not chosen:
            raise UserError(f'{path}: no row has {local.column} = "{value}", which {name} reads as {split}')
        files[split] = str(folder / f"{name}-{split}.parquet")
        pq.write_table(pa.Table.from_pylist(chosen), files[split])
    return files


def _base(study: Study) -> tuple[Any, Any]:
    _lm_eval()
    from transformers import AutoTokenizer

    from trainer.model.base import load_base
    from trainer.model.device import pick_device

    m = study.model
    tokenizer = AutoTokenizer.from_pretrained(m.path, revision=m.revision, trust_remote_code=m.trust_remote_code)
    about = Model(m.path, "", m.revision, m.dtype, m.head, m.trust_remote_code, m.quantization)
    return load_base(about, pick_device()), tokenizer


def _adapted(model: Any, store: Store, trial: str, folder: str) -> Any:
    from peft import PeftModel

    place = Path(folder) / trial
    place.mkdir(exist_ok=True)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        at = f"adapters/{trial}/{name}"
        data = store.read(at)
        if checksum.state(data, at) == "damaged":
            raise UserError(
                f"{store.address(at)}: is damaged. `steadytune export` takes the adapter from the trial's checkpoint; "
                "put its file there"
            )
        (place / name).write_bytes(data)
    return PeftModel.from_pretrained(model, str(place)).eval()


def _evaluate(model: Any, tokenizer: Any, name: str, task: Any, limit: int | None, batch_size: int) -> list[Any]:
    """lm-eval's samples: one per question, with the log-likelihoods of its choices."""
    from lm_eval.evaluator import evaluate
    from lm_eval.models.huggingface import HFLM

    lm = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size, backend="causal")
    task.set_fewshot_seed(1234)  # the harness's own default
    results = evaluate(lm, {name: task}, limit=limit, bootstrap_iters=0, log_samples=True, verbosity="ERROR")
    samples: list[Any] = results["samples"][name]
    return samples


# rows -------------------------------------------------------------------------------------------------------------


def _rows(trial: str, rung: int, name: str, shots: int, samples: Sequence[Mapping[str, Any]]) -> pa.Table:
    rows = []
    for sample in sorted(samples, key=lambda s: s["doc_id"]):
        logprobs = [float(response[0]) for response in sample["filtered_resps"]]
        correct = bool(sample["acc"])
        predicted = int(np.argmax(logprobs))
        label = sample["target"] if isinstance(sample["target"], int) else predicted if correct else -1
        rows.append(
            {
                "trial_id": trial,
                "rung": rung,
                "pool": name,
                "prompt_id": f"{shots}-shot",
                "row_id": str(sample["doc_id"]),
                "label": str(label),
                "predicted": str(predicted),
                "correct": correct,
                "label_logprobs": logprobs,
                "new_tokens": None,
            }
        )
    return pa.Table.from_pylist(rows, schema=SCORES)


def _record(store: Store, trial: str, rung: int, name: str, shots: int, limit: int | None) -> dict[str, Any]:
    """The record of a score file: the trial, as in the rung's own scores, and the task that was run."""
    from importlib.metadata import version

    own = next((f for pool in ("dev", "test") if (f := store.read_scores(trial, rung, pool)) is not None), None)
    asked = {"task": name, "shots": shots, "limit": limit, "lm_eval": version("lm-eval")}
    return {"trial": own[1]["trial"] if own else None, "rung": rung, "benchmark": asked}
