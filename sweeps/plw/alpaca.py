"""Files of instruction, input and output (Alpaca's format): their lengths, and the variant with short completions.

The prompt-loss-weight study finds that the weight matters where completions are short beside their prompts, so the
ratio of the two is the first thing to know about a data set. Lengths are counted as in the study's table 1: each field
is encoded by itself, without special tokens or a prompt template; an empty field counts 0. The short variant swaps
completion and instruction where the completion is longer than the prompt (instruction and input). The study does not
say in which unit it compared them, so both tokens and characters are offered. Neither torch nor ray is imported, and
transformers only for the name of a model on the hub.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from trainer.data.row_table import Cell, RowTable, flaw, in_short
from trainer.data.sources import COMPRESSED, RowSource, open_table, read_file
from trainer.data.sources import FORMATS as ROW_FORMATS
from trainer.errors import UserError, nearest

FIELDS = ("instruction", "input", "output")
FORMATS = (".parquet", ".json", ".jsonl", ".ndjson")
WITHOUT_CONTEXT = "Predict the prompt that generated the following AI output."
WITH_CONTEXT = "Predict the prompt that generated the below AI output given the following context. Context: {}"
_OF_FILES = {*FORMATS, *ROW_FORMATS, *COMPRESSED, ".txt", ".xlsx", ".yaml", ".yml", ".zip"}
_CHUNK = 4096  # texts in one call of a tokenizer
_HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")

Counter = Callable[[Sequence[str]], NDArray[np.int64]]  # texts -> length of each


@dataclass(frozen=True)
class AlpacaRecords:
    """The rows of a file, as one tuple per field. A row without input has ""."""

    instruction: tuple[str, ...]
    input: tuple[str, ...]
    output: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.output)


@dataclass(frozen=True)
class PublishedLengths:
    """A row of the study's table 1 as printed: means and standard deviations in tokens of LLaMA's tokenizer."""

    instruction: tuple[float, float]
    input: tuple[float, float]
    completion: tuple[float, float]
    total: int
    ratio: str  # completion / prompt


HUB = {
    "AlpacaData": "tatsu-lab/alpaca",
    "AlpacaDataCleaned": "yahma/alpaca-cleaned",
}  # name in the study -> public name
PUBLISHED = {
    "AlpacaData": PublishedLengths((13.40, 4.97), (6.25, 14.38), (64.51, 64.85), 4_376_482, "3.27"),
    "AlpacaDataCleaned": PublishedLengths((14.21, 9.95), (6.42, 17.65), (162.74, 150.89), 9_490_837, "7.83"),
    "AlpacaDataShort": PublishedLengths((16.93, 13.10), (162.34, 151.69), (14.62, 10.99), 10_035_667, "0.081"),
}


@dataclass(frozen=True)
class Lengths:
    """A row of the study's table 1, for one file. Pairs are (mean, standard deviation with ``ddof`` 1) over rows."""

    rows: int
    instruction: tuple[float, float]
    input: tuple[float, float]
    completion: tuple[float, float]
    row: tuple[float, float]  # the three together
    total: int  # over all rows
    ratio: float  # completion / prompt over the file; the prompt is instruction and input
    ratio_characters: float


def measure_lengths(records: AlpacaRecords, count: Counter) -> Lengths:
    """The lengths of ``records`` in the unit of ``count``."""
    instruction, given, completion = (count(t) for t in (records.instruction, records.input, records.output))
    whole = instruction + given + completion
    prompt = int(instruction.sum() + given.sum())
    by_character = [int(characters(t).sum()) for t in (records.instruction, records.input, records.output)]
    return Lengths(
        rows=len(records),
        instruction=_mean_std(instruction),
        input=_mean_std(given),
        completion=_mean_std(completion),
        row=_mean_std(whole),
        total=int(whole.sum()),
        ratio=_ratio(int(completion.sum()), prompt),
        ratio_characters=_ratio(by_character[2], by_character[0] + by_character[1]),
    )


def shorten(records: AlpacaRecords, count: Counter) -> tuple[AlpacaRecords, int]:
    """``records`` with completion and instruction swapped where the completion is longer than the prompt, and the
    number of swapped rows. Order and number of rows do not change."""
    longer = count(records.output) > count(records.instruction) + count(records.input)
    rows = [
        (WITH_CONTEXT.format(i) if i else WITHOUT_CONTEXT, o, p) if swap else (p, i, o)
        for p, i, o, swap in zip(records.instruction, records.input, records.output, longer, strict=True)
    ]
    instruction, given, output = zip(*rows, strict=True)
    return AlpacaRecords(instruction, given, output), int(longer.sum())


