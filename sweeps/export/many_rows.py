"""``steadytune predict DIR [DIR ...] --rows ROWS --out FOLDER``: answer parquet files of any size, on Ray Data.

The rows are divided into parts of ``PART`` rows. Ray Data hands them to workers, which hold a base model each, and a
worker writes the answers of a part as one file, whole or not at all. So memory does not grow with the rows, and a
command that was ended goes on where it was: a part whose file is there is not answered again. ``answers.json`` says
what the answers are of, and other rows, another export or other options are refused in the same folder.
"""

from __future__ import annotations

import io
import json
import logging
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from cluster.connect import connected
from cluster.ray_private import cpu_count
from sweeps.export.answers import answer_table
from sweeps.export.exported import ADAPTER, SUMS, TEMPLATE
from sweeps.export.one_base import folder_name
from sweeps.export.predict import BaseDtype, ExportedAdapter, open_exports
from trainer.errors import UserError
from trainer.store import Store, StoreError
from trainer.trial import digest

if TYPE_CHECKING:
    import pyarrow as pa

log = logging.getLogger("steadytune")

PART = 20_000  # rows of a file of answers: minutes of a small model's work at most, and little memory
MANIFEST = "answers.json"
FORMAT = 1  # of the manifest
Say = Callable[[str], None]


@dataclass(frozen=True)
class Asking:
    """What every worker is told. The fields are the arguments of ``open_exports`` and ``records``."""

    folders: tuple[str, ...]
    out: str
    prompt: str | None = None
    base: str | None = None
    dtype: BaseDtype | None = None
    trust_remote_code: bool = False
    threshold: str | None = None


@dataclass(frozen=True)
class RowFile:
    """A parquet file of rows. ``name``: its path below the folder that was given, without its ending; ``footer``: a
    digest of the parquet footer, which another content changes."""

    path: str
    name: str
    rows: int
    footer: str


@dataclass(frozen=True)
class RowPart:
    """``n`` rows of ``path`` from position ``first`` on, and the file of their answers."""

    path: str
    first: int
    n: int
    answers: str


def predict_many(asking: Asking, rows: str, workers: int | None = None, say: Say = print) -> int:
    """Answer every row of the parquet file, folder or pattern ``rows`` into the folder ``asking.out``; returns 0.

    ``workers``: how many hold a base model; default: one for each GPU of the cluster, without GPUs one. Raises
    UserError."""
    base = os.path.abspath(asking.base) if asking.base and os.path.isdir(asking.base) else asking.base  # or a hub name
    folders = tuple(map(_absolute, asking.folders))
    out_at = _absolute(asking.out)
    asking = replace(asking, folders=folders, out=out_at, base=base)  # a worker may run in another folder
    exports = open_exports(asking.folders, asking.base, asking.dtype, asking.trust_remote_code)
    exports.check_options(asking.prompt, asking.threshold)
    for folder, adapter in zip(asking.folders, exports.adapters, strict=True):
        scoring = adapter.exported.trial.scoring
        if scoring.decision != "batch" or scoring.scorer != "labels":
            continue
        raise UserError(
            f'{folder}: its decision rule "batch" takes off the mean over all rows that are asked together, so '
            "rows that are answered in parts would get other answers. Give --out a file, so that they are answered in "
            "one process, or export a trial with scoring.decision=raw"
        )
    files = files_of(rows)
    out = Store.open(asking.out)
    _claim(out, _about(asking, exports.adapters), files)
    parts = [part for file in files for part in parts_of(file)]
    there = {p.answers for p in parts if out.exists(p.answers)}
    left = [p for p in parts if p.answers not in there]
    done = sum(p.n for p in parts if p.answers in there)
    total = sum(f.rows for f in files)
    if done:
        say(f"{done:,} of {total:,} rows were answered before")
    warned: set[str] = set()
    for answered in _answered(asking, left, workers):
        done += answered["n"]
        for warning in answered["warnings"]:
            if warning not in warned:
                warned.add(warning)
                log.warning("%s", warning)
        say(f"{done:,} of {total:,} rows answered")
    if lost := [p.answers for p in left if not out.exists(p.answers)]:
        raise UserError(
            f"--out: {len(lost)} of {len(parts)} parts were answered, and {out.address(lost[0])} is not there: a node "
            "wrote into a folder of its own. Give a folder that every node reaches, such as s3://…"
        )
    say(f"{asking.out}: the answers to {total:,} rows of {len(files)} files, in {len(parts)} parts")
    return 0


