"""``steadytune export``: one trial of a run as a folder that peft loads, and that ``steadytune predict`` answers with.

    adapter_config.json, adapter_model.safetensors   the adapter, in peft's format
    template.json                                    how its input was made: ``Exported``
    README.md                                        the model card

Read from the run folder alone, wherever it is. No model is loaded.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs

from sweeps.export.card import Measured, card
from sweeps.export.exported import ADAPTER, TEMPLATE, Exported
from sweeps.run_folder.prompts import kept_prompts
from sweeps.run_folder.reading import read_study
from sweeps.study.load import resolved
from sweeps.study.schema import Study
from sweeps.tables import robustness as tables
from sweeps.tables.winner import why_no_winner
from sweeps.trials.assets import load_pools
from trainer.data.pools import fingerprint_prompts
from trainer.data.wording import Prompt
from trainer.errors import UserError, nearest
from trainer.measure import metrics
from trainer.measure.grid import read_grid
from trainer.store import Store
from trainer.trial import Trial

log = logging.getLogger("steadytune")

SHORTEST = 4  # characters by which a trial may be named


def export(run_uri: str, trial_id: str | None, to: str) -> str:
    """Write the trial (default: the winner) into the new or empty folder ``to``; returns ``to``. Raises UserError."""
    store, target = Store.open(run_uri), Store.open(to)
    _refuse_full(target, to)
    study, _ = read_study(store)
    listed = _listed(store)
    chosen = _named(store, listed, trial_id) if trial_id is not None else _winner(store, study, listed)
    adapter = _adapter(store, chosen, listed.get(chosen, {}))
    trial, measured, counts = _measured(store, study, chosen, listed)
    pools = _prompts(store, study, trial)
    best = max(measured.dev, key=lambda i: measured.dev[i])
    prompt = next((p for p in pools["dev"] if p.id == best), None)
    found = Exported(
        trial, study.name, tuple(study.task.fields), study.task.options, study.task.id, prompt,
        {p.id: p.text for p in pools["train"]}, counts,
    )  # fmt: skip
    files = {**adapter, "README.md": card(found, study, measured).encode()}
    # Last: an export that was interrupted is none.
    files[TEMPLATE] = (json.dumps(found.to_json(), indent=2, ensure_ascii=False) + "\n").encode()
    for name, data in files.items():
        target.write(name, data)
    return to


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


def _listed(store: Store) -> dict[str, dict[str, Any]]:
    """The rows of ``trials.parquet`` by trial id; none where the run has not written it yet."""
    return {row["trial_id"]: row for row in _rows(store, "trials.parquet")}


def _rows(store: Store, name: str) -> list[dict[str, Any]]:
    if not store.exists(name):
        return []
    try:
        rows: list[dict[str, Any]] = store.read_table(name).to_pylist()
        return rows
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{store.uri}/{name}: is damaged ({error}). {_continue(store)} to write it anew") from None


def _named(store: Store, listed: Mapping[str, Any], wanted: str) -> str:
    """The id that ``wanted`` is, or alone begins with."""
    known = sorted({*listed, *store.folders("scores")})
    if wanted in known:
        return wanted
    begins = [i for i in known if len(wanted) >= SHORTEST and i.startswith(wanted)]
    if len(begins) == 1:
        return begins[0]
    if begins:
        raise UserError(f'--trial = "{wanted}" is the beginning of {len(begins)} trials: {", ".join(begins)}')
    raise UserError(f'--trial = "{wanted}" is no trial of {store.uri}.{nearest(wanted, known)}')


def _winner(store: Store, study: Study, listed: Mapping[str, Mapping[str, Any]]) -> str:
    """The best dev objective of a finished run."""
    going = sum(row["status"] == "running" for row in listed.values())
    if going or not listed:
        state = f"{going} of {len(listed)} trials are not done" if listed else "no trial is done"
        raise UserError(
            f"{store.uri}: the run is not finished ({state}), so its winner is not known. "
            f"{_continue(store)}, or name a trial with --trial"
        )
    rows = _robustness(store, study, listed)
    winner = next((i for i, row in rows.items() if row["winner"]), None)
    if winner is None:
        statuses = [f"{i} ({row['status']}{', degenerate' if row['degenerate'] else ''})" for i, row in rows.items()]
        raise UserError(
            f"{store.uri}: there is no winner: {why_no_winner(list(rows.values()))}. "
            f"Name one with --trial: {', '.join(statuses[:20])}"
        )
    return winner


def _continue(store: Store) -> str:
    study = f"{store.uri}/study.yaml" if "://" not in store.uri else "STUDY"
    return f"Continue it with: steadytune run {study} --out {store.uri}"


def _robustness(store: Store, study: Study, listed: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Trial id -> its row of tables/robustness: as written, or made again where it is older than the trials."""
    written = {row["trial_id"]: row for row in _rows(store, "tables/robustness.parquet")}
    same = written.keys() == listed.keys() and all(
        (row["status"], row["rung"]) == (listed[i]["status"], listed[i]["rung"])
        and (row["mean"] is not None or not store.rungs(i, "test"))
        for i, row in written.items()
    )
    if not same:
        written = {row["trial_id"]: row for row in tables.robustness(store, resolved(study)).to_pylist()}
    return written


