"""``begin``: from the user's data to a folder with rows, pools and a study that ``check`` passes.

Everything is written beside the folder first and moved there when it is whole, so a folder that is there is finished,
and one that was there before is never touched.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.ray_private import cpu_count
from sweeps.checks.findings import Findings
from sweeps.checks.preflight import preflight
from sweeps.display.text import counted, duration
from sweeps.init.chat_models import chat_template_of
from sweeps.init.collect import Ask, Given, collect, own_wording, question_of, speak_for_themselves
from sweeps.init.division import divided
from sweeps.init.examples import LETTERS, DataError, DataRow, Examples
from sweeps.init.study_text import Outlined, Scale, fitting, scales, study_text
from sweeps.init.wordings import OWN, starter_pools, with_own
from sweeps.plan.sizes import data_sizes, model_size
from sweeps.plan.token_counts import model_of
from sweeps.prompts.files import pool_text
from sweeps.study.load import load_study
from sweeps.study.study import Study
from sweeps.trials.assets import SPLITS, load_assets, task_of, templates_of
from sweeps.trials.load_content import content_of
from sweeps.trials.long_rows import without_long_rows
from trainer.data.assets import Assets
from trainer.data.pools import load_pool
from trainer.data.rows import first_few
from trainer.data.wording import Prompt
from trainer.model.architecture import check_architecture, positions
from trainer.trial import Model

EMBEDDED = "embedded"  # names the model that is shipped, for trying things out
LONGEST = 1024  # tokens of a sequence, where the user says nothing: longer rows cost a CPU minutes
UNEVEN = 0.7  # of the train rows with one label, above which `check` warns of accuracy and of unbalanced training
SMALL_MODEL = 20_000_000  # parameters, below which a host has as many slots as usual
Say = Callable[[str], None]


@dataclass(frozen=True)
class Wanted:
    """What the user asks of the study."""

    model: str
    folder: Path
    minutes: float
    max_length: int | None = None
    wordings: str | None = None  # a file of the user's own
    about: str = ""  # what the task asks, in a sentence


@dataclass(frozen=True)
class Begun:
    """What was written."""

    study: Path
    findings: Findings
    minutes: float  # that `plan` expects


def begin(data: str, given: Given, wanted: Wanted, say: Say, ask: Ask) -> Begun:
    """Write rows, three pools and a study into ``wanted.folder``. Raises ``UserError``; nothing is left then."""
    name = study_name(wanted.folder)
    if wanted.folder.exists():
        raise DataError(f"{wanted.folder} is there already, and init overwrites nothing. Name another with --to")
    own = load_pool(wanted.wordings) if wanted.wordings is not None else []
    check_architecture(Model(model_path(wanted.model), ""))
    examples = collect(data, given, ask)
    parts = divided(examples.splits, examples.notes)
    _tell(examples, parts, say)
    wanted.folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=wanted.folder.parent) as scratch:
        made = Path(scratch) / name
        made.mkdir()
        pools = _pools(examples, own, wanted.about, say)
        minutes, findings = _write(made, data, examples, parts, pools, wanted, say)
        os.rename(made, wanted.folder)
    return Begun(wanted.folder / f"{name}.yaml", findings, minutes)


def study_name(folder: Path) -> str:
    """A name that a study may have, from the folder's."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", folder.name).strip("-.")[:100] or "study"


def model_path(name: str) -> str:
    """Where the model is: the shipped one, a folder, or a hub name."""
    if name == EMBEDDED:
        return str(Path(__file__).resolve().parents[1] / "embedded" / "model")
    return os.path.abspath(name) if os.path.isdir(name) else name


def _tell(examples: Examples, parts: Mapping[str, Sequence[DataRow]], say: Say) -> None:
    kind = f"{len(examples.all[0].options)} options a row" if examples.kind == "options" else "labels"
    say(f"fields    {', '.join(examples.fields)}; answered with {kind}")
    for split in SPLITS:
        counts = Counter(_answer(examples, e) for e in parts[split])
        shares = ", ".join(f"{name} {n:,}" for name, n in sorted(counts.items(), key=lambda item: -item[1])[:12])
        say(f"{split:<9} {len(parts[split]):,} rows: {shares}")
    for note in examples.notes:
        say(f"note      {note}")


def _answer(examples: Examples, example: DataRow) -> str:
    return LETTERS[int(example.answer)] if examples.kind == "options" else examples.names[example.answer]


# writing -----------------------------------------------------------------------------------------------------------


