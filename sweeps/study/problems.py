"""What is wrong with a study, each mistake as a line: where, the value, what it must be, the nearest valid name.

``studies/x.yaml: training.normalization = "wieghted_mean" is not known. Did you mean "weighted_mean"? Known: …``
"""

from __future__ import annotations

import re
import typing
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from pydantic import BaseModel, ValidationError

from sweeps.study.overlay import Absent, Override, Path, dotted, get
from trainer.errors import closest, nearest, short

_SECRET = re.compile(r"(^|_)(token|password|passwd|secret|api_?key|access_?key|credentials?)$", re.IGNORECASE)


@dataclass(frozen=True)
class Problem:
    """One mistake in a study. ``sentence`` follows ``key = value``, or the key alone if ``bare``; a ``hidden`` value is
    never shown."""

    path: Path
    sentence: str
    bare: bool = False
    hidden: bool = False


class Problems(ValueError):
    """Raised by a validator that finds several things wrong; paths are relative to the validated value."""

    def __init__(self, items: Sequence[Problem] | str):
        self.items = [Problem((), items)] if isinstance(items, str) else list(items)
        super().__init__("; ".join(f"{dotted(p.path)} {p.sentence}".strip() for p in self.items))


def raise_any(problems: Iterable[Problem]) -> None:
    found = list(problems)
    if found:
        raise Problems(found)


# from pydantic ------------------------------------------------------------------------------------------------

_KINDS = {
    "int": "must be a whole number",
    "float": "must be a number",
    "string": "must be text",
    "bool": "must be true or false",
    "tuple": "must be a list",
    "list": "must be a list",
    "dict": "must be a mapping of names",
    "model": "must be a mapping of keys",
}


def problems_of(error: ValidationError, schema: type[BaseModel]) -> Iterator[Problem]:
    """Every failure that pydantic found, as problems. If a required key is missing because it was misspelt, only the
    misspelling is reported."""
    details = error.errors(include_url=False)
    misspelt = {_misspelling_of(_path(d["loc"]), schema) for d in details if d["type"] == "extra_forbidden"}
    for d in details:
        path = _path(d["loc"])
        if d["type"] == "missing" and path in misspelt:
            continue
        if d["type"] == "too_short" and d["input"]:  # pydantic counts only the items that are right
            continue
        if isinstance(cause := d.get("ctx", {}).get("error"), Problems):
            yield from (
                Problem((*path, *p.path), _end(d["loc"]) + p.sentence, p.bare or d["loc"][-1:] == ("[key]",))
                for p in cause.items
            )
        elif d["type"] == "extra_forbidden":
            yield unknown_key(path, schema)
        elif d["type"] == "missing":
            what = description(schema, path)
            yield Problem(path, f"is missing{': ' + what if what else ''}", bare=True)
        else:
            yield Problem(path, _end(d["loc"]) + _sentence(d))


def _sentence(d: Any) -> str:
    kind, ctx, value = d["type"], d.get("ctx", {}), d["input"]
    if kind == "literal_error":
        known = re.findall(r"'([^']*)'", str(ctx["expected"]))
        return f"is not known.{nearest(value if isinstance(value, str) else yaml_text(value), known)}"
    if kind == "too_short":
        return "is empty"
    if kind == "finite_number":
        return "must be a finite number"
    if kind == "string_pattern_mismatch":
        return 'may hold letters, digits, ".", "_" and "-", and begins with a letter or a digit: it names a folder'
    for bound, words in (("gt", "more than"), ("ge", "at least"), ("lt", "less than"), ("le", "at most")):
        if bound in ctx:
            return f"must be {words} {ctx[bound]:g}"
    if kind.startswith("string") and isinstance(value, int | float):
        return f'must be text: write "{yaml_text(value)}" in quotes'
    return next((words for start, words in _KINDS.items() if kind.startswith(start)), str(d["msg"]))


def unknown_key(path: Path, schema: type[BaseModel]) -> Problem:
    key, section = str(path[-1]), path[:-1]
    if _SECRET.search(key) and f"{key}s" not in keys_at(schema, section):  # max_new_token is a misspelling
        return Problem(
            path,
            f"does not belong in a study, which the run folder keeps. Set it in the environment: {key.upper()}=…",
            bare=True,
            hidden=True,
        )
    known = keys_at(schema, section)
    name, colon, value = key.partition(":")
    if colon and name in known:
        return Problem(path, f'needs a space after the colon: write "{name}: {value}"', bare=True)
    if closest(key, known) is None:
        elsewhere = [dotted((*place, key)) for place, keys in all_keys(schema).items() if key in keys]
        if elsewhere:
            return Problem(
                path, f'is not a known key here. Did you mean "{elsewhere[0]}"? Known: {", ".join(known)}', bare=True
            )
    prefix = dotted(section) + "." if section else ""
    near = closest(key, known)
    guess = f' Did you mean "{prefix}{near}"?' if near is not None else ""
    return Problem(path, f"is not a known key.{guess} Known: {', '.join(known)}", bare=True)


def _misspelling_of(path: Path, schema: type[BaseModel]) -> Path | None:
    near = closest(str(path[-1]), keys_at(schema, path[:-1]))
    return None if near is None else (*path[:-1], near)


