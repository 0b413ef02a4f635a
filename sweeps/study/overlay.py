"""The layers of a study, the YAML file and the command line's ``key=value``: reads them, makes their paths absolute and
lays one over the other.

YAML is read by the 1.2 core rules, because 1.1 turns the labels ``no`` and ``yes`` into booleans and leaves
``1e-3`` a text. Duplicate keys are refused. Relative paths become absolute here, each against the place
where it was written: the study's folder, or the current folder for the command line.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from trainer.errors import UserError, nearest

Path = tuple[str | int, ...]  # of a value in a study: ("axes", "lr", 0) is written axes.lr[0]


class StudyError(UserError):
    """The study cannot be used as it is; one line for each thing that is wrong."""


@dataclass(frozen=True)
class Override:
    """One ``key=value`` of the command line."""

    path: Path
    value: Any
    raw: str  # the value as it was typed


# YAML ---------------------------------------------------------------------------------------------------------


class _Loader(yaml.SafeLoader):
    """Reads YAML 1.2's core types and no others."""


class _Dumper(yaml.SafeDumper):
    """Quotes every text that YAML 1.1 or 1.2 would take for something else, so that any reader gets it right."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


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
_Loader.yaml_implicit_resolvers = {}
for _class in (_Loader, _Dumper):
    for _tag, _pattern, _first in _CORE:
        _class.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), _first)


def _construct_int(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    text = loader.construct_scalar(node)
    return int(text, 0) if text[:2] in ("0x", "0o") else int(text)


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"' if "\n" in text else None)


_Loader.add_constructor("tag:yaml.org,2002:int", _construct_int)
_Dumper.add_representer(str, _represent_text)


def parse_yaml(text: str, where: str) -> Any:
    """The plain value of one YAML document, mapping keys as text. StudyError with the line where it is not YAML."""
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        twice = [
            f"{where}: line {line}: {key} is given twice (first on line {first}). Keep one"
            for key, line, first in _duplicates(node)
        ]
        if twice:
            raise StudyError("\n".join(twice))
        return _text_keys(loader.construct_document(node))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        at = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        fix = ". Indent with spaces" if "\\t" in str(error.problem) else ""
        raise StudyError(f"{where}: {at}is not YAML ({error.problem or error.context}){fix}") from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise StudyError(f"{where}: is not YAML ({str(error).splitlines()[0]})") from None
    finally:
        loader.dispose()


def dump_yaml(value: Mapping[str, Any]) -> str:
    """``value`` as YAML that ``parse_yaml`` reads back equal."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=None, width=110)


def _duplicates(root: yaml.Node) -> Iterator[tuple[str, int, int]]:
    """(dotted key, line, line of the first) of keys that a mapping holds more than once."""
    seen: set[int] = set()

    def walk(node: yaml.Node, path: Path) -> Iterator[tuple[str, int, int]]:
        if id(node) in seen:  # an alias: walked where it was anchored
            return
        seen.add(id(node))
        if isinstance(node, yaml.MappingNode):
            lines: dict[str, int] = {}
            for key, value in node.value:
                name = key.value if isinstance(key, yaml.ScalarNode) else str(key.value)
                line = key.start_mark.line + 1
                if name in lines:
                    yield dotted((*path, name)), line, lines[name]
                lines.setdefault(name, line)
                yield from walk(value, (*path, name))
        elif isinstance(node, yaml.SequenceNode):
            for i, value in enumerate(node.value):
                yield from walk(value, (*path, i))

    yield from walk(root, ())


def _text_keys(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _text_keys(v) for k, v in value.items()}
    return [_text_keys(v) for v in value] if isinstance(value, list) else value


# layers -------------------------------------------------------------------------------------------------------


def read_study_file(path: str) -> dict[str, Any]:
    """The study's own layer, paths absolute. StudyError where there is no readable mapping."""
    try:
        with open(path, encoding="utf-8-sig") as f:
            text = f.read()
    except FileNotFoundError:
        raise StudyError(f"{path}: no such file.{_neighbours(path)}") from None
    except IsADirectoryError:
        raise StudyError(f"{path}: is a folder, not a study file") from None
    except UnicodeDecodeError:
        raise StudyError(f"{path}: is not text in UTF-8") from None
    except OSError as error:
        raise StudyError(f"{path}: cannot be read ({error.strerror})") from None
    value = parse_yaml(text, path)
    if value is None or value == {}:
        raise StudyError(
            f"{path}: is empty. A study needs model, task and pools; copy one from sweeps/studies to begin"
        )
    if not isinstance(value, dict):
        raise StudyError(f"{path}: is not a study: it must be a mapping of keys such as model, task, pools and axes")
    return located(value, os.path.dirname(os.path.abspath(path)))


