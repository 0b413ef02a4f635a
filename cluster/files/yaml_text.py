"""YAML files: read strictly, with the line of each mistake, and changed without losing comments and layout."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap

from cluster.files.key_path import KeyPath, key_text
from trainer.errors import UserError


class YamlError(UserError):
    """A file is not YAML, or has a key twice."""


def yaml_documents(text: str, where: str) -> list[Any]:
    """The documents of a YAML file, by the rules of YAML 1.1, as Ray and kubectl read them. Raises YamlError with the
    line."""
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


def _duplicates(node: yaml.Node, path: KeyPath, seen: set[int]) -> Iterator[tuple[str, int]]:
    if id(node) in seen:  # an alias
        return
    seen.add(id(node))
    if isinstance(node, yaml.MappingNode):
        keys: set[str] = set()
        for key, value in node.value:
            if key.value in keys and key.value != "<<":
                yield key_text((*path, str(key.value))), key.start_mark.line + 1
            keys.add(key.value)
            yield from _duplicates(value, (*path, str(key.value)), seen)
    elif isinstance(node, yaml.SequenceNode):
        for i, value in enumerate(node.value):
            yield from _duplicates(value, (*path, i), seen)


def load_with_comments(text: str) -> list[Any]:
    """The documents of a shipped file, to be changed in place and handed to ``dump_with_comments``."""
    return list(_editor().load_all(text))


def dump_with_comments(documents: Sequence[Any]) -> str:
    """Documents of ``load_with_comments`` as text: the comments, quotes and layout of what was not changed stay."""
    written = io.StringIO()
    _editor().dump_all(documents, written)
    return written.getvalue()


def flow_mapping(values: Mapping[str, Any]) -> CommentedMap:
    """A mapping that ``dump_with_comments`` writes as ``{a: 1, b: 2}``."""
    made = CommentedMap(values)
    made.fa.set_flow_style()
    return made


def _editor() -> YAML:
    """Set up so that the shipped files come out as they went in."""
    editor = YAML()
    editor.preserve_quotes = True
    editor.width = 10_000  # never wrap a line
    editor.indent(mapping=2, sequence=4, offset=2)
    return editor
