"""From the nodes of a study's YAML to its values, by the core rules of YAML 1.2.

By the rules of 1.1, ``no`` and ``yes`` would be truth values, 1:30 the number 90 and ``1e-3`` a text. Where the study
wants a text, a plain scalar is the text that stands in the file: the label ``007`` stays 007, and ``false`` is five
letters. Everywhere else a scalar is what YAML makes of it, and a tag that does not fit its text is a mistake.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import yaml

from trainer.errors import short
from trainer.files.yaml_nodes import YamlFault, bounded

Path = tuple[str | int, ...]  # of a value in a study: ("axes", "lr", 0) is written axes.lr[0]
TextAt = Callable[[Path], bool]  # whether a text is wanted at a place of the study
MOST_DIGITS = 400  # of a whole number: more than any bound of the schema, few enough to be read in no time

_TAG = "tag:yaml.org,2002:"
_CORE = (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    (
        "float",
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
    ("merge", r"<<", ["<"]),
)
_PATTERNS = {_TAG + kind: re.compile(f"^(?:{pattern})$") for kind, pattern, _ in _CORE}
_SCALARS = {"null": "null", "bool": "true or false", "int": "a whole number", "float": "a number", "str": "a text"}


class _Loader(yaml.SafeLoader):
    """Reads YAML 1.2's core types and no others."""


class StudyDumper(yaml.SafeDumper):
    """Quotes every text that YAML 1.1 or 1.2 would take for something else, so that any reader gets it right."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_Loader.yaml_implicit_resolvers = {}
for _class in (_Loader, StudyDumper):
    for _kind, _, _first in _CORE:
        _class.add_implicit_resolver(_TAG + _kind, _PATTERNS[_TAG + _kind], _first)
CoreLoader = bounded(_Loader)


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar(_TAG + "str", text, style='"' if "\n" in text else None)


StudyDumper.add_representer(str, _represent_text)


def plain_value(root: yaml.Node, text_at: TextAt, at: Path = ()) -> tuple[Any, list[YamlFault]]:
    """The value of a document whose place in the study is ``at``, mapping keys as the text in the file, and all that is
    wrong with it. Of a key that stands twice, the second counts (``trainer.files.yaml_nodes.keys_twice`` tells it)."""
    made = _Values(text_at)
    return made.value(root, at), made.faults


class _Values:
    def __init__(self, text_at: TextAt):
        self.text_at = text_at
        self.faults: list[YamlFault] = []
        self._merger = yaml.SafeLoader("")

    def value(self, node: yaml.Node, path: Path) -> Any:
        if isinstance(node, yaml.MappingNode) and node.tag == _TAG + "map":
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode) and node.tag == _TAG + "seq":
            return [self.value(item, (*path, i)) for i, item in enumerate(node.value)]
        if isinstance(node, yaml.ScalarNode) and node.tag.removeprefix(_TAG) in _SCALARS:
            return self._scalar(node, path)
        self._wrong(f"the tag {_shown(node.tag)} has no meaning here. Remove it", node)
        return None

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
        try:
            self._merger.flatten_mapping(node)  # what "<<" names, before the mapping's own keys
        except yaml.MarkedYAMLError as error:
            self._wrong(f"is not YAML ({error.problem})", node)
            return {}
        made: dict[str, Any] = {}
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode):
                made[key.value] = self.value(value, (*path, key.value))
            else:
                self._wrong("a mapping or list stands where a key must be. Quote texts that begin with { or [", key)
        return made

    def _scalar(self, node: yaml.ScalarNode, path: Path) -> Any:
        kind, text = node.tag.removeprefix(_TAG), node.value
        if kind == "str":
            return text
        if not _PATTERNS[node.tag].match(text):  # an explicit tag; what is implicit fits
            self._wrong(f'"{short(text)}" is not {_SCALARS[kind]}, as its tag !!{kind} says. Remove the tag', node)
            return None
        if kind == "null":
            return None
        if self.text_at(path):
            return text
        if kind == "bool":
            return text.lower() == "true"
        if kind == "float":
            return float(re.sub(r"\.(?=inf|nan)", "", text.lower()))
        if len(text) > MOST_DIGITS:
            self._wrong(f"{short(text, 40)} has {len(text):,} digits: no number of a study is so large", node)
            return None
        return int(text, 0) if text[:2] in ("0x", "0o") else int(text)

    def _wrong(self, what: str, node: yaml.Node) -> None:
        self.faults.append(YamlFault(what, node.start_mark))


def _shown(tag: str) -> str:
    return short(f"!!{tag.removeprefix(_TAG)}" if tag.startswith(_TAG) else tag, 60)
