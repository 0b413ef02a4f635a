"""Load a study: the command line overrides the YAML file, the file overrides the defaults; all mistakes are reported
together.

``load_study("studies/x.yaml", ["axes.lr=[1e-3, 3e-3]"])`` gives a frozen ``Study``; ``dump_yaml(resolved(study))``
is the same study written out in full: every default, absolute paths, so that it loads equal from any folder.
No environment variable is read. pydantic and PyYAML only: a wrong study must be refused in well under a second.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from sweeps.study.data_schema import TemplateSection
from sweeps.study.derived_defaults import as_mappings, completed, with_preferred_pools, without_preferred
from sweeps.study.learning_rate import with_rates
from sweeps.study.overlay import (
    COMMAND_LINE,
    Path,
    StudyError,
    lay_over,
    located_override,
    missing_file,
    parse_override,
    read_study_file,
    read_study_mapping,
)
from sweeps.study.problems import Problem, problem_line, problems_of
from sweeps.study.rules import disagreements, named_files, unsafe_files
from sweeps.study.study import Study
from sweeps.study.texts import text_at
from sweeps.study.values import Section
from trainer.errors import UserError


def load_study(
    path: str | os.PathLike[str], overrides: Sequence[str] = (), files: bool = True, place: str = COMMAND_LINE
) -> Study:
    """The study in the YAML file at ``path`` with the command line's ``key=value`` laid over it.

    Relative paths count from the study's folder; on the command line, from the current folder. With
    ``files=False`` the files that it names need not exist (to read the study of a run made elsewhere). ``place`` is
    what messages call the command line.
    Raises StudyError with one line for each thing that is wrong."""
    where = os.fspath(path)
    own = read_study_file(where, text_at)
    return _loaded({"name": os.path.splitext(os.path.basename(where))[0], **own}, own, where, overrides, place, files)


def study_of(study: Mapping[str, Any], overrides: Sequence[str] = (), place: str = COMMAND_LINE) -> Study:
    """The study in a mapping of the keys that a YAML file would hold, with each ``key=value`` laid over it. It needs a
    ``name``. Relative paths count from the current folder. Raises StudyError, as ``load_study`` does."""
    own = read_study_mapping(study, text_at)
    return _loaded(own, own, "study", overrides, place)


def _loaded(
    layer: dict[str, Any],
    own: dict[str, Any],
    where: str,
    overrides: Sequence[str],
    place: str,
    files: bool = True,
) -> Study:
    """``layer``: what the file or mapping at ``where`` gives (``own``), and the study's name."""
    wrong: list[str] = []
    given = []
    for text in overrides:
        try:
            given.append(located_override(parse_override(text, text_at, place), os.getcwd()))
        except StudyError as error:
            wrong.append(str(error))
    layer = as_mappings(layer) if given else layer
    for override in given:
        layer = lay_over(layer, override)
    layer = with_preferred_pools(completed(layer))
    try:
        layer = with_rates(layer)
    except UserError as error:
        wrong += str(error).splitlines()
        layer = {**layer, "axes": {k: v for k, v in layer["axes"].items() if k != "lr"}}
    study, problems = _validated(layer)
    problems += unsafe_files(layer)
    if files:
        problems += [Problem(at, says) for at, text in named_files(layer) if (says := missing_file(text)) is not None]
    wrong += [problem_line(p, where, layer, own, given) for p in problems]
    if wrong or study is None:
        raise StudyError("\n".join(dict.fromkeys(wrong)))
    return study


def resolved(study: Study) -> dict[str, Any]:
    """The whole study as plain values, every default in it; axes are lists or ranges. A pool's ``file`` is the one that
    was read, whatever is there when this is read again."""
    return without_preferred(study.model_dump(mode="json"))


def _validated(layer: dict[str, Any]) -> tuple[Study | None, list[Problem]]:
    """The study, or all that is wrong with it. Rules between sections are checked for sections without errors."""
    try:
        return Study.model_validate(layer), []
    except ValidationError as error:
        problems = list(problems_of(error, Study))
    parts = _whole_sections(layer, {p.path for p in problems})
    return None, problems + [p for p in disagreements(parts) if p not in problems]


def _whole_sections(layer: dict[str, Any], broken: set[Path]) -> dict[str, Any]:
    """The sections without errors, so that contradictions between them are reported together with the other mistakes.
    Each axis counts by itself: an error in one does not hide the others."""
    parts: dict[str, Any] = {}
    for name, field in Study.model_fields.items():
        value = layer.get(name, {})
        if name == "axes" and isinstance(value, dict):
            value = {k: v for k, v in value.items() if not any(path[:2] == (name, k) for path in broken)}
        try:
            if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
                parts[name] = field.annotation.model_validate(value)
        except ValidationError:
            continue
    if isinstance(layer["templates"], dict):
        parts["templates"] = _whole_templates(layer["templates"])
    return parts


def _whole_templates(layer: dict[str, Any]) -> dict[str, TemplateSection | None]:
    """Templates that are well-formed; None for the others, whose names still count as known."""
    whole: dict[str, TemplateSection | None] = {}
    for name, value in layer.items():
        try:
            whole[name] = TemplateSection.model_validate(value)
        except ValidationError:
            whole[name] = None
    return whole
