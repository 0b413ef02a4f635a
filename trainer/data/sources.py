"""Where rows come from: a file, a folder of files, or a hub data set, opened as one table of text.

Files are read by the readers of this package and need no cache. In a folder, ``datasets`` says which files belong to
which split. A hub data set is read by ``datasets``: its files become typed columns there, before they are text here.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from trainer.data.row_table import RowTable, joined, on_a_line
from trainer.data.text_files import read_json, read_separated
from trainer.errors import UserError, nearest

if TYPE_CHECKING:
    import pyarrow as pa

Reader = Callable[[IO[bytes], str, str, Collection[str]], RowTable]  # file, its name, place in the study, columns


def _read_parquet(file: IO[bytes], name: str, at: str, wanted: Collection[str]) -> RowTable:
    from trainer.data.typed_columns import read_parquet  # numpy and pyarrow: only where there are typed columns

    return read_parquet(file, name, at, wanted)


FORMATS: dict[str, Reader] = {
    ".parquet": _read_parquet,
    ".csv": partial(read_separated, separator=","),
    ".tsv": partial(read_separated, separator="\t"),
    ".json": read_json,
    ".jsonl": read_json,
    ".ndjson": read_json,
}
COMPRESSED = (".gz", ".bz2", ".xz", ".zst")  # after one of these endings


@dataclass(frozen=True)
class RowSource:
    """Where rows come from and which columns matter.

    ``limit`` takes the first N rows of a shuffle with a fixed seed, then restores their order; it does not balance
    the labels. ``labels`` maps the texts of the label column to label names. ``drop`` leaves out, of the rows that
    ``where`` and ``limit`` have left, those without a text (``empty``) or that repeat an earlier one (``duplicate``).
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
    drop: tuple[str, ...] = ()


def open_table(source: RowSource, split: str, at: str) -> RowTable:
    """The rows behind ``source``, with the columns that it names; of several splits, the one with the study's name for
    it. Raises ``UserError``."""
    path = Path(source.path)
    try:
        if "://" in source.path or path.is_file():
            return _file(source, at)
        if path.is_dir():
            return joined([read_file(file, at, _wanted(source)) for file in _files_of(source, split, at)], at)
        _refuse_missing(source.path, at)
    except OSError as error:  # a name that is too long, a folder that may not be entered
        raise UserError(f'{at}: path = "{source.path:.200}" cannot be read ({error.strerror or error})') from None
    return _hub(source, split, at)


def open_splits(path: str, name: str | None, at: str) -> dict[str, RowTable]:
    """All columns of a data set whose columns are not known yet, by its own splits; a single file is the split ``""``.
    Raises ``UserError``."""
    source = RowSource(path, (), "", name=name)
    if "://" in path or Path(path).is_file():
        return {"": _every_column(path, at)}
    if Path(path).is_dir():
        found = _folder(source, at)
        return {split: joined([_every_column(file, at) for file in files], at) for split, files in found.items()}
    _refuse_missing(path, at)
    found = _load_dataset(source, at)
    return {str(n): table_of_dataset(part, path, at, part.column_names) for n, part in found.items()}


def _every_column(path: str, at: str) -> RowTable:
    return read_file(path, at, read_file(path, at, ()).names)


def _refuse_missing(path: str, at: str) -> None:
    """Raise for a path that is not there; a name without anything of a path may be a data set of the hub."""
    looks_local = _ending(path) in FORMATS or path.startswith((".", "/", "~")) or "\\" in path
    place = Path(path)
    if not place.exists() and looks_local:
        beside = sorted(p.name for p in place.parent.iterdir()) if place.parent.is_dir() else []
        raise UserError(f'{at}: path = "{path}" does not exist.{nearest(place.name, beside[:30])}')


def _wanted(source: RowSource) -> tuple[str, ...]:
    asked = (*source.fields, source.label, source.options, source.id, *source.where)
    return tuple(dict.fromkeys(c for c in asked if c))


# files -------------------------------------------------------------------------------------------------------------


def _file(source: RowSource, at: str) -> RowTable:
    if source.split not in (None, "train") and not source.where:
        raise UserError(
            f'{at}: split = "{source.split}", but {source.path} is one file and has no splits. Choose rows by '
            f"column instead: where: {{split: {source.split}}}"
        )
    return read_file(source.path, at, _wanted(source))


def _ending(name: str) -> str:
    """What says how the file is read: the last ending, or the one before that of a compressed file."""
    stem, last = os.path.splitext(os.path.basename(name).lower())
    return os.path.splitext(stem)[1] if last in COMPRESSED else last


def read_file(name: str, at: str, wanted: Collection[str]) -> RowTable:
    """The rows of one file, with those of the ``wanted`` columns that it has. ``at`` begins messages. Raises
    ``UserError``."""
    reader = FORMATS.get(_ending(name))
    if reader is None:
        raise UserError(
            f'{at}: path = "{name}" has the ending "{_ending(name)}", which is not known.'
            f"{nearest(_ending(name), FORMATS)}"
        )
    try:
        with _opened(name) as file:
            if not file.read(1):
                raise UserError(f"{at}: {name} has no rows")
            file.seek(0)
            return reader(file, name, at, wanted)
    except UserError:
        raise
    except Exception as error:  # pyarrow, fsspec and what unpacks files raise many kinds; each becomes one line
        detail = on_a_line(" ".join(str(error).split())[:300])
        if isinstance(error, OSError) and error.errno is not None and error.strerror:
            raise UserError(f'{at}: "{name}" cannot be read ({error.strerror})') from None
        raise UserError(
            f'{at}: "{name}" cannot be read ({type(error).__name__}: {detail}). '
            "The file may be half written or in another format: make it again, or check it with pyarrow"
        ) from error


