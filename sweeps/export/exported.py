"""``template.json`` of an export: what ``predict`` needs besides the weights."""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from hashlib import file_digest, sha256
from typing import Any

from trainer.data.sources import RowSource
from trainer.data.wording import Prompt
from trainer.errors import UserError
from trainer.measure.registry import misfit
from trainer.model.weights import Dtype
from trainer.store import Store
from trainer.trial import Trial

log = logging.getLogger("steadytune")

_UNKNOWN_KEY = re.compile(r"(\w+)\.__init__\(\) got an unexpected keyword argument (.*)")  # Python's own words
FORMAT = 1  # of template.json
MOST_NEW_TOKENS = 4096  # an answer is a label; more would take a machine for hours
TEMPLATE = "template.json"
REFERENCE = "reference.json"
SUMS = "SHA256SUMS"
ADAPTER = ("adapter_config.json", "adapter_model.safetensors")
TRANSFORMERS_READS = (".safetensors", ".json", ".model", ".txt", ".jinja", ".tiktoken", ".py")


@dataclass(frozen=True)
class ExportedTrial:
    """The content of ``template.json``."""

    trial: Trial
    study: str
    fields: tuple[str, ...]  # columns that its prompts may use
    options: str | None  # column with the row's own options
    id: str | None
    prompt: Prompt | None  # the default prompt; None if its text could not be found
    train_prompts: Mapping[str, str]  # the prompts it was trained on, id -> text
    label_counts: Mapping[str, int]  # how often each label occurs in the dev rows, for decision "batch"
    # of two labels: above this probability of the second one macro-F1 is best on the dev rows and prompts. None where
    # there is none: other tasks, generated answers, and decision rules that compare more than the stored probabilities
    threshold: float | None = None
    merged: Dtype | None = None  # dtype of merged weights; None: it is an adapter
    test_rows: RowSource | None = None  # where the study's test rows are; the rows themselves stay there

    def to_json(self) -> dict[str, Any]:
        names = ("study", "fields", "options", "id", "train_prompts", "label_counts", "threshold", "merged")
        about = {name: getattr(self, name) for name in names}
        prompt = asdict(self.prompt) if self.prompt else None
        rows = json.loads(json.dumps(asdict(self.test_rows), default=str)) if self.test_rows else None  # where: dates
        about |= {"test_rows": rows, "trial": self.trial.to_json()}
        return {"format": FORMAT, "trial_id": self.trial.id, "prompt": prompt, **about}


def merged_trial(trial: Trial, folder: str, dtype: Dtype) -> Trial:
    """``trial`` with the merged weights in ``folder`` in the place of its base. No code comes with them."""
    model = replace(trial.model, path=folder, revision=None, dtype=dtype, quantization="none", trust_remote_code=False)
    return replace(trial, model=model)


def read_exported(store: Store) -> ExportedTrial:
    """Read the ``template.json`` of an export. UserError if it is missing or damaged."""
    where = f"{store.uri}/{TEMPLATE}"
    if not store.exists(TEMPLATE):
        raise UserError(f"{where}: no such file. Give a folder that `steadytune export RUN --to DIR` wrote")
    try:
        about = json.loads(store.read(TEMPLATE))
        if about["format"] != FORMAT:
            raise UserError(
                f"{where}: format = {about['format']!r:.40} is not known, this version reads {FORMAT}. "
                "Export the trial again with this version, or use the one that wrote it"
            )
        json.dumps(about, ensure_ascii=False).encode()  # half a surrogate pair is no text
        prompt = Prompt(**about["prompt"]) if about["prompt"] else None
        parts = {name: about[name] for name in ("study", "options", "id", "train_prompts", "label_counts")}
        trial = Trial.from_json(about["trial"])
        parts |= {name: about.get(name) for name in ("threshold", "merged")}
        rows = _row_source(about.get("test_rows"))  # exports of before have none of the three
        found = ExportedTrial(trial, prompt=prompt, fields=tuple(about["fields"]), **parts, test_rows=rows)
        _check_types(found)
        return found
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        text = _UNKNOWN_KEY.sub(r"\1 has no field \2", " ".join(str(error).split()))[:200]
        detail = f"{type(error).__name__}: " + "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
        raise UserError(f"{where}: is not what export writes ({detail}). Export the trial again") from None


