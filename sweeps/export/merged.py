"""``steadytune export --merge``: the adapter in its base's weights, in a folder that transformers alone loads.

    model.safetensors or shards, config.json         merged in float32, written in one dtype
    tokenizer, chat template, generation_config.json the base's own files
    template.json, README.md, SHA256SUMS             as of every export; ``predict`` reads the folder like any other

The folder appears when all of it is written and compared: weights in float32 with base and adapter, weights as they are
written with the trial as it was trained, both on the study's dev rows.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from sweeps.display.text import size
from sweeps.export.differences import MergeFigures, difference
from sweeps.export.exported import ExportedTrial, merged_trial
from sweeps.study.study import Study
from sweeps.trials.assets import source_of
from sweeps.trials.base_model import fingerprint_model
from trainer.data.rows import Row, read_rows
from trainer.data.wording import Prompt
from trainer.errors import UserError
from trainer.model.quantization import stored_bits
from trainer.model.weights import BYTES, Dtype, TensorHead, dtype_on_disk, model_folder, read_config, tensor_heads
from trainer.store import Store
from trainer.trial import Trial

if TYPE_CHECKING:
    from trainer.predictor import Prediction, Predictor

MOST_ROWS = 200  # dev rows, the first ones, that are compared
EXACT = 1e-3  # nats: what rounding in float32 may move a label's log-probability by; measured: up to 3e-5
BESIDE = 64 * 2**20  # bytes for tokenizer and the other files


@dataclass(frozen=True)
class MergePlan:
    """What is to be merged, once it is known that it can be."""

    base: Path
    heads: Mapping[str, TensorHead]
    dtype: Dtype


def local_folder(store: Store, option: str) -> Path:
    """The folder of a store that lies on this machine, from where weights are read and pushed. Raises ``UserError``."""
    if not store.is_local:
        raise UserError(f'{option} = "{store.uri}" is not on this machine, as merged and pushed files are. Give a path')
    return Path(store.root)


def check_at_hand(trial: Trial) -> None:
    """Raises ``UserError`` where the base model of a trial cannot be loaded here."""
    model = trial.model
    if model.trust_remote_code:
        raise UserError(f'its base model "{model.path}" brings code of its own, which export does not run')
    if model_folder(model) is None:
        raise UserError(f'its base model "{model.path}" is not at hand')
    try:
        found = fingerprint_model(model.path, model.revision)
    except UserError as error:
        raise UserError(f"its base model cannot be compared ({error})") from None
    if found != model.fingerprint:
        raise UserError(f'the files of its base model "{model.path}" are not those of the training')


def dense(trial: Trial) -> Trial:
    """``trial`` on its base in float32, not quantised: what is merged."""
    return replace(trial, model=replace(trial.model, dtype="float32", quantization="none"))


def plan_merge(trial: Trial, to: Path, dtype: str | None) -> MergePlan:
    """Raises ``UserError`` where the base model is not the one of the training, has no whole weights, or where the disk
    of ``to`` is too small for the merged ones."""
    try:
        check_at_hand(trial)
    except UserError as error:
        remedy = "Give the folder of the model that was trained on: --base DIR"
        if trial.model.trust_remote_code:
            remedy = "Leave out --merge, and merge with peft's merge_and_unload"
        raise UserError(f"--merge: {error}. {remedy}") from None
    base = model_folder(trial.model)
    assert base is not None
    if bits := stored_bits(read_config(base, trial.model.path)):
        raise UserError(
            f'--merge: the base model "{trial.model.path}" is stored in {bits} bits, and there are no whole weights to '
            "merge into. Leave out --merge"
        )
    heads = tensor_heads(base, trial.model.path)
    kind = cast("Dtype", dtype) if dtype else dtype_on_disk(heads)
    needed = BYTES[kind] * sum(head.numel for head in heads.values()) + BESIDE
    there = next(p for p in (to, *to.parents) if p.is_dir())
    free = shutil.disk_usage(there).free
    if free < needed:
        raise UserError(
            f'--to = "{to}": merged weights in {kind} take {size(needed)}, and {there} has {size(free)} free. Free '
            "space, give a folder on another disk, or a smaller --dtype"
        )
    return MergePlan(base, heads, kind)


@contextmanager
def appearing(folder: Path) -> Iterator[Path]:
    """A folder to write into, which becomes ``folder`` (new or empty) at the end; nothing is left of it otherwise."""
    part = folder.with_name(f"{folder.name}.{uuid.uuid4().hex[:8]}.part")
    part.mkdir(parents=True)
    try:
        yield part
        os.replace(part, folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


@contextmanager
def enough_memory() -> Iterator[None]:
    """Raises ``UserError`` where the memory within it does not suffice."""
    from trainer.model.device import out_of_memory

    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not isinstance(error, MemoryError) and not out_of_memory(error):
            raise
        raise UserError(
            "--merge: this machine has too little memory for the base model. Use one with more, or leave out --merge"
        ) from None


def merge_into(
    folder: Path, plan: MergePlan, exported: ExportedTrial, study: Study, adapter: str, tensors: Mapping[str, Any],
    say: Callable[[str], None],
) -> MergeFigures:  # fmt: skip
    """Write the merged weights and the base's files into ``folder``, and compare. ``adapter``: the local folder with
    peft's files, ``tensors`` what they hold. Raises ``UserError`` where the weights are not base and adapter."""
    from trainer.model.device import pick_device
    from trainer.model.export_check import check_export
    from trainer.model.merge import load_merged, merge, without_slots, write_merged
    from trainer.predictor import Predictor

    trial, whole = exported.trial, dense(exported.trial)
    here = merged_trial(trial, str(folder), plan.dtype)
    asked = _asked(exported, study)
    check_export(trial, adapter, tensors)
    say("answering dev rows with base and adapter")  # one model at a time: there may be room for no more
    exact = asked.answers(Predictor(whole, tensors))
    trained = exact if whole == trial else asked.answers(Predictor(trial, tensors))
    say("merging, and answering dev rows with the merged weights")
    model = merge(whole, adapter, tensors)
    write_merged(model, whole, plan.base, plan.heads, folder, plan.dtype)
    written = asked.answers(Predictor(here, load_merged(here, model.state_dict())))
    in_float32 = written
    if plan.dtype != "float32":
        in_float32 = asked.answers(Predictor(whole, without_slots(model.to(pick_device()), whole)))
    if exact is None or trained is None or written is None or in_float32 is None:
        return MergeFigures(plan.dtype, None, None, unmeasured=asked.missing)
    rounding = difference(in_float32, exact)
    if rounding.scores is not None and not rounding.scores <= EXACT:
        raise UserError(
            f"trial {trial.id}: its adapter was not merged, as in float32 a label's log-probability differs by "
            f"{rounding.scores:.3g} nats from that of base and adapter. Leave out --merge"
        )
    return MergeFigures(plan.dtype, rounding, difference(written, trained), asked.of, asked.wording.id)