def _path(loc: Sequence[int | str]) -> Path:
    """pydantic's location without the names of the union's branches (an axis is a list or a range, a rung a number or a
    mapping, fresh seeds a list or their number)."""
    loc = tuple(loc[:-1]) if loc and loc[-1] == "[key]" else loc  # a name that may not be one
    if tuple(loc[:2]) in (("scheduler", "rungs"), ("confirm", "seeds")):
        return tuple(part for part in loc if part not in ("number", "mapping", "values"))
    if not loc or loc[0] != "axes":
        return tuple(loc)
    path = tuple(part for part in loc if part != "values")
    return path[: path.index("range")] if "range" in path else path


def _end(loc: Sequence[int | str]) -> str:
    """Which end of a range the location names."""
    return {"low": "(lower end) ", "high": "(upper end) "}.get(str(loc[-1]), "") if "range" in loc else ""


# the keys of the schema ----------------------------------------------------------------------------------------


def keys_at(schema: type[BaseModel], path: Path) -> list[str]:
    """The keys that the section at ``path`` may hold; none where names are free."""
    section: Any = schema
    for part in path:
        models = _models(section)
        fields = models[0].model_fields if models else {}
        if part in fields:
            section = fields[str(part)].annotation
        elif isinstance(part, int):
            section = _item(section)
        elif not any(o is dict for o in _origins(section)):
            return []
        else:  # a name that the user chose: templates.plain
            section = next(a for o in flat(section) if typing.get_origin(o) is dict for a in typing.get_args(o)[1:])
    models = [] if any(o is dict for o in _origins(section)) else _models(section)
    return list(models[0].model_fields) if models else []


def all_keys(schema: type[BaseModel]) -> dict[Path, list[str]]:
    """Section path -> its keys, for every section that is not under a free name."""
    found: dict[Path, list[str]] = {}

    def walk(path: Path) -> None:
        keys = keys_at(schema, path)
        if keys and "low" not in keys:
            found[path] = keys
            for key in keys:
                walk((*path, key))

    walk(())
    return found


def description(schema: type[BaseModel], path: Path) -> str | None:
    section: Any = schema
    for part in path[:-1]:
        models = _models(section)
        if isinstance(part, int):
            section = _item(section)
            continue
        section = models[0].model_fields[str(part)].annotation if models and part in models[0].model_fields else None
    models = _models(section)
    return models[0].model_fields[str(path[-1])].description if models and path[-1] in models[0].model_fields else None


def _item(annotation: Any) -> Any:
    """What a list of this kind holds; None of what is no list."""
    return next((typing.get_args(a)[0] for a in flat(annotation) if typing.get_origin(a) in (tuple, list)), None)


def flat(annotation: Any) -> Iterator[Any]:
    """The annotation and the branches of its unions, without Annotated."""
    if typing.get_origin(annotation) is typing.Annotated:
        annotation = typing.get_args(annotation)[0]
    yield annotation
    if typing.get_origin(annotation) not in (dict, tuple, list, typing.Literal):
        for inner in typing.get_args(annotation):
            yield from flat(inner)


def _origins(annotation: Any) -> list[Any]:
    return [typing.get_origin(a) for a in flat(annotation)]


def _models(annotation: Any) -> list[type[BaseModel]]:
    return [a for a in flat(annotation) if isinstance(a, type) and issubclass(a, BaseModel)]


# lines --------------------------------------------------------------------------------------------------------


LONGEST_VALUE = 80  # characters of a value in a message
PASSWORD = re.compile(r"(?<=://)[^/]*:[^/]*(?=@)")  # with the user's name, of an address


def without_password(text: str) -> str:
    """``text`` as a message may show it: whatever is wrong with a value, its password is not printed."""
    return PASSWORD.sub("…", text)


def yaml_text(value: Any) -> str:
    """A value as it would be written in the study, cut where it is long."""
    text = _written(value)
    return text if len(text) <= LONGEST_VALUE else text[: LONGEST_VALUE - 3] + "…"


def _written(value: Any) -> str:
    if isinstance(value, str):
        cut = without_password(value[:10_000])[: LONGEST_VALUE + 1]  # more is never shown
        text = '"' + short(cut.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"'), 10**6) + '"'
    elif isinstance(value, bool) or value is None:
        text = {True: "true", False: "false", None: "null"}[value]
    elif isinstance(value, dict):
        text = "{" + ", ".join(f"{short(str(k))}: {yaml_text(v)}" for k, v in islice(value.items(), 40)) + "}"
    elif isinstance(value, list | tuple):
        text = "[" + ", ".join(yaml_text(v) for v in value[:40]) + "]"
    else:
        text = str(value)
    return text


def problem_line(problem: Problem, where: str, layer: Any, file_layer: Any, overrides: Sequence[Override]) -> str:
    """One problem as a line. ``layer`` is the whole study, ``file_layer`` the part that the file gives: a value from
    an override is reported as ``command line: …``, or where else that stands."""
    path = problem.path
    while path and isinstance(path[-1], int) and not isinstance(get(layer, path[:-1]), list | tuple):
        path = path[:-1]  # a single value stands for a list of one
    key, value = short(dotted(path)), get(layer, path)
    for override in reversed(overrides):
        n = len(override.path)
        if path == override.path or (path == override.path[: len(path)] and get(file_layer, path) is Absent):
            raw = "…" if problem.hidden else short(without_password(override.raw))
            return f"{override.where}: {short(dotted(override.path))}={raw} {problem.sentence}"
        if path[:n] == override.path:
            tail = "" if problem.bare or value is Absent else f"={yaml_text(value)}"
            return f"{override.where}: {key}{tail} {problem.sentence}"
    if problem.bare or value is Absent:
        return f"{where}: {key} {problem.sentence}"
    return f"{where}: {key} = {yaml_text(value)} {problem.sentence}"
