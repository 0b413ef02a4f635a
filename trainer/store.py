"""The run folder: every durable thing a trial leaves, written whole or not at all.

Layout (the documented contract): ``scores/<trial id>/<rung>-<pool>.parquet``,
``checkpoints/<trial id>/<rung>.safetensors``, ``adapters/<trial id>/``. A rung of a trial is complete when its dev
score file can be read: adapter and checkpoint are written before it, in this order, so they are there where the scores
are. Any folder that pyarrow's filesystems open works: a path, s3://, gs://. Nothing here unpickles.

Score files and tables carry a checksum over their bytes and their place (``trainer.files.checksum``). Files of versions
before it have none: of those the pages' own checksums, and the place that their rows name, are checked.
"""

from __future__ import annotations

import errno
import itertools
import json
import logging
import os
import pathlib
import re
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from trainer.errors import UserError
from trainer.files import checksum

log = logging.getLogger("steadytune")

SCORES = pa.schema(
    [
        ("trial_id", pa.string()),
        ("rung", pa.int32()),  # optimizer steps at which the trial was scored
        ("pool", pa.string()),  # dev or test
        ("prompt_id", pa.string()),
        ("row_id", pa.string()),
        ("label", pa.string()),  # the right answer: a label, or the option's number as text
        ("predicted", pa.string()),  # null: the generated answer could not be parsed
        ("correct", pa.bool_()),
        ("label_logprobs", pa.list_(pa.float32())),  # in nats, one per label or option; null where text was generated
        ("new_tokens", pa.int16()),  # tokens generated; null where labels were compared
    ]
)
_RECORD = b"steadytune"  # key of the rung's record in the parquet file's metadata

PATIENCE = 120.0  # seconds; a file server that restarts is back within two minutes, and waiting costs no work
_PAUSES = (0.5, 8.0)  # seconds between two attempts: the first, doubled up to the last
_PERMANENT = (FileNotFoundError, PermissionError, FileExistsError, IsADirectoryError, NotADirectoryError)
# A full disk does not empty itself while a run waits for it, nor does a read-only one become writable.
_PERMANENT_NUMBERS = (
    errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL, errno.ENODEV,
)  # fmt: skip
# pyarrow gives all errors of object stores one type; these words of its texts are of the AWS and Google SDKs
_PERMANENT_WORDS = re.compile(
    r"ACCESS_DENIED|INVALID_ACCESS_KEY_ID|SIGNATURE_DOES_NOT_MATCH|NO_SUCH_BUCKET|INVALID_CLIENT_TOKEN_ID|"
    r"EXPIRED_TOKEN|MISSING_AUTHENTICATION|PERMISSION_DENIED|UNAUTHENTICATED|Bucket '.*' not found|"
    r"HTTP status 40[0134]\b",
    re.IGNORECASE,
)
Result = TypeVar("Result")


class StoreError(UserError):
    """The run folder cannot be read or written; the message says what and how to mend it."""


class UnwritableError(StoreError):
    """The run folder takes no file, and waiting does not help: a full or read-only disk, missing permissions, or a link
    out of it. Trials would fail that are sound, and another one could win, so it ends a run."""


class DamagedError(StoreError):
    """A file of the run folder is not what was written there; the message says why, without the file's name."""


