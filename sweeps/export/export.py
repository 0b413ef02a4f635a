"""``steadytune export``: write one trial of a run as a folder that peft and ``steadytune predict`` load.

    adapter_config.json, adapter_model.safetensors   the adapter, in peft's format
    template.json                                    how its input was made: ``ExportedTrial``
    reference.json                                   how it answered the rows of its study, for ``monitor``
    README.md                                        the model card
    SHA256SUMS                                       checksums, which ``predict`` verifies

With ``merge`` the adapter is in the base's weights instead (``sweeps.export.merged``). It reads the run folder, and the
base model where that is at hand: peft reads the adapter back on it, and answers a few rows, before a file is written.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs

from sweeps.display.text import SHORTEST_ID
from sweeps.export.adapter_files import sound_adapter
from sweeps.export.card import Measurements, card
from sweeps.export.exported import ADAPTER, REFERENCE, SUMS, TEMPLATE, ExportedTrial, checksums, folder_checksums
from sweeps.export.hub_metadata import licence_of
from sweeps.export.merged import appearing, check_at_hand, enough_memory, local_folder, merge_into, plan_merge
from sweeps.export.push import repository
from sweeps.export.reference import reference_of
from sweeps.export.use_text import summary
from sweeps.run_folder.find import did_you_mean
from sweeps.run_folder.prompts import kept_prompts
from sweeps.run_folder.reading import RunFolder
from sweeps.run_folder.trials_file import TRIALS_FILE
from sweeps.statistics import binary
from sweeps.study.study import Study
from sweeps.tables import robustness as tables
from sweeps.tables.columns import Settings, answer_marks
from sweeps.tables.current import current_tables, winning_row
from sweeps.tables.winner import why_no_winner
from sweeps.trials.assets import load_pools, source_of
from trainer.data.pools import fingerprint_prompts
from trainer.data.wording import Prompt
from trainer.errors import UserError, nearest
from trainer.measure import metrics
from trainer.measure.grid import Grid
from trainer.model.weights import model_folder
from trainer.store import Store
from trainer.trial import Trial

log = logging.getLogger("steadytune")


def export(
    run_uri: str,
    trial_id: str | None,
    to: str,
    *,
    merge: bool = False,
    dtype: str | None = None,
    base: str | None = None,
    push: str | None = None,
    public: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> str:
    """Write the trial (default: the winner) into the new or empty folder ``to``; returns ``to``, or with ``push`` the
    repository's address. ``merge``: write merged weights, in ``dtype`` (default: that of the base's files). ``base``:
    where the base model is now; ``push``: a repository OWNER/NAME of the hub to upload to, private but for ``public``.
    ``say`` is told what is done. Raises UserError."""
    run, target = RunFolder(Store.open(run_uri)), Store.open(to)
    _refuse_full(target, to)
    if dtype is not None and not merge:
        raise UserError(f'--dtype = "{dtype}" is of merged weights. Add --merge, or leave --dtype out')
    if public and push is None:
        raise UserError("--public is of a repository on the hub. Add --push OWNER/NAME, or leave --public out")
    folder = local_folder(target, "--to") if merge or push else None
    destination = repository(push, public) if push is not None else None
    study = run.study
    chosen = _trial_named(run, trial_id) if trial_id is not None else _winning_trial(run)
    adapter = _adapter(run, chosen)
    trial, measured, counts = _measurements(run, chosen)
    if TRIALS_FILE in run.damaged_files:
        raise UserError("\n".join(run.damage))
    adapter = sound_adapter(run, trial, measured.rung, adapter)
    pools = _prompts(run.store, study, trial)
    best = max(measured.dev, key=lambda i: measured.dev[i])
    prompt = next((p for p in pools["dev"] if p.id == best), None)
    found = ExportedTrial(
        trial, study.name, tuple(study.task.fields), study.task.options, study.task.id, prompt,
        {p.id: p.text for p in pools["train"]}, counts, measured.two_labels.get("threshold"),
        test_rows=source_of(study.task, "test"),
    )  # fmt: skip
    here = _located(trial, base)
    plan = plan_merge(here, folder, dtype) if merge and folder is not None else None
    licence = licence_of(None if trial.model.trust_remote_code else model_folder(here.model))
    tensors = _tensors(trial, adapter)
    known = reference_of(run.store, study, trial, prompt).to_json()
    reference = (json.dumps(known, ensure_ascii=False) + "\n").encode()
    with tempfile.TemporaryDirectory(prefix="steadytune-export-") as place:
        for name, data in adapter.items():
            Path(place, name).write_bytes(data)
        if plan is not None and folder is not None:
            found = replace(found, merged=plan.dtype)
            with appearing(folder) as part, enough_memory():
                figures = merge_into(part, plan, replace(found, trial=here), study, place, tensors, say)
                page = card(found, study, measured, merged=figures, licence=licence)
                _write_merged(Store.open(part), found, reference, page)
            say(summary(figures))
        else:
            unread = _read_back(here, place, tensors)
            if unread:
                log.warning("the export was not read back by peft: %s", unread)
            template, page = _template(found), card(found, study, measured, unread, licence=licence)
            summed = {**adapter, REFERENCE: reference}
            files = {**summed, "README.md": page.encode(), SUMS: checksums({**summed, TEMPLATE: template})}
            files[TEMPLATE] = template  # written last, so that an interrupted export is not taken for a whole one
            for name, data in files.items():
                target.write(name, data)
    if destination is None or folder is None:
        return to
    say(f"uploading {to} to {destination.name}")
    return destination.upload(folder)


def _template(found: ExportedTrial) -> bytes:
    return (json.dumps(found.to_json(), indent=2, ensure_ascii=False) + "\n").encode()


def _write_merged(store: Store, found: ExportedTrial, reference: bytes, page: str) -> None:
    """What stands beside merged weights."""
    store.write(TEMPLATE, _template(found))
    store.write(REFERENCE, reference)
    store.write(SUMS, folder_checksums(store))
    store.write("README.md", page.encode())


def _located(trial: Trial, base: str | None) -> Trial:
    """``trial`` with its base model where that is now."""
    if base is None:
        return trial
    if not os.path.isdir(base):
        raise UserError(f'--base = "{base}" is no folder.{did_you_mean(base)}')
    return replace(trial, model=replace(trial.model, path=os.path.abspath(base), revision=None))


def _refuse_full(target: Store, to: str) -> None:
    try:
        info = target.fs.get_file_info(target.root)
        full = info.type == pafs.FileType.Directory and target.fs.get_file_info(pafs.FileSelector(target.root))
    except OSError as error:
        raise UserError(f'--to = "{to}" cannot be looked into ({error}). Give a folder you may write to') from None
    if info.type == pafs.FileType.File:
        raise UserError(f'--to = "{to}" is a file. Give a new folder')
    if full:
        raise UserError(f'--to = "{to}" exists and is not empty. Give a new folder, or remove this one')


# which trial ----------------------------------------------------------------------------------------------------


def _trial_named(run: RunFolder, wanted: str) -> str:
    """The trial whose id is ``wanted``, or the only one whose id begins with it."""
    known = sorted({*run.trials_by_id, *run.store.folders("scores")})
    if wanted in known:
        return wanted
    begins = [i for i in known if len(wanted) >= SHORTEST_ID and i.startswith(wanted)]
    if len(begins) == 1:
        return begins[0]
    if begins:
        raise UserError(f'--trial = "{wanted}" is the beginning of {len(begins)} trials: {", ".join(begins)}')
    replicates = [i for i, row in run.trials_by_id.items() if row["configuration"] == wanted]
    if replicates:
        raise UserError(
            f'--trial = "{wanted}" is a configuration, of which every seed is a trial. Its trials: '
            f"{', '.join(replicates)}"
        )
    raise UserError(f'--trial = "{wanted}" is no trial of {run.store.uri}.{nearest(wanted, known)}')


def _winning_trial(run: RunFolder) -> str:
    """The winner of a finished run."""
    listed, store = run.trials_by_id, run.store
    if not run.is_finished:
        going = sum(row["status"] == "running" for row in listed.values())
        state = f"{going} of {len(listed)} trials are not done" if listed else "no trial is done"
        raise UserError(
            f"{store.uri}: the run is not finished ({state}), so its winner is not known. "
            f"{run.how_to_continue}, or name a trial with --trial"
        )
    made = current_tables(run)
    winner = winning_row(made)
    if winner is None:
        rows = made.robustness.to_pylist()
        statuses = [f"{r['trial_id']} ({', '.join([r['status'], *answer_marks(r, 'degenerate')])})" for r in rows]
        why = why_no_winner(rows, made.confirmation.to_pylist())
        raise UserError(f"{store.uri}: there is no winner: {why}. Name one with --trial: {', '.join(statuses[:20])}")
    return str(winner["trial_id"])


@dataclass(frozen=True)
class _Scored:
    """The rows of tables/robustness, tables/trials and tables/confirmation."""

    configurations: list[dict[str, Any]]
    trials: dict[str, dict[str, Any]]  # by id
    confirmed: list[dict[str, Any]]

    def configuration_of(self, trial_id: str) -> dict[str, Any]:
        """The row of its configuration, that of the fresh seeds if it was confirmed; empty where the trial is its only
        seed."""
        own = self.trials.get(trial_id, {}).get("configuration")
        fresh = [{**row, "n_seeds": row["n_report"]} for row in self.confirmed]
        found = [r for r in (*fresh, *self.configurations) if r["configuration"] == own and r["n_seeds"] > 1]
        return found[0] if found else {}


def _scored(run: RunFolder) -> _Scored:
    made = current_tables(run)
    by_id = {row["trial_id"]: row for row in made.trials.to_pylist()}
    return _Scored(made.robustness.to_pylist(), by_id, made.confirmation.to_pylist())


# what is known of it --------------------------------------------------------------------------------------------


def _adapter(run: RunFolder, trial_id: str) -> dict[str, bytes]:
    store, row = run.store, run.trials_by_id.get(trial_id, {})
    names = {name: f"adapters/{trial_id}/{name}" for name in ADAPTER}
    absent = [name for name in names.values() if not store.exists(name)]
    if absent:
        reason = f" ({row['reason']})" if row.get("reason") else ""
        ended = f": it is {row['status']}{reason}" if row else ""
        kept = [i for i in store.folders("adapters") if store.exists(f"adapters/{i}/{ADAPTER[1]}")]
        others = f"Trials that have one: {', '.join(kept[:20])}" if kept else f"No trial has one. {run.how_to_continue}"
        raise UserError(f"{store.uri}: trial {trial_id} has no adapter{ended}. {others}")
    return {name: store.read(at) for name, at in names.items()}


def _tensors(trial: Trial, adapter: Mapping[str, bytes]) -> dict[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        return load(adapter[ADAPTER[1]])
    except (SafetensorError, ValueError) as error:
        raise UserError(
            f"trial {trial.id}: its adapter is damaged ({error}). Remove adapters/{trial.id} and its last checkpoint, "
            "and run the study again"
        ) from None


def _read_back(trial: Trial, folder: str, tensors: Mapping[str, Any]) -> str:
    """Let peft read the adapter in ``folder`` on its base model, and compare. Why that could not be done; "" where it
    was. Raises UserError where peft reads something else than was trained."""
    from trainer.model.device import out_of_memory
    from trainer.model.export_check import check_export

    try:
        check_at_hand(trial)
    except UserError as error:
        return str(error)
    try:
        check_export(trial, folder, tensors)
    except (RuntimeError, MemoryError) as error:
        if not isinstance(error, MemoryError) and not out_of_memory(error):
            raise
        return "this machine has too little memory for its base model"
    return ""


def _measurements(run: RunFolder, trial_id: str) -> tuple[Trial, Measurements, dict[str, int]]:
    """The trial as its last rung recorded it, its numbers, and how often each label occurs in the dev rows."""
    store, study, listed = run.store, run.study, run.trials_by_id
    further = any(run.went_on(trial_id, step) for step in run.store.rungs(trial_id, "dev"))
    run = RunFolder(store, beyond=True) if further else run  # the adapter is that of the trial's last step
    last = run.last_rung(trial_id, "dev")
    if last is None:
        raise UserError(f"{store.uri}: trial {trial_id} has no dev scores. {run.how_to_continue}")
    if last.grid is None:
        raise UserError(
            f"{store.uri}: trial {trial_id} ended in NaN at step {last.step}. Name another trial with --trial ID"
        )
    rung, grid, record = last.step, last.grid, last.record
    kept = [name.removesuffix(".safetensors") for name in store.names(f"checkpoints/{trial_id}")]
    trained = max((int(step) for step in kept if step.isdecimal()), default=rung)
    if trained > rung:
        raise UserError(
            f"{store.uri}: trial {trial_id} was trained to step {trained} and scored at step {rung} only. "
            f"{run.how_to_continue}"
        )
    try:
        trial = Trial.from_json(record["trial"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{store.uri}: trial {trial_id} was made by another version of steadytune ({error}). "
            "Export it with that version"
        ) from None
    dev = dict(zip(grid.prompts, metrics.per_prompt(grid, trial.task.metric).tolist(), strict=True))
    counts = {label: int((grid.label == k).sum()) for k, label in enumerate(trial.task.labels)}
    if trial_id in listed and not further:
        scored, status = _scored(run), str(listed[trial_id]["status"])
        row, whole = scored.trials.get(trial_id, {}), scored.configuration_of(trial_id)
    else:
        whole = {}
        settings = replace(Settings.of(study), metric=trial.task.metric)
        row = tables.of_one_trial(run, trial_id, settings)
        status = "of an earlier study in its run folder" if listed else "running"
    objective = metrics.grid_objective(grid, trial.task.metric, study.objective.std_weight)
    two = _of_two_labels(trial, grid, run.last_grid(trial_id, "test"))
    return trial, Measurements(rung, status, dev, len(grid.rows), objective, row, whole, two), counts


def _of_two_labels(trial: Trial, dev: Grid, test: Grid | None) -> dict[str, float | None]:
    """The threshold that is best on the dev prompts, and the figures of ``tables/binary`` where the whole test grid was
    scored. Empty where the label is not decided by the probabilities of two labels."""
    if len(trial.task.labels) != 2 or trial.scoring.decision != "raw" or dev.label_logprobs is None or dev.nan:
        return {}
    if test is None or test.label_logprobs is None or test.nan or test.seen is not None:
        return {"threshold": binary.tuned_threshold(dev)}
    return binary.binary_metrics(dev, test)


def _prompts(store: Store, study: Study, trial: Trial) -> dict[str, Sequence[Prompt]]:
    """The trial's train pool and the dev pool. If the run folder does not hold their texts, they are read from the
    study's files; a pool is empty if its file is gone or has changed."""
    kept = {pool: kept_prompts(store, getattr(trial.data, f"{pool}_prompts")) for pool in ("train", "dev")}
    if all(kept.values()):
        return {pool: prompts or () for pool, prompts in kept.items()}
    try:
        train, scored = load_pools(study.pools, study.axes.pool)
    except UserError as error:
        log.warning("the prompts' texts are left out: %s", error)
        return {"train": (), "dev": ()}
    found: dict[str, Sequence[Prompt]] = {"train": train.get(trial.pool, ()), "dev": scored["dev"]}
    for pool, expected in (("train", trial.data.train_prompts), ("dev", trial.data.dev_prompts)):
        if fingerprint_prompts(found[pool]) != expected:
            log.warning("the %s pool's files have changed since the run: its prompts' texts are left out", pool)
            found[pool] = ()
    return found