def parse_override(text: str) -> Override:
    """``axes.lr=[1e-3, 3e-3]`` as its path and value."""
    key, sign, raw = text.partition("=")
    if not sign:
        raise StudyError(f'command line: "{text}" has no value. Write {text}=value')
    if not all(part.strip() for part in key.split(".")):
        raise StudyError(f'command line: "{text}" has no key. Write key=value, such as training.batch_size=4')
    path: Path = tuple(part.strip() for part in key.split("."))
    return Override(path, parse_yaml(raw, f"command line: {text}"), raw)


def lay_over(below: dict[str, Any], override: Override) -> dict[str, Any]:
    """``below`` with the override's value in place of what was at its path; lists and mappings are replaced whole.
    ``axes.steps`` and ``axes.epochs`` both set the length of training, so giving one removes the other."""
    key, *rest = override.path
    name = str(key)
    if not rest:
        return {**below, name: override.value}
    inner = below.get(name)
    inner = dict(inner) if isinstance(inner, dict) else {}
    if override.path in (("axes", "steps"), ("axes", "epochs")):
        inner.pop("epochs" if rest == ["steps"] else "steps", None)
    return {**below, name: lay_over(inner, Override(tuple(rest), override.value, override.raw))}


def located_override(override: Override, folder: str) -> Override:
    """The override with its relative paths made absolute against ``folder``."""
    layer = located(lay_over({}, override), folder)
    return Override(override.path, get(layer, override.path), override.raw)


# paths --------------------------------------------------------------------------------------------------------

_DATA_FILES = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".arrow", ".txt", ".yaml", ".yml", ".gz", ".zst")


def located(layer: dict[str, Any], folder: str) -> dict[str, Any]:
    """``layer`` with every relative path of a file in it made absolute; names on the hub and URLs stay."""

    def inside(mapping: Any, key: str, change: Callable[[Any], Any]) -> Any:
        return {**mapping, key: change(mapping[key])} if isinstance(mapping, dict) and key in mapping else mapping

    def each(mapping: Any, change: Callable[[Any], Any], leave: Sequence[str] = ()) -> Any:
        return {k: v if k in leave else change(v) for k, v in mapping.items()} if isinstance(mapping, dict) else mapping

    def named(text: Any) -> Any:
        return absolute(text, folder, hub=True)

    def file(text: Any) -> Any:
        return absolute(text, folder, hub=False)

    def source(value: Any) -> Any:
        return named(value) if isinstance(value, str) else inside(value, "path", named)

    def pool(value: Any) -> Any:
        return file(value) if isinstance(value, str) else inside(value, "file", file)

    def train_pools(value: Any) -> Any:
        if isinstance(value, str) or (isinstance(value, dict) and isinstance(value.get("file"), str)):
            return pool(value)
        return each(value, pool)

    layer = inside(layer, "model", lambda model: inside(model, "path", named))
    layer = inside(layer, "task", lambda task: inside(task, "rows", lambda rows: each(rows, source)))
    return inside(layer, "pools", lambda pools: each(inside(pools, "train", train_pools), pool, leave=["train"]))


def absolute(text: Any, folder: str, hub: bool) -> Any:
    """An absolute path. What is not text, a URL, or with ``hub`` a name on the hub is returned as it is."""
    if not isinstance(text, str) or not text or "://" in text or "$" in text:
        return text
    path = os.path.normpath(os.path.join(folder, os.path.expanduser(text)))
    hub_name = re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", text) and not text.lower().endswith(_DATA_FILES)
    return text if hub and hub_name and not os.path.exists(path) else path


def is_local(text: str) -> bool:
    return os.path.isabs(text)


def missing_file(text: str) -> str | None:
    """The message for a local path that does not exist, with the nearest name in its folder; None if it exists. A
    pattern such as ``rows-*.jsonl`` is not checked here."""
    if not is_local(text) or os.path.exists(text) or any(c in text for c in "*?["):
        return None
    return f"does not exist.{_neighbours(text)}"


def _neighbours(path: str) -> str:
    folder = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(folder):
        return f" Its folder {folder} does not exist either"
    names = sorted(n for n in os.listdir(folder) if not n.startswith("."))
    alike = [n for n in names if os.path.splitext(n)[1] == os.path.splitext(path)[1]] or names
    return nearest(os.path.basename(path), alike) if alike else f" Its folder {folder} is empty"


# paths inside a study -----------------------------------------------------------------------------------------


def dotted(path: Path) -> str:
    """("axes", "lr", 0) as ``axes.lr[0]``."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


class Absent:
    """Stands for a value that a layer does not hold."""


def get(layer: Any, path: Path) -> Any:
    """The value at ``path``; ``Absent`` when there is none."""
    for part in path:
        held = range(len(layer)) if isinstance(layer, list | tuple) else layer if isinstance(layer, Mapping) else ()
        if part not in held:
            return Absent
        layer = layer[part]
    return layer
