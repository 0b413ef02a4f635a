"""YAML as text: read with the place of every value, and edited without touching the rest, comments included."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import yaml

from cluster.files.finding import Path, dotted
from trainer.errors import UserError


class YamlError(UserError):
    """A file that is not YAML, or holds a key twice."""


def documents(text: str, where: str) -> list[Any]:
    """The documents of a YAML file, read by YAML 1.1 rules as Ray and kubectl do. YamlError with the line."""
    try:
        nodes = list(yaml.compose_all(text, Loader=yaml.SafeLoader))
        twice = [found for node in nodes if node is not None for found in _duplicates(node, (), set())]
        if twice:
            raise YamlError("\n".join(f"{where}: line {line}: {key} is given twice. Keep one." for key, line in twice))
        return [value for value in yaml.safe_load_all(text) if value is not None]
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        at = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise YamlError(f"{where}: {at}is not YAML ({error.problem or error.context}).") from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise YamlError(f"{where}: is not YAML ({str(error).splitlines()[0]}).") from None


def _duplicates(node: yaml.Node, path: Path, seen: set[int]) -> Iterator[tuple[str, int]]:
    if id(node) in seen:  # an alias
        return
    seen.add(id(node))
    if isinstance(node, yaml.MappingNode):
        keys: set[str] = set()
        for key, value in node.value:
            if key.value in keys and key.value != "<<":
                yield dotted((*path, str(key.value))), key.start_mark.line + 1
            keys.add(key.value)
            yield from _duplicates(value, (*path, str(key.value)), seen)
    elif isinstance(node, yaml.SequenceNode):
        for i, value in enumerate(node.value):
            yield from _duplicates(value, (*path, i), seen)


def replaced(text: str, path: Path, value: Any) -> str:
    """``text`` with the value at ``path`` (in the document that has it) written anew. KeyError where there is none."""
    _, node = _entry(text, path)
    start, end = node.start_mark.index, node.end_mark.index
    plain = isinstance(value, str) and re.fullmatch(r"[A-Za-z~/][\w./:@~-]*", value) and not value.endswith(":")
    block = getattr(node, "style", None) in ("|", ">")  # ends after its line break
    return text[:start] + (value if plain else json.dumps(value, ensure_ascii=False)) + "\n" * block + text[end:]


def without(text: str, path: Path) -> str:
    """``text`` without the lines of the mapping entry or list item at ``path``."""
    key, node = _entry(text, path)
    lines = text.splitlines(keepends=True)
    return "".join(lines[: key.start_mark.line] + lines[_end(lines, node) :])


def inserted(text: str, path: Path, entry: str) -> str:
    """``text`` with ``entry`` as a line of its own after the entry or item at ``path``, indented as that is."""
    key, node = _entry(text, path)
    lines = text.splitlines(keepends=True)
    first = lines[key.start_mark.line]
    indent = first[: len(first) - len(first.lstrip())]
    end = _end(lines, node)
    return "".join([*lines[:end], f"{indent}{entry}\n", *lines[end:]])


def _end(lines: list[str], node: yaml.Node) -> int:
    """The number of the first line after a node. A block's end mark stands where the next token begins."""
    end = node.end_mark.line
    if end < len(lines) and lines[end][: node.end_mark.column].strip():
        return end + 1
    while end > node.start_mark.line + 1 and (not lines[end - 1].strip() or lines[end - 1].lstrip().startswith("#")):
        end -= 1  # blank lines and comments before the next key belong to that
    return end


def _entry(text: str, path: Path) -> tuple[yaml.Node, yaml.Node]:
    """(key or item, value) at ``path`` in the first document that has it."""
    for document in yaml.compose_all(text, Loader=yaml.SafeLoader):
        key: yaml.Node = document
        node: yaml.Node | None = document
        for part in path:
            found: tuple[yaml.Node, yaml.Node] | None = None
            if isinstance(node, yaml.MappingNode):
                found = next(((k, v) for k, v in node.value if k.value == part), None)
            elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
                found = (node.value[part], node.value[part])
            if found is None:
                node = None
                break
            key, node = found
        if node is not None:
            return key, node
    raise KeyError(dotted(path))
