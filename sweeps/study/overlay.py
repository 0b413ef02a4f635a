"""The layers of a study, the YAML file and the command line's ``key=value``: reads them, makes their paths absolute and
lays one over the other.

``yaml_values.py`` says how YAML becomes values. Duplicate keys are refused. Relative paths become absolute here, each
against the place where it was written: the study's folder, or the current folder for the command line.
"""

from __future__ import annotations

import numbers
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import yaml

from sweeps.study.yaml_values import CoreLoader, Path, StudyDumper, TextAt, plain_value
from trainer.errors import UserError, nearest, short
from trainer.files.yaml_nodes import MOST_CHARACTERS, YamlFault, keys_twice, read_nodes

COMMAND_LINE = "command line"  # where overrides stand, in messages
DEEPEST_KEY = 20  # parts of a key on the command line; the schema's deepest has seven


class StudyError(UserError):
    """The study cannot be used as it is; one line for each thing that is wrong."""


@dataclass(frozen=True)
class Override:
    """One ``key=value`` of the command line or of a program."""

    path: Path
    value: Any
    raw: str  # the value as it was typed
    where: str = COMMAND_LINE


# YAML ---------------------------------------------------------------------------------------------------------


def _no_text(path: Path) -> bool:
    return False


def parse_yaml(text: str, where: str, text_at: TextAt = _no_text, at: Path = ()) -> Any:
    """The plain value of one YAML document, mapping keys as text. ``text_at`` says where in the study a scalar is a
    text, whatever YAML would make of it; ``at`` is the document's own place in it. StudyError with the line where it is
    not YAML, is larger than a study can be, or gives a key twice."""
    try:
        roots = read_nodes(text, CoreLoader)
        if not roots:
            return None
        if len(roots) > 1:
            raise YamlFault("is not YAML of one document (another begins here). Keep one", roots[1].start_mark)
        twice = [f"{where}: {found}" for found in keys_twice(roots[0])]
        value, faults = plain_value(roots[0], text_at, at)
    except YamlFault as fault:
        raise StudyError(f"{where}: {fault}") from None
    wrong = [*twice, *(f"{where}: {fault}" for fault in faults)]
    if wrong:
        raise StudyError("\n".join(wrong))
    return value


def dump_yaml(value: Mapping[str, Any]) -> str:
    """``value`` as YAML that ``parse_yaml`` reads back equal."""
    return yaml.dump(value, Dumper=StudyDumper, sort_keys=False, allow_unicode=True, default_flow_style=None, width=110)


# layers -------------------------------------------------------------------------------------------------------


def read_study_file(path: str, text_at: TextAt = _no_text) -> dict[str, Any]:
    """The study's own layer, paths absolute. StudyError where there is no readable mapping."""
    try:
        with open(path, encoding="utf-8-sig") as f:
            text = f.read(MOST_CHARACTERS + 1)
    except FileNotFoundError:
        raise StudyError(f"{path}: no such file.{_neighbours(path)}") from None
    except IsADirectoryError:
        raise StudyError(f"{path}: is a folder, not a study file") from None
    except UnicodeDecodeError:
        raise StudyError(f"{path}: is not text in UTF-8") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise StudyError(f"{short(path)}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
    return _own_layer(parse_yaml(text, path, text_at), path, os.path.dirname(os.path.abspath(path)))


def read_study_mapping(study: Mapping[str, Any], text_at: TextAt = _no_text) -> dict[str, Any]:
    """The own layer of a study that a program holds, as YAML of the same content gives it. Relative paths count from
    the current folder. StudyError where a value is of a kind that YAML has not."""
    where = "study"
    return _own_layer(parse_yaml(dump_yaml(_yaml_value(study, where)), where, text_at), where, os.getcwd())


def _own_layer(value: Any, where: str, folder: str) -> dict[str, Any]:
    if value is None or value == {}:
        raise StudyError(
            f"{where}: is empty. A study needs model, task and pools; copy one from sweeps/studies to begin"
        )
    if not isinstance(value, dict):
        raise StudyError(f"{where}: is not a study: it must be a mapping of keys such as model, task, pools and axes")
    return located(value, folder)


_PLAIN: tuple[tuple[type, Callable[[Any], Any]], ...] = (
    (str, str),
    (os.PathLike, os.fspath),
    (numbers.Integral, int),
    (numbers.Real, float),
)


def _yaml_value(value: Any, where: str, path: Path = ()) -> Any:
    """A value of a program as YAML has it: paths are texts, tuples lists, and numbers of numpy Python's own."""
    if isinstance(value, Mapping):
        return {_yaml_value(k, where, path): _yaml_value(v, where, (*path, str(k))) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_yaml_value(item, where, (*path, i)) for i, item in enumerate(value)]
    if value is None or isinstance(value, bool):
        return value
    for kind, plain in _PLAIN:
        if isinstance(value, kind):
            return plain(value)
    raise StudyError(
        f"{where}: {dotted(path)} = {short(repr(value))} is of the type {type(value).__name__}, which no study holds. "
        "Give a text, a number, True, False, None, a list or a dict of these"
    )


def parse_override(text: str, text_at: TextAt = _no_text, where: str = COMMAND_LINE) -> Override:
    """``axes.lr=[1e-3, 3e-3]`` as its path and value. ``where`` begins messages."""
    key, sign, raw = text.partition("=")
    shown = short(text)
    if not text.isascii() and any("\ud800" <= c <= "\udfff" for c in text):
        raise StudyError(f'{where}: "{shown}" is not text in UTF-8')
    if not sign:
        raise StudyError(f'{where}: "{shown}" has no value. Write {shown}=value')
    if not all(part.strip() for part in key.split(".")):
        raise StudyError(f'{where}: "{shown}" has no key. Write key=value, such as training.batch_size=4')
    path: Path = tuple(part.strip() for part in key.split("."))
    if len(path) > DEEPEST_KEY:
        raise StudyError(f'{where}: "{shown}" has {len(path)} parts in its key; no key of a study has so many')
    return Override(path, parse_yaml(raw, f"{where}: {shown}", text_at, path), raw, where)


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
    return replace(override, value=get(layer, override.path))


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
        return file(value) if isinstance(value, str) else inside(inside(value, "file", file), "prefer", file)

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
        return f" Its folder {short(folder)} does not exist either"
    names = sorted(n for n in os.listdir(folder) if not n.startswith("."))
    alike = [n for n in names if os.path.splitext(n)[1] == os.path.splitext(path)[1]] or names
    return nearest(os.path.basename(path), alike) if alike else f" Its folder {short(folder)} is empty"


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
