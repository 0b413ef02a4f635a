"""What W&B's offline runs on this disk hold: the last step of each, and its summary.

In offline mode there is no server to ask. The file ``run-<id>.wandb`` of a run is a log of records, each written once
and in order; one that was cut off when the process was killed ends the file. The form of the log is LevelDB's, and a
record is W&B's ``Record`` message.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_BLOCK = 32768
_FILE_HEADER, _CHUNK_HEADER = 7, 7  # the chunk's: checksum (4 bytes), length (2), kind (1)
_WHOLE, _LAST = 1, 4  # kinds of chunks that end a record; 2 and 3 are the first and the middle of one


@dataclass
class KnownRun:
    """What W&B has of a run, over all starts that wrote something of it."""

    last_step: int = -1
    summary: dict[str, Any] = field(default_factory=dict)  # name -> its last value


def read_offline_runs(folder: Path, project: str) -> dict[str, KnownRun]:
    """Run id -> the run, of the runs of ``project`` in ``folder``, W&B's own ``wandb``."""
    from wandb.proto import wandb_internal_pb2 as messages

    found: dict[str, KnownRun] = {}
    for file in sorted(folder.glob("*run-*/run-*.wandb")):  # the folders' names begin with the time
        run = None
        for data in _records(file.read_bytes()):
            record = messages.Record.FromString(data)  # type: ignore[attr-defined]
            if record.HasField("run"):
                if record.run.project != project:
                    break
                run = found.setdefault(record.run.run_id, KnownRun())
            elif run is not None and record.HasField("history"):
                run.last_step = max(run.last_step, record.history.step.num)
                run.summary |= {_name(item): json.loads(item.value_json) for item in record.history.item}
            elif run is not None and record.HasField("summary"):
                run.summary |= {_name(item): json.loads(item.value_json) for item in record.summary.update}
    return found


def _name(item: Any) -> str:
    return item.key or "/".join(item.nested_key)


def _records(data: bytes) -> Iterator[bytes]:
    at, parts = _FILE_HEADER, list[bytes]()
    while at + _CHUNK_HEADER <= len(data):
        left = _BLOCK - at % _BLOCK
        if left < _CHUNK_HEADER:  # the end of a block that holds no chunk
            at += left
            continue
        length, kind = struct.unpack_from("<HB", data, at + 4)
        at += _CHUNK_HEADER
        if at + length > len(data):  # cut off
            return
        parts.append(data[at : at + length])
        at += length
        if kind in (_WHOLE, _LAST):
            yield b"".join(parts)
            parts = []
