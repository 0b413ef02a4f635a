"""Files of prompts, as ids and texts: ``.yaml`` (id: text, or a list), ``.txt`` (one per line), ``.jsonl``
({"id": …, "text": …}).

A text is what stands in the file. A line ends at a line feed, with or without a carriage return before it, and nowhere
else: form feeds and the line separators of Unicode stay inside a prompt.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from trainer.data.grammar import UNUSABLE, PromptError
from trainer.errors import nearest
from trainer.files.yaml_nodes import YamlFault, children, has_other_tag, read_nodes

MOST_BYTES = 8 * 2**20  # of a file: 5,000 prompts of 1,600 characters
MOST_PROMPTS = 5_000  # of a file; every two of them are compared
LONGEST_ID = 200  # characters; it stands in tables and messages

_NOT_IN_IDS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_LINE_ENDS_OF_YAML = re.compile("[\x85\u2028\u2029]")


@dataclass(frozen=True)
class PoolEntry:
    """A prompt as the file has it; ``id`` is empty where the file gives none. ``line`` counts from 1."""

    line: int
    id: str
    text: str


def read_entries(path: str) -> list[PoolEntry]:
    """The prompts of a file, in its order. Blank lines around a text are dropped. Raises ``PromptError`` with a line
    for each thing that is wrong."""
    file = Path(path)
    if file.suffix.lower() not in _READERS:
        raise PromptError(f'{path}: ending "{file.suffix}" is not known.{nearest(file.suffix, _READERS)}')
    found = _READERS[file.suffix.lower()](_content(file, path), path)
    if not found:
        raise PromptError(f"{path}: holds no prompt")
    if len(found) > MOST_PROMPTS:
        raise PromptError(f"{path}: holds {len(found)} prompts; a pool may have {MOST_PROMPTS}. Divide the file")
    wrong = [f"{path}: line {e.line}: {says}" for e in found for says in _unusable(e)]
    if wrong:
        raise PromptError("\n".join(wrong))
    return found


def _content(file: Path, path: str) -> str:
    try:
        if file.stat().st_size > MOST_BYTES:
            raise PromptError(f"{path}: has {file.stat().st_size} bytes; a file of prompts may have {MOST_BYTES}")
        return file.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        beside = sorted(p.name for p in file.parent.iterdir()) if file.parent.is_dir() else []
        raise PromptError(f"{path}: no such file.{nearest(file.name, beside[:30])}") from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise PromptError(f"{path}: line {line} is not UTF-8 ({error.reason}). Store the file as UTF-8 text") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise PromptError(f"{path}: cannot be read ({error}). Give a file that you may read") from None


def _unusable(entry: PoolEntry) -> list[str]:
    """What no prompt and no id may hold."""
    said = []
    bad = _NOT_IN_IDS.search(entry.id)
    if bad:
        said.append(f"the id {entry.id[:40]!a} contains {_named(bad)}. Take it out")
    elif (entry.id and not entry.id.strip()) or len(entry.id) > LONGEST_ID:
        said.append(f"the id {entry.id[:40]!a} is blank, or longer than {LONGEST_ID} characters. Give a short name")
    bad = UNUSABLE.search(entry.text)
    if bad:
        said.append(f"the prompt contains {_named(bad)}, which no text can hold. Take it out")
    return said


def _named(found: re.Match[str]) -> str:
    return f"the character U+{ord(found.group()):04X}"


def _read_txt(content: str, path: str) -> list[PoolEntry]:
    lines = [line.removesuffix("\r") for line in content.split("\n")]
    for number, line in enumerate(lines, 1):
        if "\r" in line:
            raise PromptError(
                f"{path}: line {number} holds a carriage return without a line feed. Save the file with the line ends "
                "of Unix or Windows"
            )
    return [PoolEntry(n, "", line) for n, line in enumerate(lines, 1) if line.strip()]


def _read_yaml(content: str, path: str) -> list[PoolEntry]:
    broken = _LINE_ENDS_OF_YAML.search(content)
    if broken:
        line = content[: broken.start()].count("\n") + 1
        raise PromptError(
            f"{path}: line {line} contains {_named(broken)}, at which YAML ends a line. Write it as an escape, "
            f'"\\u{ord(broken.group()):04x}", in a text in double quotes, or take it out'
        )
    try:
        roots = read_nodes(content)  # ids and texts stay as written ("no", "1.0"), double ids are seen
    except YamlFault as fault:
        hint = ". Quote texts that contain a colon, or use a | block" if "is not YAML (" in str(fault) else ""
        raise PromptError(f"{path}: {fault}{hint}") from None
    if len(roots) > 1:
        raise PromptError(f"{path}: holds several documents (---). Put all prompts into one")
    root = roots[0] if roots else None
    pairs: list[tuple[Any, Any]]
    if isinstance(root, yaml.MappingNode):
        pairs = list(root.value)
    elif isinstance(root, yaml.SequenceNode):
        pairs = [(None, value) for value in root.value]
    else:
        raise PromptError(f"{path}: holds neither id: text pairs nor a list of texts")
    wrong = [
        f"line {node.start_mark.line + 1}: the tag {node.tag} has no meaning here. Remove it"
        for node in children(root)
        if has_other_tag(node)
    ]
    wrong += [says for key, value in pairs if (says := _no_text(key, value)) is not None]
    if wrong:
        raise PromptError("\n".join(f"{path}: {says}" for says in wrong))
    return [
        PoolEntry(value.start_mark.line + 1, key.value if key is not None else "", value.value.strip("\r\n"))
        for key, value in pairs
    ]


def _no_text(key: Any, value: Any) -> str | None:
    if key is not None and not isinstance(key, yaml.ScalarNode):
        return f"line {key.start_mark.line + 1}: an id is a list or a mapping. Give a short name"
    if not isinstance(value, yaml.ScalarNode):  # an unquoted {{ text }} is a yaml mapping, the commonest slip here
        name = key.value if key is not None else ""
        return (
            f'line {value.start_mark.line + 1}: prompt "{name}" is no text. Quote it, or use a | block '
            "({{ … }} at the start needs quotes)"
        )
    return None


def _read_jsonl(content: str, path: str) -> list[PoolEntry]:
    found, wrong = [], []
    for number, line in enumerate(content.split("\n"), 1):
        if not line.strip(" \t\r"):
            continue
        try:
            found.append(_entry(number, json.loads(line, object_pairs_hook=_once)))
        except (ValueError, RecursionError) as error:
            why = str(error) if type(error) is PromptSlip else 'is not of the form {"id": "p1", "text": "…"}'
            wrong.append(f"{path}: line {number}{why if why.startswith(':') else ' ' + why}")
    if wrong:
        raise PromptError("\n".join(wrong))
    return found


class PromptSlip(ValueError):
    """What is wrong with a record of a JSON Lines file."""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) < len(pairs):
        twice = next(k for i, (k, _) in enumerate(pairs) if k in dict(pairs[:i]))
        raise PromptSlip(f": {twice!a:.40} is given twice. Keep one")
    return record


def _entry(number: int, record: Any) -> PoolEntry:
    if not isinstance(record, dict) or "text" not in record:
        raise ValueError
    text, name = record["text"], record.get("id")
    if not isinstance(text, str):
        raise PromptSlip(f": text = {text!r:.40} is no text")
    if isinstance(name, bool | float | list | dict):
        raise PromptSlip(f": id = {name!a:.40} is neither a text nor a whole number")
    return PoolEntry(number, "" if name is None else str(name), text.strip("\r\n"))


_READERS: dict[str, Callable[[str, str], list[PoolEntry]]] = {
    ".yaml": _read_yaml, ".yml": _read_yaml, ".txt": _read_txt, ".jsonl": _read_jsonl,
}  # fmt: skip