def _absolute(place: str) -> str:
    return place if "://" in place else os.path.abspath(place)


# rows ----------------------------------------------------------------------------------------------------------------


def files_of(rows: str) -> list[RowFile]:
    """The parquet files of a path or URL: a file, all files below a folder, or those that a pattern with * matches.
    Raises UserError."""
    import fsspec

    try:
        fs, path = fsspec.core.url_to_fs(rows)
        if any(c in path for c in "*?["):
            base, found = os.path.dirname(path.split("*")[0].split("?")[0].split("[")[0]), fs.glob(path)
        elif fs.isdir(path):
            base, found = path, [p for p in fs.find(path) if p.endswith(".parquet")]
        else:
            base, found = os.path.dirname(path), [path] if fs.exists(path) else []
    except (OSError, ValueError, ImportError) as error:
        raise UserError(f'--rows = "{rows}": cannot be read ({error})') from None
    if not found:
        raise UserError(
            f'--rows = "{rows}": no parquet file there. Give a parquet file, a folder of them, or a pattern such as '
            "'rows/*.parquet'; other files are answered in one process: --out FILE"
        )
    files = [_row_file(fs, p, base) for p in sorted(found)]
    if not any(f.rows for f in files):
        raise UserError(f'--rows = "{rows}": its {len(files)} files have no rows')
    return files


def _row_file(fs: Any, path: str, base: str) -> RowFile:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with fs.open(path, "rb") as file:
            file.seek(-8, io.SEEK_END)
            length = int.from_bytes(file.read(4), "little")
            file.seek(-8 - length, io.SEEK_END)
            footer = file.read(length)
            n = pq.read_metadata(file).num_rows
    except (OSError, ValueError, pa.ArrowException) as error:
        raise UserError(f"{path}: is no parquet file, or damaged ({' '.join(str(error).split())})") from None
    name = os.path.relpath(path, base or ".").removesuffix(".parquet")
    return RowFile(
        path if "file" in fs.protocol else fs.unstrip_protocol(path), name, n, sha256(footer).hexdigest()[:16]
    )


def parts_of(file: RowFile) -> list[RowPart]:
    return [
        RowPart(file.path, first, min(PART, file.rows - first), f"{file.name}-{number:05d}.parquet")
        for number, first in enumerate(range(0, file.rows, PART))
    ]


def read_part(part: RowPart) -> pa.Table:
    """The rows of a part, from the row groups that hold them."""
    import fsspec
    import pyarrow as pa
    import pyarrow.parquet as pq

    with fsspec.open(part.path, "rb") as opened:
        file = pq.ParquetFile(opened)
        groups: list[int] = []
        first = position = 0
        for i in range(file.num_row_groups):
            n = file.metadata.row_group(i).num_rows
            if position < part.first + part.n and position + n > part.first:
                first = first if groups else position
                groups.append(i)
            position += n
        found, at = [], first
        for batch in file.iter_batches(row_groups=groups):
            low, high = max(part.first - at, 0), min(part.first + part.n - at, batch.num_rows)
            if low < high:
                found.append(batch.slice(low, high - low))
            at += batch.num_rows
            if at >= part.first + part.n:
                break
        return pa.Table.from_batches(found, schema=file.schema_arrow)


# the folder of answers -----------------------------------------------------------------------------------------------


def _about(asking: Asking, adapters: Sequence[ExportedAdapter]) -> dict[str, Any]:
    """What the answers are of, by the name that a message gives it."""
    digests = [_export_digest(folder, a) for folder, a in zip(asking.folders, adapters, strict=True)]
    several = [[folder_name(folder), own] for folder, own in zip(asking.folders, digests, strict=True)]
    return {
        "export": several if len(several) > 1 else digests[0],
        "base": adapters[0].exported.trial.model.fingerprint,
        "--prompt": asking.prompt,
        "--dtype": asking.dtype,
        "--threshold": asking.threshold,
        "part": PART,
    }


def _export_digest(folder: str, adapter: ExportedAdapter) -> str:
    store = Store.open(folder)
    weights = ADAPTER if adapter.exported.merged is None else (SUMS,)  # which holds the checksums of merged weights
    return digest([sha256(store.read(name)).hexdigest() for name in (TEMPLATE, *weights) if store.exists(name)])


