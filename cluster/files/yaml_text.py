"""YAML files: read strictly, with the line of each mistake, and changed without losing comments and layout."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap

from trainer.errors import UserError
from trainer.files.yaml_nodes import YamlFault, keys_twice, plain_value, read_nodes


class YamlError(UserError):
    """A file is not YAML, or has a key twice."""


def yaml_documents(text: str, where: str) -> list[Any]:
    """The documents of a YAML file, by the rules of YAML 1.1, as Ray and kubectl read them. Raises YamlError with the
    line."""
    try:
        roots = read_nodes(text)
        twice = [str(found) for root in roots for found in keys_twice(root)]
        if twice:
            raise YamlError("\n".join(f"{where}: {found}." for found in twice))
        return [value for value in map(plain_value, roots) if value is not None]
    except YamlFault as fault:
        raise YamlError(f"{where}: {fault}.") from None


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
