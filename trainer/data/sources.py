"""Where rows come from: a file, a folder of files, or a hub data set, opened as one table."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trainer.errors import UserError, nearest

FORMATS = {".parquet": "parquet", ".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "json", ".ndjson": "json"}


@dataclass(frozen=True)
class RowSource:
    """Where rows come from and which columns matter.

    ``limit`` takes the first N rows of a shuffle with a fixed seed, then restores their order; it does not balance
    the labels. ``labels`` maps data values to label names; keys are compared as text, so 1, 1.0 and "1" are the same.
    """

    path: str  # a file, a folder, or a hub name
    fields: tuple[str, ...]
    label: str
    labels: Mapping[Any, str] = field(default_factory=dict)  # empty where ``options`` is given
    options: str | None = None  # column with the row's own options; then ``label`` holds the right one's number
    id: str | None = None
    name: str | None = None  # the hub data set's configuration
    split: str | None = None
    where: Mapping[str, Any] = field(default_factory=dict)  # column: value, or a list of values
    limit: int | None = None
    revision: str | None = None


def open_table(source: RowSource, split: str, at: str) -> Any:
    """The ``datasets.Dataset`` behind ``source``; of several splits, the one with the study's name for it."""
    path = Path(source.path)
    suffix = path.suffix.lower()
    looks_local = suffix in FORMATS or source.path.startswith((".", "/", "~")) or "\\" in source.path
    if "://" not in source.path and not path.exists() and looks_local:
        beside = sorted(p.name for p in path.parent.iterdir()) if path.parent.is_dir() else []
        raise UserError(f'{at}: path = "{source.path}" does not exist.{nearest(path.name, beside[:30])}')
    import datasets  # slow to import, so only when rows are really read

    with _quiet(datasets):
        try:
            if path.is_file() or "://" in source.path:
                return _file(datasets, source, suffix, at)
            found = datasets.load_dataset(source.path, source.name, split=source.split, revision=source.revision)
            return found if source.split else _one_split(found, split, at)
        except UserError:
            raise
        except Exception as error:  # datasets and what it calls raise many kinds; each becomes one readable line
            cause = error.__cause__ or error
            detail = " ".join(str(cause).split())[:300]
            if _holds_nothing(path):
                raise UserError(f"{at}: {source.path} has no rows") from None
            if isinstance(cause, UnicodeDecodeError):
                raise UserError(f"{at}: {source.path} is not UTF-8 text ({detail}). Save it as UTF-8") from None
            if path.exists():
                fix = "The file may be half written or in another format: make it again, or check it with pyarrow"
            else:
                fix = (
                    "It is no file or folder here, so it was looked up as a hub data set: "
                    "check the spelling, `name`, `split` and the network, or download it and give its path"
                )
            raise UserError(
                f'{at}: "{source.path}" cannot be read ({type(cause).__name__}: {detail}). {fix}'
            ) from error


def _holds_nothing(path: Path) -> bool:
    """Whether a file that ``datasets`` refuses holds no rows: it has no message for that."""
    if not path.is_file():
        return False
    if FORMATS.get(path.suffix.lower()) == "csv":
        with path.open(errors="replace") as f:
            return sum(bool(line.strip()) for line in itertools.islice(f, 1000)) <= 1  # the names of the columns
    if path.suffix.lower() != ".parquet" or not path.stat().st_size:
        return path.stat().st_size == 0
    import pyarrow.parquet as pq

    try:
        return bool(pq.read_metadata(path).num_rows == 0)
    except (OSError, ValueError):  # broken, which the caller says
        return False


def _one_split(found: Any, split: str, at: str) -> Any:
    wanted = [split, "validation"] if split == "dev" else [split]
    names = [n for n in wanted if n in found] or (list(found) if len(found) == 1 else [])
    if not names:
        raise UserError(f'{at}: there is no split "{split}". Name one with `split`.{nearest(split, list(found))}')
    return found[names[0]]


def _file(datasets: Any, source: RowSource, suffix: str, at: str) -> Any:
    if suffix not in FORMATS:
        raise UserError(
            f'{at}: path = "{source.path}" has the ending "{suffix}", which is not known.{nearest(suffix, FORMATS)}'
        )
    if source.split not in (None, "train") and not source.where:
        raise UserError(
            f'{at}: split = "{source.split}", but {source.path} is one file and has no splits. Choose rows by '
            f"column instead: where: {{split: {source.split}}}"
        )
    options: dict[str, Any] = {}
    if FORMATS[suffix] == "csv":
        # Without this, texts such as "None" or "NA" and empty cells would be read as null.
        options = {"keep_default_na": False, "sep": "\t" if suffix == ".tsv" else ","}
    return datasets.load_dataset(FORMATS[suffix], data_files=os.fspath(source.path), split="train", **options)


@contextlib.contextmanager
def _quiet(datasets: Any) -> Iterator[None]:
    shown = datasets.is_progress_bar_enabled()
    logger = logging.getLogger("datasets")
    level = logger.level
    datasets.disable_progress_bars()
    logger.setLevel(logging.CRITICAL)  # a failed read becomes one UserError, not a traceback in the log as well
    try:
        yield
    finally:
        logger.setLevel(level)
        if shown:
            datasets.enable_progress_bars()