@contextlib.contextmanager
def _opened(name: str) -> Iterator[IO[bytes]]:
    if "://" not in name and not name.lower().endswith(COMPRESSED):
        with open(name, "rb") as file:
            yield file
        return
    import fsspec

    with fsspec.open(name, "rb", compression="infer") as file:
        yield file


# a program ---------------------------------------------------------------------------------------------------------

IN_MEMORY = "the table"  # its name in messages


def table_in_memory(rows: pa.Table | Sequence[Mapping[str, Any]], at: str, wanted: Collection[str]) -> RowTable:
    """The ``wanted`` columns of rows that a program holds: those of an Arrow table become text by the rule for typed
    columns, records as in a JSON Lines file. Raises ``UserError``."""
    if not isinstance(rows, Sequence):
        from trainer.data.typed_columns import column_cells

        there = [column for column in dict.fromkeys(wanted) if column in rows.column_names]
        cells = {column: column_cells(rows[column], column, f"{at}: {IN_MEMORY}") for column in there}
        return RowTable(tuple(rows.column_names), cells, rows.num_rows, ((IN_MEMORY, 0),))
    lines = []
    for position, record in enumerate(rows, 1):
        try:
            lines.append(json.dumps(record, ensure_ascii=False).encode())
        except (TypeError, ValueError, RecursionError) as error:  # ValueError: half a character
            raise UserError(
                f"{at}: {IN_MEMORY}, row {position}: cannot be used ({error}). Give a dict of column: text for each row"
            ) from None
    return read_json(io.BytesIO(b"\n".join(lines)), IN_MEMORY, at, wanted)


# folders -----------------------------------------------------------------------------------------------------------


def _files_of(source: RowSource, split: str, at: str) -> Sequence[str]:
    """The files of one split of a folder."""
    files = _folder(source, at)
    if source.split is not None and source.split not in files:
        raise UserError(f'{at}: split = "{source.split}" is no split of {source.path}.{nearest(source.split, files)}')
    return files[source.split or _split_name(files, split, at)]


def _folder(source: RowSource, at: str) -> dict[str, list[str]]:
    """The files of a folder by split, as ``datasets`` divides it by the names of files and folders."""
    import datasets  # slow to import, so only where splits are to be found

    with _quiet(datasets), tempfile.TemporaryDirectory(prefix="steadytune-rows-") as cache:
        try:
            found = datasets.load_dataset_builder(source.path, source.name, cache_dir=cache).config.data_files
        except Exception as error:  # datasets and what it calls raise many kinds
            detail = " ".join(str(error).split())[:300]
            raise UserError(
                f'{at}: "{source.path}" cannot be read ({type(error).__name__}: {detail}). Name one file of rows, or '
                f"put files with the endings {', '.join(FORMATS)} into the folder"
            ) from None
    files = {str(name): [str(file) for file in some] for name, some in (found or {}).items()}
    if not files:
        raise UserError(f"{at}: {source.path} has no rows: no file in it has one of the endings {', '.join(FORMATS)}")
    return files


def _split_name(found: Collection[str], split: str, at: str) -> str:
    wanted = [split, "validation"] if split == "dev" else [split]
    names = [n for n in wanted if n in found] or (list(found) if len(found) == 1 else [])
    if not names:
        raise UserError(f'{at}: there is no split "{split}". Name one with `split`.{nearest(split, list(found))}')
    return names[0]


# the hub -----------------------------------------------------------------------------------------------------------


def _hub(source: RowSource, split: str, at: str) -> RowTable:
    found = _load_dataset(source, at)
    chosen = found if source.split else found[_split_name(found, split, at)]
    return table_of_dataset(chosen, source.path, at, _wanted(source))


def _load_dataset(source: RowSource, at: str) -> Any:
    """The split that ``source`` names, or all of them by name."""
    import datasets

    with _quiet(datasets):
        try:
            return datasets.load_dataset(source.path, source.name, split=source.split, revision=source.revision)
        except Exception as error:  # datasets and what it calls raise many kinds; each becomes one readable line
            cause = error.__cause__ or error
            detail = " ".join(str(cause).split())[:300]
            raise UserError(
                f'{at}: "{source.path}" cannot be read ({type(cause).__name__}: {detail}). {_hub_remedy(datasets)}'
            ) from error


def table_of_dataset(dataset: Any, name: str, at: str, wanted: Collection[str]) -> RowTable:
    """The ``wanted`` columns of a ``datasets.Dataset``, made text by the rule for typed columns."""
    from trainer.data.typed_columns import column_cells

    names = tuple(dataset.column_names)
    there = [column for column in dict.fromkeys(wanted) if column in names]
    table = dataset.select_columns(there).with_format("arrow")[:] if there else None
    cells = {} if table is None else {c: column_cells(table[c], c, f"{at}: {name}") for c in there}
    classes = {c: tuple(f.names) for c, f in dataset.features.items() if getattr(f, "names", None)}
    return RowTable(names, cells, len(dataset), ((name, 0),), classes)


def _hub_remedy(datasets: Any) -> str:
    """What to do, where a hub data set cannot be read: the cache is named if it is what stands in the way."""
    for cache in (datasets.config.HF_DATASETS_CACHE, datasets.config.HF_CACHE_HOME):
        why = _unwritable(str(cache))
        if why:
            return f"Hub data sets are kept in {cache}, which cannot be written ({why}): set HF_HOME to another folder"
    return (
        "It is no file or folder here, so it was looked up as a hub data set: "
        "check the spelling, `name`, `split` and the network, or download it and give its path"
    )


def _unwritable(folder: str) -> str | None:
    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return None
    except OSError as error:
        return error.strerror or str(error)


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