def _write(
    folder: Path,
    data: str,
    examples: Examples,
    parts: Mapping[str, Sequence[DataRow]],
    pools: Mapping[str, Sequence[Prompt]],
    wanted: Wanted,
    say: Say,
) -> tuple[float, Findings]:
    """Returns the minutes that ``plan`` expects, and the findings of the check."""
    name, model = folder.name, model_path(wanted.model)
    (folder / "prompts").mkdir()
    for split, prompts in pools.items():
        header = [f"The {split} wordings of {name}. The starters are steadytune's; edit them, or put your own first."]
        (folder / "prompts" / f"{split}.yaml").write_text(pool_text(header, {"": prompts}), "utf-8")
    asked = wanted.max_length or LONGEST
    outlined = Outlined(
        name=name,
        source=data,
        model=model,
        fields=examples.fields,
        labels=_labels(examples),
        options=examples.kind == "options",
        templates=_templates(model, examples.wording.system if examples.wording else ""),
        first_prompt=pools["train"][0].id,
        max_length=min(asked, positions(Model(model, "")) or asked),
        uneven=examples.kind == "labels" and _is_uneven(parts["train"]),
        resources={},
    )
    file = folder / f"{name}.yaml"

    def written(scale: Scale) -> Study:
        file.write_text(study_text(outlined, scale), "utf-8")
        return load_study(file)

    counts = {split: len(pool) for split, pool in pools.items()}
    _write_rows(folder, parts, examples)
    study = written(_everything(parts, counts))
    assets = _measured(study, load_assets(study), asked, say)
    kept = {split: {row.id for row in assets.rows[split]} for split in SPLITS}
    parts = {split: [e for e in parts[split] if e.id in kept[split]] for split in SPLITS}
    _write_rows(folder, parts, examples)
    size = model_size(study)
    outlined = dataclasses.replace(outlined, resources=_resources(size.parameters < SMALL_MODEL))
    everything = written(_everything(parts, counts))
    choices = list(scales({split: len(some) for split, some in parts.items()}, counts))
    scale, minutes = fitting(str(file), choices, wanted.minutes, data_sizes(everything, assets), size)
    _say_scale(scale, minutes, wanted.minutes, say)
    study = written(scale)
    return minutes, preflight(study, content_of(study))


def _labels(examples: Examples) -> Mapping[str, str]:
    """The name of each label; of options their letters."""
    if examples.kind == "labels":
        return examples.names
    return {str(i): LETTERS[i] for i in range(len(examples.all[0].options))}


def _is_uneven(examples: Sequence[DataRow]) -> bool:
    return Counter(e.answer for e in examples).most_common(1)[0][1] > UNEVEN * len(examples)


def _everything(parts: Mapping[str, Sequence[DataRow]], prompts: Mapping[str, int]) -> Scale:
    """All rows and wordings, before it is known how many of them there is time for."""
    return Scale(1, len(parts["dev"]), len(parts["test"]), prompts["dev"], prompts["test"], 2)


def _pools(examples: Examples, own: Sequence[Prompt], about: str, say: Say) -> dict[str, list[Prompt]]:
    """``own`` are the user's wordings; ``about`` is what the task asks, if it was said."""
    options, names = len(examples.all[0].options), list(examples.names.values())
    if not about and names and not speak_for_themselves(names):
        about = question_of(examples.wording)
        if not about:
            say(
                f"note      the labels {', '.join(names[:6])} don't say what is asked, so the starter wordings don't "
                "either. Give the question with --about, or name the labels with --names"
            )
    starters = starter_pools(examples.fields, names, options, about)
    found = [Prompt(f"{OWN}{i}", text) for i, text in enumerate(own_wording(examples.wording), 1)]
    return with_own([*own, *found], starters, examples.fields)


def _write_rows(folder: Path, parts: Mapping[str, Sequence[DataRow]], examples: Examples) -> None:
    (folder / "rows").mkdir(exist_ok=True)
    for split, some in parts.items():
        records = (
            {"id": e.id, **e.fields, **({"options": list(e.options)} if e.options else {}), "label": e.answer}
            for e in some
        )
        text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
        (folder / "rows" / f"{split}.jsonl").write_text(text, "utf-8", newline="\n")


def _templates(model: str, system: str) -> dict[str, dict[str, Any]]:
    """Two templates that suit the model: its chat template where it has one, and plain text."""
    words = {"system": f"{system}\n"} if system else {}
    plain = {**words, "marker": "\nAnswer:"}
    chat = chat_template_of(model, system)
    return {"plain": plain, "arrow": {**words, "marker": "\n->"}} if chat is None else {"chat": chat, "plain": plain}


def _resources(small: bool) -> dict[str, int]:
    """One host with the whole machine: its GPU, or all cores."""
    import torch

    if torch.cuda.is_available():
        return {"slots": 8, "gpus": 1}
    return {"slots": 8 if small else 4, "cpus": cpu_count()}


def _measured(study: Study, assets: Assets, asked: int, say: Say) -> Assets:
    """The assets without rows that are too long for the model, or longer than ``asked``; says how many these are."""
    templates, limit = list(templates_of(study).values()), study.task.max_length
    kept, dropped = without_long_rows(assets, SPLITS, model_of(study), task_of(study.task), templates)
    whose = "all that the model reads" if limit < asked else "the limit (--max-length gives another)"
    for d in dropped:
        say(
            f"note      {len(d.ids):,} of {d.of:,} {d.split} rows left out: with some wording they need more than "
            f"{limit:,} tokens, which is {whose} ({first_few(d.ids)})"
        )
    return kept


def _say_scale(scale: Scale, minutes: float, allowed: float, say: Say) -> None:
    say(
        f"study     12 trials of {scale.steps} steps; {scale.dev_prompts} dev wordings on "
        f"{counted(scale.dev_rows, 'row')}, {scale.test_prompts} test wordings on {counted(scale.test_rows, 'row')}"
    )
    text = f"time      about {duration(60 * minutes)} here, as `steadytune plan` expects it"
    if minutes > allowed:
        text += f"; no smaller study makes sense, so --minutes {allowed:g} is not met. A GPU or a smaller model would"
    say(text)