# what is known of it --------------------------------------------------------------------------------------------


def _adapter(store: Store, trial_id: str, row: Mapping[str, Any]) -> dict[str, bytes]:
    names = {name: f"adapters/{trial_id}/{name}" for name in ADAPTER}
    absent = [name for name in names.values() if not store.exists(name)]
    if absent:
        reason = f" ({row['reason']})" if row.get("reason") else ""
        ended = f": it is {row['status']}{reason}" if row else ""
        kept = [i for i in store.folders("adapters") if store.exists(f"adapters/{i}/{ADAPTER[1]}")]
        others = f"Trials that have one: {', '.join(kept[:20])}" if kept else f"No trial has one. {_continue(store)}"
        raise UserError(f"{store.uri}: trial {trial_id} has no adapter{ended}. {others}")
    return {name: store.read(at) for name, at in names.items()}


def _measured(
    store: Store, study: Study, trial_id: str, listed: Mapping[str, Mapping[str, Any]]
) -> tuple[Trial, Measured, dict[str, int]]:
    """The trial as its last scored rung recorded it, its numbers, and how often each label occurs in the dev rows."""
    for rung in reversed(store.rungs(trial_id, "dev")):
        found = store.read_scores(trial_id, rung, "dev")
        if found is not None and found[0].num_rows:
            break
    else:
        raise UserError(f"{store.uri}: trial {trial_id} has no dev scores yet. {_continue(store)}")
    kept = [name.removesuffix(".safetensors") for name in store.names(f"checkpoints/{trial_id}")]
    trained = max((int(step) for step in kept if step.isdigit()), default=rung)
    if trained > rung:
        raise UserError(
            f"{store.uri}: trial {trial_id} was trained to step {trained} and scored at step {rung} only. "
            f"{_continue(store)}"
        )
    rows, record = found
    try:
        trial = Trial.from_json(record["trial"])
    except (KeyError, TypeError) as error:
        raise UserError(
            f"{store.uri}: trial {trial_id} was made by another version of steadytune ({error}). "
            "Export it with that version"
        ) from None
    grid = read_grid(rows, trial.task.labels, f"{store.uri}: trial {trial_id}, dev", record.get("sample"))
    dev = dict(zip(grid.prompts, metrics.per_prompt(grid, trial.task.metric).tolist(), strict=True))
    counts = {label: int((grid.label == k).sum()) for k, label in enumerate(trial.task.labels)}
    if trial_id in listed:
        row, status = _robustness(store, study, listed).get(trial_id, {}), str(listed[trial_id]["status"])
    else:
        settings = replace(tables.Settings.of(resolved(study)), metric=trial.task.metric)
        row = tables.of_one_trial(store, trial_id, settings)
        status = "of an earlier study in its run folder" if listed else "running"
    objective = metrics.grid_objective(grid, trial.task.metric, study.objective.std_weight)
    return trial, Measured(rung, status, dev, len(grid.rows), objective, row), counts


def _prompts(store: Store, study: Study, trial: Trial) -> dict[str, Sequence[Prompt]]:
    """The trial's train pool and the dev pool. Folders of before they were kept there: from the study's files; empty
    where those are gone or have changed."""
    kept = {pool: kept_prompts(store, getattr(trial.data, f"{pool}_prompts")) for pool in ("train", "dev")}
    if all(kept.values()):
        return {pool: prompts or () for pool, prompts in kept.items()}
    try:
        train, scored = load_pools(study)
    except UserError as error:
        log.warning("the prompts' texts are left out: %s", error)
        return {"train": (), "dev": ()}
    found: dict[str, Sequence[Prompt]] = {"train": train.get(trial.pool, ()), "dev": scored["dev"]}
    for pool, expected in (("train", trial.data.train_prompts), ("dev", trial.data.dev_prompts)):
        if fingerprint_prompts(found[pool]) != expected:
            log.warning("the %s pool's files have changed since the run: its prompts' texts are left out", pool)
            found[pool] = ()
    return found