def _claim(out: Store, about: Mapping[str, Any], files: Sequence[RowFile]) -> None:
    """Write the manifest of ``out``. UserError where the folder holds answers of something else, or other files."""
    known = {f.name: [f.rows, f.footer] for f in files}
    if out.exists(MANIFEST):
        try:
            there = json.loads(out.read(MANIFEST))
            was, before = there["of"], there["rows"]
            if there["format"] != FORMAT or not isinstance(was, dict) or not isinstance(before, dict):
                raise ValueError("another format")
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"--out: {out.address(MANIFEST)} is damaged ({error}). Give another folder") from None
        other = [name for name, value in about.items() if was.get(name) != value]
        changed = sorted(name for name, what in known.items() if before.get(name, what) != what)
        if other:
            raise UserError(
                f"--out: {out.uri} holds answers with another {', '.join(other)}. Give another folder, or the same as "
                "before to go on"
            )
        if changed:
            raise UserError(
                f"--out: {out.uri} holds answers to {changed[0]}.parquet as it was before it changed. Remove "
                f"{out.address(changed[0])}-*.parquet and {MANIFEST}, or give another folder"
            )
        known = {**before, **known}
    elif names := [name for name in out.names("") if not name.startswith(".")]:
        raise UserError(
            f"--out: {out.uri} is not empty and no folder of answers: it holds {names[0]}. Give a new folder"
        )
    manifest = {"format": FORMAT, "of": dict(about), "rows": known}
    out.write(MANIFEST, json.dumps(manifest, indent=1).encode())


# workers -------------------------------------------------------------------------------------------------------------


class PartAnswerer:
    """A worker of Ray Data: one base model with the adapters; each call answers one part."""

    def __init__(self, asking: Asking, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        self.asking, self.out = asking, Store.open(asking.out)
        a = asking
        self.exports = open_exports(a.folders, a.base, a.dtype, a.trust_remote_code)

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, list[Any]]:
        [text] = batch["part"]
        part = RowPart(**json.loads(text))
        with _Warnings() as heard:
            try:
                records = self.exports.records(
                    read_part(part), self.asking.prompt, self.asking.threshold, first=part.first
                )
                self.out.write_table(part.answers, answer_table(records))
            except UserError as error:  # told as a result: of an exception Ray Data keeps the text alone
                where = "" if isinstance(error, StoreError) else _place(part)
                return {"n": [0], "warnings": [json.dumps(heard.texts)], "error": [f"{where}{error}"]}
        return {"n": [part.n], "warnings": [json.dumps(heard.texts)], "error": [""]}


def _place(part: RowPart) -> str:
    return f"{part.path}, rows {part.first + 1} to {part.first + part.n}: "


class _Warnings(logging.Handler):
    """Keeps what is warned of while a part is answered: a worker's own log is seen by nobody."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())

    def __enter__(self) -> _Warnings:
        log.addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        log.removeHandler(self)


def _answered(asking: Asking, parts: Sequence[RowPart], workers: int | None) -> Iterator[dict[str, Any]]:
    """``n`` and ``warnings`` of each part, in the order in which they are done."""
    if not parts:
        return
    with connected(cpus=1):
        for row in _on_workers(asking, parts, workers):
            if row["error"]:
                raise UserError(f"{row['error']}\nThe parts that are done stay; the same command goes on from there")
            yield {"n": row["n"], "warnings": json.loads(row["warnings"])}


def _on_workers(asking: Asking, parts: Sequence[RowPart], workers: int | None) -> Iterator[dict[str, Any]]:
    """What the workers say of each part. A function of its own, so that the data set is gone before Ray is."""
    import ray
    from ray.data import ActorPoolStrategy, DataContext

    have = ray.cluster_resources()
    gpus, cpus = int(have.get("GPU", 0)), have.get("CPU", 1)
    n = min(workers or gpus or 1, len(parts))
    share = max(1, math.floor(cpus / n)) if not gpus else 1
    context = DataContext.get_current()
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # of an error it prints Ray's own stack, too
    data = ray.data.from_items([{"part": json.dumps(asdict(p))} for p in parts], override_num_blocks=len(parts))
    done = data.map_batches(
        PartAnswerer,
        fn_constructor_args=(asking, share if not gpus else cpu_count()),
        batch_size=1,
        compute=ActorPoolStrategy(size=n),
        num_cpus=share,
        num_gpus=1 if gpus else 0,
    )
    yield from done.iter_rows()
