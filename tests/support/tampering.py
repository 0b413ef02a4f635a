"""Damage to run folders, drawn from a seed: files cut, flipped, swapped, edited, linked elsewhere, or of odd names."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

HOSTILE = (
    "", "\0", "=1+1", "[/b]", "<script>", "../../x", "\x1b[2J", "\ud800", "9" * 5000, None, True, -1, 0, 1e400, 2**70,
    [], {}, [[[]]], {"a": {}}, float("nan"), "x" * 100_000,
)  # fmt: skip
TEXTS = (
    b"", b"\0\0\0\0", b"PAR1", b"PAR1PAR1", b"{", b"[" * 50_000, b"\xff\xfe\x00", b"null", b"[1]", b"- a\n- b\n",
    b"name: !!bool maybe\n", b"name: x\nname: y\n", b"a: " + b"[" * 3000, b'{"a":' * 3000,
    b"a: &a [x,x,x,x,x,x,x,x,x]\n" + b"".join(
        b"%c: &%c [%s]\n" % (98 + i, 98 + i, b",".join([b"*%c" % (97 + i)] * 9)) for i in range(9)
    ),
    b"\x10\0\0\0\0\0\0\0{not a header}..", (10**9).to_bytes(8, "little") + b"{}",
)  # fmt: skip


def tamper(run: Path, outside: Path, seed: int) -> str:
    """Damage the run folder once, or a few times; what was done. ``outside``: where links lead."""
    rng = random.Random(seed)
    done = []
    for _ in range(1 if rng.random() < 0.8 else 3):
        act = rng.choice(ACTS)
        try:
            done.append(f"{act.__name__.strip('_')} {act(run, outside, rng)}")
        except (OSError, pa.ArrowException, ValueError, IndexError, KeyError, TypeError) as error:
            done.append(f"{act.__name__.strip('_')} did nothing ({type(error).__name__})")
    return "; ".join(done)


def files(run: Path, rng: random.Random, ending: str = "") -> Path:
    found = sorted(p for p in run.rglob(f"*{ending}") if p.is_file() and not p.is_symlink())
    # what decides is damaged as often as all else together
    deciding = [p for p in found if "scores" in p.parts or p.parent == run]
    return rng.choice(deciding if deciding and rng.random() < 0.5 else found)


def _cut(run: Path, outside: Path, rng: random.Random) -> str:
    path = files(run, rng)
    data = path.read_bytes()
    path.write_bytes(data[: rng.randrange(len(data) + 1)])
    return str(path)


def _flip(run: Path, outside: Path, rng: random.Random) -> str:
    path = files(run, rng)
    data = bytearray(path.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(bytes(data))
    return str(path)


def _delete(run: Path, outside: Path, rng: random.Random) -> str:
    path = files(run, rng)
    if rng.random() < 0.3 and path.parent != run:
        shutil.rmtree(path.parent)
        return str(path.parent)
    path.unlink()
    return str(path)


def _replace(run: Path, outside: Path, rng: random.Random) -> str:
    path = files(run, rng)
    path.write_bytes(rng.choice(TEXTS))
    return str(path)


def _swap(run: Path, outside: Path, rng: random.Random) -> str:
    path = files(run, rng)
    other = files(run, rng, path.suffix)
    ours, theirs = path.read_bytes(), other.read_bytes()
    path.write_bytes(theirs)
    if rng.random() < 0.5:
        other.write_bytes(ours)
    return f"{path} {other}"


def _foreign(run: Path, outside: Path, rng: random.Random) -> str:
    """A file of a trial in a place that no file had."""
    path = files(run, rng, ".parquet")
    names = (
        "000050-dev.parquet", "000015-dev.parquet", "²-dev.parquet", f"{'9' * 30}-dev.parquet", "000045-[b].parquet",
        "000045-a\nb.parquet", "000045-=1+1.parquet", "000045-<b>.parquet", ".parquet", "000031-test.parquet",
    )  # fmt: skip
    folder = rng.choice(sorted((run / "scores").iterdir()))
    target = folder / rng.choice(names)
    target.write_bytes(path.read_bytes())
    return f"{path} {target!r}"


def _edit_table(run: Path, outside: Path, rng: random.Random) -> str:
    path = files(run, rng, ".parquet")
    table = pq.read_table(path)
    name = rng.choice(table.column_names)
    at = table.column_names.index(name)
    how = rng.choice(("drop", "type", "null", "value", "rows", "twice", "metadata", "bare"))
    if how == "drop":
        table = table.drop_columns([name])
    elif how == "type":
        kind = rng.choice(([7], ["x"], [[1.5]], [b"\xff"], [{"a": 1}], [True]))
        table = table.set_column(at, name, pa.array(kind * table.num_rows))
    elif how == "null":
        table = table.set_column(at, name, pa.nulls(table.num_rows, table.schema.field(at).type))
    elif how == "value":
        values = table[name].to_pylist()
        values[rng.randrange(len(values))] = rng.choice([*values, *HOSTILE])
        table = table.set_column(at, name, pa.array(values, table.schema.field(at).type))
    elif how == "rows":
        table = table.slice(rng.randrange(table.num_rows + 1))
    elif how == "twice":
        table = pa.concat_tables([table, table])
    elif how == "metadata":
        table = table.replace_schema_metadata({b"steadytune": json.dumps(rng.choice(HOSTILE)).encode()})
    if how == "bare" or rng.random() < 0.3:
        table = table.replace_schema_metadata(None)
    pq.write_table(table, path)
    return f"{path} {name} {how}"


def _edit_text(run: Path, outside: Path, rng: random.Random) -> str:
    """A value of a YAML or JSON file becomes another, of any type."""
    path = files(run, rng, rng.choice((".yaml", ".json")))
    load, dump = (yaml.safe_load, yaml.safe_dump) if path.suffix == ".yaml" else (json.loads, json.dumps)
    content = load(path.read_text())
    places = list(_places(content))
    holder, key = rng.choice(places)
    value = rng.choice(HOSTILE)
    if rng.random() < 0.3:
        del holder[key]
    else:
        holder[key] = value
    path.write_text(dump(content), errors="surrogatepass")
    return f"{path} {key} {value!r:.30}"


def _places(value: Any) -> Any:
    if isinstance(value, dict | list):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from _places(value[key])


def _link(run: Path, outside: Path, rng: random.Random) -> str:
    path = files(run, rng)
    if rng.random() < 0.5 and path.parent != run:
        path = path.parent
        shutil.rmtree(path)
        path.symlink_to(outside)
    else:
        path.unlink()
        path.symlink_to(outside / "mine.txt")
    return str(path)


def _other_kind(run: Path, outside: Path, rng: random.Random) -> str:
    path = files(run, rng)
    if rng.random() < 0.5 and path.parent != run:
        path = path.parent
        shutil.rmtree(path)
        path.write_text("a file")
    else:
        path.unlink()
        path.mkdir()
    return str(path)


def _loop(run: Path, outside: Path, rng: random.Random) -> str:
    path = files(run, rng)
    path.unlink()
    os.symlink(path.name, path)
    return str(path)


ACTS: tuple[Callable[[Path, Path, random.Random], str], ...] = (
    _cut, _flip, _flip, _delete, _replace, _swap, _foreign, _edit_table, _edit_table, _edit_text, _edit_text, _link,
    _other_kind, _loop,
)  # fmt: skip