@dataclass(frozen=True)
class _Asked:
    """Dev rows that are answered in one wording; none where ``missing`` says why."""

    wording: Prompt
    rows: Sequence[Row] = ()
    of: int = 0  # dev rows of the study
    label_counts: Sequence[int] | None = None
    missing: str = ""

    def answers(self, predictor: Predictor) -> list[Prediction] | None:
        """None where there are no rows."""
        return predictor.predict(self.wording, self.rows, self.label_counts) if self.rows else None


def _asked(exported: ExportedTrial, study: Study) -> _Asked:
    """The first ``MOST_ROWS`` dev rows that fit, in the default wording."""
    from trainer.data.render import Renderer
    from trainer.data.tokenizer import load_tokenizer

    trial = exported.trial
    wording = exported.prompt or next((Prompt(i, text) for i, text in exported.train_prompts.items()), None)
    if wording is None:
        return _Asked(Prompt("", ""), missing="no wording is at hand")
    try:
        dev = read_rows(source_of(study.task, "dev"), "dev", "task.rows.dev").rows
    except UserError as error:
        return _Asked(wording, missing=f"the dev rows cannot be read ({str(error).splitlines()[0]})")
    renderer = Renderer(load_tokenizer(trial.model), trial.template, trial.task)
    lengths = renderer.lengths([(wording, row) for row in dev])
    fitting = [row for row, n in zip(dev, lengths, strict=True) if n <= trial.task.max_length]
    counts = [exported.label_counts.get(label, 0) for label in trial.task.labels] or None
    missing = "" if fitting else f"no dev row fits into {trial.task.max_length} tokens"
    return _Asked(wording, fitting[:MOST_ROWS], len(dev), counts, missing)