@dataclass(frozen=True)
class Store:
    """A run folder on a pyarrow filesystem. ``uri`` is what the user gave; ``root`` the path inside ``fs``."""

    uri: str
    fs: pafs.FileSystem
    root: str

    @classmethod
    def open(cls, uri: str | os.PathLike[str]) -> Store:
        text = os.fspath(uri)
        if "://" not in text:
            text = os.path.abspath(text)
        elif urlsplit(text).password:
            raise StoreError(
                f"run folder {urlsplit(text).scheme}://…@{text.rpartition('@')[2]}: has a secret key in it, which logs "
                "and process lists would show. Leave it out and set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            )
        elif text.startswith(("gs://", "gcs://")) and "retry_limit_seconds" not in text:
            text += ("&" if "?" in text else "?") + f"retry_limit_seconds={PATIENCE:g}"  # default: 15 minutes
        try:
            fs, root = pafs.FileSystem.from_uri(text)
        except (pa.ArrowInvalid, OSError) as error:
            raise StoreError(
                f"run folder {text}: cannot be opened ({error}). Give a path, s3://bucket/… or gs://bucket/…"
            ) from error
        return cls(text, fs, root.rstrip("/"))

    def __reduce__(self) -> tuple[Any, ...]:
        return (Store.open, (self.uri,))

    @property
    def is_local(self) -> bool:
        return isinstance(self.fs, pafs.LocalFileSystem)

    def path(self, *parts: str) -> str:
        return "/".join([self.root, *parts])

    def address(self, name: str) -> str:
        """``name`` as a user would write it, without the options that follow a ``?`` in ``uri``."""
        uri = self.uri.partition("?")[0] if "://" in self.uri else self.uri
        return f"{uri.rstrip('/')}/{name}"

    # bytes in, bytes out ------------------------------------------------------------------------------------

    def write(self, name: str, data: bytes) -> None:
        """Write ``name`` whole or not at all. On object stores an upload becomes visible when it is complete;
        on a disk the file is written beside its place, flushed, and renamed over it."""
        target = self.path(*name.split("/"))
        if self.is_local:
            self._refuse_way_out(target, name)
        put = self._put_file if self.is_local else self._put_object
        try:
            self._with_retries(lambda: put(target, data), name)
        except OSError as error:
            self._refuse_obstacle(name)
            raise (StoreError if _may_recover(error) else UnwritableError)(
                f"{self.address(name)}: cannot be written ({error}). Nothing was lost: free space, mend the "
                "permissions or name another folder, and run the same command again"
            ) from error

    def _refuse_obstacle(self, name: str, a_folder: bool = False) -> None:
        """UnwritableError where a file is in the place of a folder, above ``name`` or, with ``a_folder``, of ``name``
        itself; or where a folder is in the place of the file ``name``."""
        if not self.is_local:
            return
        target = pathlib.PurePath(self.path(*name.split("/")))
        for place in [*reversed(target.parents), *([target] if a_folder else [])]:
            if os.path.lexists(place) and not os.path.isdir(place):
                raise UnwritableError(
                    f"{self.address(name)}: cannot be used, since {place} is a file, where the run folder needs a "
                    "folder. Remove or rename it, and run the same command again"
                )
        if os.path.isdir(target) and not a_folder:
            raise UnwritableError(
                f"{self.address(name)}: is a folder, where the run folder needs a file. Remove or rename it, and run "
                "the same command again"
            )

    def _refuse_way_out(self, target: str, name: str) -> None:
        """UnwritableError where a link inside the run folder leads out of it: whoever made the folder may have put it
        there, so that a file elsewhere is overwritten."""
        root, at = os.path.realpath(self.root or "/"), os.path.realpath(target)
        if os.path.commonpath([root, at]) == root:
            return
        places = itertools.accumulate([self.root, *name.split("/")], lambda folder, part: f"{folder}/{part}")
        link = next((place for place in list(places)[1:] if os.path.islink(place)), target)
        raise UnwritableError(
            f"{self.address(name)}: is not written, since {link} is a link that leads out of the run folder, to {at}. "
            "Remove the link, and run the same command again"
        )

    def _put_file(self, target: str, data: bytes) -> None:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        part = f"{target}.{uuid.uuid4().hex[:8]}.part"
        try:
            with open(part, "wb") as f:
                f.write(data)
                f.flush()
                os.fsync(f.fileno())
            os.replace(part, target)
        finally:
            if os.path.exists(part):
                os.unlink(part)

    def _put_object(self, target: str, data: bytes) -> None:
        """The object appears when the stream is closed, and not if a part of it could not be sent."""
        if self.fs.type_name not in ("s3", "gcs"):  # these have no folders; a marker for each would cost a request
            self.fs.create_dir(target.rsplit("/", 1)[0], recursive=True)
        with self.fs.open_output_stream(target) as out:
            out.write(data)

    def _with_retries(self, act: Callable[[], Result], name: str) -> Result:
        """The result of ``act``, which is tried again while its OSError may pass and ``PATIENCE`` lasts."""
        end, pause = time.monotonic() + PATIENCE, _PAUSES[0]
        while True:
            try:
                return act()
            except OSError as error:
                left = end - time.monotonic()
                if not _may_recover(error) or left < pause:
                    raise
                if pause == _PAUSES[0]:
                    log.warning("%s: %s; trying again for %.0f seconds", self.address(name), error, left)
            time.sleep(pause)
            pause = min(2 * pause, _PAUSES[1])

    def read(self, name: str) -> bytes:
        def act() -> bytes:
            with self.fs.open_input_stream(self.path(*name.split("/")), compression=None) as f:
                data: bytes = f.read()
                return data

        try:
            return self._with_retries(act, name)
        except FileNotFoundError as error:
            raise StoreError(f"{self.address(name)}: no such file") from error
        except OSError as error:
            raise StoreError(
                f"{self.address(name)}: cannot be read ({error}). Mend the permissions or the disk and run the same "
                "command again"
            ) from error

    def exists(self, name: str) -> bool:
        return any(info.type == pafs.FileType.File for info in self._file_info(self.path(*name.split("/")), name))

    def names(self, folder: str) -> list[str]:
        """Files directly in ``folder``, sorted; unfinished ``.part`` files are left out."""
        found = (info.base_name for info in self._entries(folder) if info.type == pafs.FileType.File)
        return sorted(n for n in found if not n.endswith(".part"))

    def folders(self, folder: str) -> list[str]:
        return sorted(info.base_name for info in self._entries(folder) if info.type == pafs.FileType.Directory)

    def _entries(self, folder: str) -> list[pafs.FileInfo]:
        return self._file_info(pafs.FileSelector(self.path(*folder.split("/")), allow_not_found=True), folder)

    def _file_info(self, at: str | pafs.FileSelector, name: str) -> list[pafs.FileInfo]:
        try:
            found = self._with_retries(lambda: self.fs.get_file_info(at), name)
        except OSError as error:
            self._refuse_obstacle(name, isinstance(at, pafs.FileSelector))
            raise StoreError(
                f"{self.address(name)}: cannot be looked into ({error}). Mend the permissions and run the same command "
                "again"
            ) from error
        return found if isinstance(found, list) else [found]

    # scores ----------------------------------------------------------------------------------------------------

    def write_scores(self, trial_id: str, rung: int, pool: str, rows: pa.Table, record: dict[str, Any]) -> None:
        """Store one trial's rows at one rung under one pool, with the rung's ``record`` (losses, seconds,
        tokens, curve) in the file's own metadata, so that rows and record appear together."""
        table = rows.select(SCORES.names).cast(SCORES).replace_schema_metadata({_RECORD: json.dumps(record).encode()})
        self.write_table(scores_name(trial_id, rung, pool), table)

    def write_table(self, name: str, table: pa.Table) -> None:
        """Write a parquet file with a checksum. The pages have their own as well, which other readers check."""
        table = table.replace_schema_metadata({**(table.schema.metadata or {}), **checksum.METADATA})
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd", use_dictionary=True, write_page_checksum=True)
        self.write(name, checksum.fill(sink.getvalue().to_pybytes(), name))

    def read_table(self, name: str) -> tuple[pa.Table, bool]:
        """A small parquet file of the run folder, and whether it has a checksum; without one it may have been written
        by an earlier version. Raises ``DamagedError``."""
        file, checked = _open_table(self.read(name), name)
        try:
            return file.read(use_threads=False), checked  # a thread that lets go of the bytes while Python ends aborts
        except (pa.ArrowException, OSError, ValueError) as error:  # OSError: pyarrow's for damaged pages
            raise DamagedError(_first_line(error)) from error

    def load_scores(
        self, trial_id: str, rung: int, pool: str, columns: Sequence[str] = ()
    ) -> tuple[pa.Table, dict[str, Any], bool] | None:
        """The rows and record of one rung, and whether their file has a checksum; None when there is no file. With
        ``columns``, only those are read, texts dictionary-encoded: a third of the time. Raises ``DamagedError`` where
        the file is damaged, or is that of another trial, rung or pool."""
        name = scores_name(trial_id, rung, pool)
        if not self.exists(name):
            return None
        texts = [n for n in columns if SCORES.field(n).type == pa.string()]
        file, checked = _open_table(self.read(name), name, texts)
        try:
            table = file.read(list(columns) or None, use_threads=False)  # threads cost more than small files gain
            record = json.loads((table.schema.metadata or {})[_RECORD])
            if not isinstance(record, dict):
                raise ValueError(f"its record is {record!r:.40}")
            if not checked:
                _check_place(file, {"trial_id": trial_id, "rung": rung, "pool": pool})
                _check_record(record, rung)
                table = table.select(list(columns) or SCORES.names)
                table = table.cast(pa.schema([SCORES.field(n) for n in table.column_names]))
            rows = table.select(columns) if columns else table.select(SCORES.names).cast(SCORES)
            return rows.replace_schema_metadata(None), record, checked
        except (pa.ArrowException, OSError, KeyError, ValueError, RecursionError) as error:
            raise DamagedError(_first_line(error)) from error

    def read_scores(
        self, trial_id: str, rung: int, pool: str, columns: Sequence[str] = ()
    ) -> tuple[pa.Table, dict[str, Any]] | None:
        """The rows and record of one rung; None when there are none. A file that is damaged or another trial's is set
        aside with a warning and counts as not there, so the rung is made again."""
        try:
            found = self.load_scores(trial_id, rung, pool, columns)
        except DamagedError as error:
            name = scores_name(trial_id, rung, pool)
            log.warning(
                "%s: not readable (%s); set aside as .corrupt, the rung is made again", self.address(name), error
            )
            self.set_aside(name)
            return None
        return None if found is None else found[:2]

    def set_aside(self, name: str) -> None:
        """Rename a damaged file, so that it counts as not there."""
        path = self.path(*name.split("/"))
        try:
            self._with_retries(lambda: self.fs.move(path, path + ".corrupt"), name)
        except FileNotFoundError:
            pass  # another process came first
        except OSError as error:
            raise StoreError(
                f"{self.address(name)}: is damaged and cannot be set aside ({error}). Delete it and run the same "
                "command again"
            ) from error

    def remove(self, name: str) -> None:
        """Delete a file, if it is there."""
        self._remove(name, self.fs.delete_file)

    def remove_folder(self, name: str) -> None:
        """Delete a folder and all that is in it, if it is there."""
        if self.is_local:
            self._refuse_way_out(self.path(*name.split("/")), name)
        self._remove(name, self.fs.delete_dir)

    def _remove(self, name: str, delete: Callable[[str], None]) -> None:
        try:
            self._with_retries(lambda: delete(self.path(*name.split("/"))), name)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise StoreError(f"{self.address(name)}: cannot be deleted ({error}). Delete it yourself") from error

    def rungs(self, trial_id: str, pool: str) -> list[int]:
        """Rungs at which ``trial_id`` has a score file for ``pool``, ascending."""
        found = (re.fullmatch(rf"(\d+)-{re.escape(pool)}\.parquet", n) for n in self.names(f"scores/{trial_id}"))
        return sorted(int(m[1]) for m in found if m)


def _open_table(data: bytes, name: str, texts: Sequence[str] = ()) -> tuple[pq.ParquetFile, bool]:
    """The parquet file in ``data``, and whether it has a checksum. ``texts``: columns to be read dictionary-encoded.
    Raises ``DamagedError``."""
    found = checksum.state(data, name)
    if found == "damaged":
        raise DamagedError("its bytes are not those that were written for this place: its checksum differs")
    try:
        file = pq.ParquetFile(
            pa.BufferReader(data), read_dictionary=list(texts) or None, page_checksum_verification=True
        )
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        raise DamagedError(_first_line(error)) from error
    return file, found == "sound"


def _check_place(file: pq.ParquetFile, place: Mapping[str, Any]) -> None:
    """ValueError where the rows of a score file without a checksum are of another trial, rung or pool than its name
    says."""
    for name, values in file.read(list(place), use_threads=False).to_pydict().items():
        for other in set(values) - {place[name]}:
            raise ValueError(f"its rows are of {name} {other}, not {place[name]}")


def _check_record(record: Mapping[str, Any], rung: int) -> None:
    """ValueError where the record of a score file without a checksum cannot be one."""
    number = (int, float)
    kinds: dict[str, Any] = {
        "trial": (dict, type(None)), "rung": int, "seconds": number, "train_seconds": number, "score_seconds": number,
        "tokens": int, "curve": dict, "sample": dict, "nan": str, "benchmark": dict,
    }  # fmt: skip
    for name, kind in kinds.items():
        if name in record and (not isinstance(record[name], kind) or isinstance(record[name], bool)):
            raise ValueError(f"its record has {name} = {record[name]!r:.40}")
    if "nan" not in record and record.get("rung", rung) != rung:
        raise ValueError(f"its record is of rung {record['rung']}, not {rung}")
    for name, values in record.get("curve", {}).items():
        if not isinstance(values, list) or not all(v is None or isinstance(v, number) for v in values):
            raise ValueError(f"its record has curve.{name} = {values!r:.40}")
    sample = record.get("sample")
    if sample is not None and not all(isinstance(sample.get(n), int) for n in ("cells", "prompts", "rows")):
        raise ValueError(f"its record has sample = {sample!r:.60}")


def _first_line(error: BaseException) -> str:
    said = (str(error).strip().splitlines() or [""])[0]
    if isinstance(error, KeyError):
        name = error.args[0] if error.args else ""
        return f"it has no {name.decode(errors='replace') if isinstance(name, bytes) else name}"
    return said or type(error).__name__


def _may_recover(error: OSError) -> bool:
    """Whether trying again may help."""
    if isinstance(error, _PERMANENT) or error.errno in _PERMANENT_NUMBERS:
        return False
    return not _PERMANENT_WORDS.search(str(error))


def scores_name(trial_id: str, rung: int, pool: str) -> str:
    return f"scores/{trial_id}/{rung:06d}-{pool}.parquet"


def checkpoint_name(trial_id: str, rung: int) -> str:
    return f"checkpoints/{trial_id}/{rung:06d}.safetensors"