def _row_source(about: Any) -> RowSource | None:
    if about is None:
        return None
    parts: dict[str, Any] = {k: tuple(v) if k in ("fields", "drop") else v for k, v in about.items()}
    return RowSource(**parts)


def _check_types(found: ExportedTrial) -> None:
    """ValueError for a value of another type than its field's, or one that no study can give."""
    from pydantic import TypeAdapter, ValidationError

    try:
        TypeAdapter(ExportedTrial).validate_json(json.dumps(asdict(found)), strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise ValueError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    trial = found.trial
    wrong = misfit(trial.task.metric, trial.task.labels)
    for what, sound in (
        ("fields is empty", bool(found.fields)),
        ("trial.lora.r is less than 1", trial.lora.r > 0),
        ("trial.lora.alpha is no number", math.isfinite(trial.lora.alpha)),
        (f"trial.task.metric {wrong}", not wrong),
        ("trial.task.max_length is less than 1", trial.task.max_length > 0),
        ("trial.scoring.max_new_tokens is out of range", 0 < trial.scoring.max_new_tokens <= MOST_NEW_TOKENS),
        ("threshold is no probability", found.threshold is None or 0 <= found.threshold <= 1),
        ("label_counts has a number below 0", all(n >= 0 for n in found.label_counts.values())),
        ("neither trial.task.labels nor options is given", bool(trial.task.labels) or found.options is not None),
        ("trial.task.labels names a label twice", len(set(trial.task.labels)) == len(trial.task.labels)),
    ):  # fmt: skip
        if not sound:
            raise ValueError(what)


def checksums(files: Mapping[str, bytes]) -> bytes:
    """The content of ``SHA256SUMS`` for ``files``: `sha256sum -c SHA256SUMS` checks it too."""
    return _sums({name: sha256(data).hexdigest() for name, data in files.items()})


def folder_checksums(store: Store) -> bytes:
    """The same for all files of a folder but the card."""
    return _sums({name: _digest(store, name) for name in store.names("") if name not in ("README.md", SUMS)})


def _sums(digests: Mapping[str, str]) -> bytes:
    return "".join(f"{digest}  {name}\n" for name, digest in sorted(digests.items())).encode()


def _digest(store: Store, name: str) -> str:
    if not store.is_local:
        return sha256(store.read(name)).hexdigest()
    with open(store.path(name), "rb") as file:  # merged weights may be larger than the memory
        return file_digest(file, "sha256").hexdigest()


def check_sums(store: Store, files: Sequence[str], every: bool = False) -> None:
    """UserError where one of ``files`` of an export is not the one that was written; a warning for exports of before,
    which have no checksums. ``every``: so are all files that were written or that transformers may read."""
    if not store.exists(SUMS):
        log.warning("%s: unchecked, as it has no %s: a damaged weight would go unseen", store.uri, SUMS)
        return
    lines = [line.split(maxsplit=1) for line in store.read(SUMS).decode(errors="replace").splitlines() if line.strip()]
    given = {parts[1].lstrip("*"): parts[0] for parts in lines if len(parts) == 2}
    if every:
        files = [*(name for name in store.names("") if name.endswith(TRANSFORMERS_READS)), *given, *files]
    for name in dict.fromkeys(files):
        if name not in given:
            raise UserError(f"{store.uri}/{SUMS}: does not name {name}. Export the trial again")
        if not store.exists(name):
            raise UserError(f"{store.uri}/{name}: no such file. Export the trial again")
        if _digest(store, name) != given[name]:
            raise UserError(
                f"{store.uri}/{name}: is not the file that was exported, by its checksum in {SUMS}. Export the trial "
                f"again; if you changed it yourself, remove {SUMS}"
            )