def against_published(found: Lengths, name: str) -> list[str]:
    """A line for each number of the study's row ``name``: whether ``found`` gives it, rounded as it is printed."""
    row, lines = PUBLISHED[name], []
    for part in FIELDS:
        field = "completion" if part == "output" else part
        wanted, has = getattr(row, field), getattr(found, field)
        for what, a, b in (("mean", wanted[0], has[0]), ("std", wanted[1], has[1])):
            lines.append((f"{field}, {what}", f"{a:.2f}", f"{b:.2f}"))
    lines.append(("total tokens", f"{row.total:,}", f"{found.total:,}"))
    ratios = [f"{v:.{len(row.ratio.partition('.')[2])}f}" for v in (found.ratio, found.ratio_characters)]
    ours = row.ratio if row.ratio in ratios else f"{ratios[0]} ({ratios[1]} of characters)"
    lines.append(("completion/prompt", row.ratio, ours))
    return [f"{what}: {a}, equal" if a == b else f"{what}: published {a}, here {b}" for what, a, b in lines]


def file_hash(name: str) -> str | None:
    """SHA-256 of a file; None of a data set on the hub."""
    return hashlib.sha256(Path(name).read_bytes()).hexdigest() if Path(name).is_file() else None


def lengths_table(found: Sequence[tuple[str, Lengths]]) -> str:
    """The study's table 1 as Markdown, with a row per file."""
    head = ["file", "rows", "instruction", "input", "completion", "row", "total tokens", "completion/prompt"]
    lines = ["| " + " | ".join([*head, "of characters"]) + " |", "|" + " --- |" * (len(head) + 1)]
    for name, one in found:
        pairs = [f"{mean:.2f} ({std:.2f})" for mean, std in (one.instruction, one.input, one.completion, one.row)]
        cells = [name, f"{one.rows:,}", *pairs, f"{one.total:,}", f"{one.ratio:.3g}", f"{one.ratio_characters:.3g}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _mean_std(values: NDArray[np.int64]) -> tuple[float, float]:
    return float(values.mean()), float(values.std(ddof=1)) if values.size > 1 else 0.0


def _ratio(completion: int, prompt: int) -> float:
    return completion / prompt if prompt else float("inf")


# units -----------------------------------------------------------------------------------------------------------


def characters(texts: Sequence[str]) -> NDArray[np.int64]:
    return np.fromiter(map(len, texts), dtype=np.int64, count=len(texts))


def tokens(name: str) -> Counter:
    """Count tokens with a tokenizer: that in a folder (tokenizer.json or tokenizer.model), in such a file, or of a
    model on the hub. UserError where there is none."""
    path = Path(name)
    if path.is_dir():
        for file in ("tokenizer.json", "tokenizer.model"):
            if (path / file).is_file():
                return tokens(str(path / file))
        raise UserError(
            f"--tokenizer = {name}: holds neither tokenizer.json nor tokenizer.model. "
            f"It holds: {', '.join(sorted(os.listdir(path))[:10]) or 'nothing'}"
        )
    if path.is_file():
        return _of_sentencepiece(path) if path.suffix == ".model" else _of_json(path)
    if name.startswith((".", "/", "~")) or name.count("/") > 1 or path.suffix in (".json", ".model"):
        raise UserError(f'--tokenizer = "{name}" does not exist.{_beside(path)}')
    return _of_hub(name)


def _of_json(path: Path) -> Counter:
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the Rust library raises plain Exception
        raise UserError(f"--tokenizer = {path}: is no tokenizer ({error}). Give what save_pretrained wrote") from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return _counter(lambda part: (len(e) for e in tokenizer.encode_batch(part, add_special_tokens=False)))


def _of_sentencepiece(path: Path) -> Counter:
    try:
        from sentencepiece import SentencePieceProcessor
    except ImportError:
        raise UserError(f"{path} needs the package sentencepiece: pip install sentencepiece") from None
    model = SentencePieceProcessor()
    try:
        model.Load(str(path))
    except (OSError, RuntimeError) as error:
        raise UserError(f"--tokenizer = {path}: is no SentencePiece model ({error})") from None
    return _counter(lambda part: map(len, model.Encode(part, out_type=int)))


def _of_hub(name: str) -> Counter:
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
    except Exception as error:  # transformers raises many kinds
        detail = " ".join(str(error).split())[:200]
        raise UserError(
            f'--tokenizer = "{name}" is no folder here, and as a hub name it cannot be read ({detail}). '
            f"Check the spelling and the network, or give a folder.{_beside(Path(name))}"
        ) from None
    return _counter(lambda part: map(len, tokenizer(part, add_special_tokens=False, verbose=False)["input_ids"]))


def _counter(encode: Callable[[list[str]], Any]) -> Counter:
    """A counter that encodes each distinct text once, in batches. "" counts 0 even where the tokenizer adds tokens."""

    def count(texts: Sequence[str]) -> NDArray[np.int64]:
        known = {"": 0}
        new = [t for t in dict.fromkeys(texts) if t]
        for start in range(0, len(new), _CHUNK):
            part = new[start : start + _CHUNK]
            known.update(zip(part, encode(part), strict=True))
        return np.fromiter((known[t] for t in texts), dtype=np.int64, count=len(texts))

    return count


# files -----------------------------------------------------------------------------------------------------------


def on_hub(name: str) -> bool:
    """Whether ``name`` stands for a data set on the hub. One that ends like a file is a file that is missing."""
    hub_name = _HUB_NAME.fullmatch(name) is not None and Path(name).suffix.lower() not in _OF_FILES
    return not Path(name).exists() and (name in HUB or hub_name)


def read_records(name: str) -> AlpacaRecords:
    """The rows of a parquet, json or jsonl file, or of a data set on the hub by its public name or its name in the
    study, read like the rows of a study. Other columns are ignored. UserError says which file and row is wrong."""
    path = Path(name)
    if path.is_file():
        if path.suffix.lower() not in FORMATS:
            raise UserError(f'{name}: the ending "{path.suffix}" is not known.{nearest(path.suffix, FORMATS)}')
        table = read_file(name, "FILE", FIELDS)
    elif path.is_dir():
        raise UserError(f'FILE = "{name}" is a folder, not a file')
    elif on_hub(name):
        table = open_table(RowSource(HUB.get(name, name), FIELDS, "output", split="train"), "train", "FILE")
    else:
        raise UserError(f'FILE = "{name}" does not exist.{_beside(path)}')
    if not table.n:
        raise UserError(f"{name}: has no rows")
    for field in ("instruction", "output"):  # in Alpaca's format the input is optional
        if field not in table.cells:
            raise UserError(f'{name}: has no column "{field}".{nearest(field, table.names)}')
    given = table.cells.get("input", [None] * table.n)
    return AlpacaRecords(
        _texts(table, "instruction", table.cells["instruction"]),
        _texts(table, "input", ["" if cell is None else cell for cell in given]),
        _texts(table, "output", table.cells["output"]),
    )


def check_ending(out: str) -> None:
    """UserError unless the ending of ``out`` names a format that is written."""
    ending = Path(out).suffix
    if ending.lower() not in FORMATS:
        raise UserError(f'--out = {out}: the ending "{ending}" is not known.{nearest(ending, FORMATS)}')


def write_records(records: AlpacaRecords, name: str) -> None:
    """Write the three columns in the format that the file's ending names."""
    check_ending(name)
    path = Path(name)
    columns = {field: getattr(records, field) for field in FIELDS}
    if path.suffix.lower() == ".parquet":
        buffer = io.BytesIO()
        pq.write_table(pa.table({k: pa.array(v, pa.string()) for k, v in columns.items()}), buffer, compression="zstd")
        data = buffer.getvalue()
    else:
        rows = [dict(zip(FIELDS, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        lines = (json.dumps(row, ensure_ascii=False) for row in rows)
        whole = path.suffix.lower() == ".json"
        text = "[\n" + ",\n".join(lines) + "\n]\n" if whole else "".join(f"{line}\n" for line in lines)
        data = text.encode()
    part = path.with_name(f"{path.name}.part")
    try:
        part.write_bytes(data)
        os.replace(part, path)
    except OSError as error:
        raise UserError(f"--out = {name}: cannot be written ({error.strerror}). Name another place") from None


def _texts(table: RowTable, field: str, cells: Sequence[Cell]) -> tuple[str, ...]:
    found = []
    for i, cell in enumerate(cells):
        if not isinstance(cell, str):
            said = "null" if cell is None else f"{in_short(cell)}, not text"
            raise UserError(f'{table.place(i)}: column "{field}" is {said}. Fill it, or leave the row out')
        if why := flaw(cell):
            raise UserError(f'{table.place(i)}: column "{field}" {why}. Mend the file: it may be damaged')
        found.append(cell)
    return tuple(found)


def _beside(path: Path) -> str:
    folder = path.parent
    names = sorted(n for n in os.listdir(folder) if not n.startswith(".")) if folder.is_dir() else []
    return nearest(path.name, names[:30])
