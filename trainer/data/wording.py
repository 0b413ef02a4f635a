"""A wording and the text it gives for one row, in a sandbox.

A wording is a Jinja2 template over the row's fields (``{{ text }}``), restricted to constructs whose work is bounded,
so that a wording from any source can neither run code nor run for ever. ``fill`` also says which characters came from
the row: the loss weights them apart from the wording (Instruction Modelling, arXiv 2405.14394).
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jinja2
import jinja2.meta
import jinja2.sandbox
from jinja2 import nodes

from trainer.errors import UserError, nearest

OPTIONS = "options"  # the placeholder that lists a row's own options
MAX_CHARACTERS = 1_000_000  # of a filled prompt


@dataclass(frozen=True)
class Prompt:
    id: str
    text: str


@dataclass(frozen=True)
class Filled:
    """``spans``: character ranges [start, end) of ``text`` that placeholders put there, in order."""

    text: str
    spans: list[tuple[int, int]]


class PromptError(UserError):
    """A wording that cannot be read or filled."""


_OPEN, _CLOSE, _ESCAPE = "\ue0f0", "\ue0f1", "\ue0f2"  # private-use characters: mark what an expression put out
_MARKS = re.compile(f"[{_OPEN}{_CLOSE}{_ESCAPE}]")
_CODES = {_OPEN: "o", _CLOSE: "c", _ESCAPE: "e"}
_DECODE = {v: k for k, v in _CODES.items()}
EXPRESSION = re.compile(r"\{\{.*?\}\}|\{%.*?%\}|\{#.*?#\}", re.DOTALL)  # anything of Jinja in a wording
_TOKENS = re.compile(f"{_OPEN}|{_CLOSE}|{_ESCAPE}(.)", re.DOTALL)


def fill(prompt: Prompt, fields: Mapping[str, str], options: Sequence[str] = ()) -> Filled:
    """The prompt's text for one row. Everything an expression puts out counts as the row's content.

    ``options`` are there as the list ``{{ options }}``. Raises ``PromptError`` for a placeholder that is no field.
    """
    values = {**({OPTIONS: list(options)} if options else {}), **fields}
    try:
        pieces, size = [], 0
        for piece in _compiled(prompt.text).generate(values):
            size += len(piece)
            if size > MAX_CHARACTERS:
                raise PromptError(
                    f"gives more than {MAX_CHARACTERS} characters. Shorten it, or cut the field: {{{{ text[:2000] }}}}"
                )
            pieces.append(piece)
    except PromptError as error:
        raise PromptError(f'prompt "{prompt.id}": {error}') from None
    except jinja2.UndefinedError as error:
        missing = sorted(placeholders(prompt) - set(values))
        if missing:
            raise PromptError(
                f'prompt "{prompt.id}": placeholder "{missing[0]}" is no field of the row.{nearest(missing[0], values)}'
            ) from None
        raise PromptError(f'prompt "{prompt.id}": {error}') from None
    except Exception as error:  # a filter given a value it cannot take, say
        raise PromptError(f'prompt "{prompt.id}": cannot be filled ({type(error).__name__}: {error})') from error
    return _unmark("".join(pieces))


def check_wording(text: str) -> None:
    """Raises ``PromptError`` where ``text`` is not readable or uses what a prompt may not."""
    _compiled(text)


def placeholders(prompt: Prompt) -> set[str]:
    """Names the wording asks for."""
    return set(_names(prompt.text))


def conditions(prompt: Prompt) -> set[str]:
    """Names that the wording asks about, as in ``{% if name %}``: it knows what to say where one is empty."""
    tree = _parsed(prompt.text)
    tests = [*(n.test for n in tree.find_all(nodes.If)), *(n.test for n in tree.find_all(nodes.CondExpr))]
    return {name.name for test in tests for name in [test, *test.find_all(nodes.Name)] if isinstance(name, nodes.Name)}


def placeholder_uses(prompt: Prompt) -> dict[str, int]:
    """How many times the wording reads each placeholder."""
    names = [n.name for n in _parsed(prompt.text).find_all(nodes.Name) if n.ctx == "load"]
    return {name: names.count(name) for name in placeholders(prompt)}


def _mark(value: Any) -> str:
    """Jinja calls this on the output of every expression."""
    text = _MARKS.sub(lambda m: _ESCAPE + _CODES[m.group()], str(value))
    return f"{_OPEN}{text}{_CLOSE}"


def _unmark(marked: str) -> Filled:
    out: list[str] = []
    spans: list[tuple[int, int]] = []
    at = length = start = 0
    for match in _TOKENS.finditer(marked):
        piece = marked[at : match.start()]
        out.append(piece)
        length += len(piece)
        at = match.end()
        if match.group() == _OPEN:
            start = length
        elif match.group() == _CLOSE:
            if length > start:
                spans.append((start, length))
        else:
            out.append(_DECODE[match.group(1)])
            length += 1
    out.append(marked[at:])
    return Filled("".join(out), spans)


def _bounded(size: int) -> None:
    if size > MAX_CHARACTERS:
        raise PromptError(f"gives more than {MAX_CHARACTERS} characters")


def _replace(text: Any, old: str, new: str) -> str:
    text, old, new = str(text), str(old), str(new)
    _bounded(len(text) + (text.count(old) if old else len(text) + 1) * len(new))
    return text.replace(old, new)


def _join(values: Iterable[Any], between: str = "") -> str:
    texts = [str(v) for v in values]
    _bounded(sum(map(len, texts)) + len(texts) * len(between))
    return between.join(texts)


def _environment() -> jinja2.Environment:
    env = jinja2.sandbox.ImmutableSandboxedEnvironment(
        undefined=jinja2.StrictUndefined,
        autoescape=False,
        finalize=_mark,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.globals.clear()
    keep = ("trim", "upper", "lower", "title", "capitalize", "first", "last", "length", "default", "truncate", "string")
    env.filters = {name: env.filters[name] for name in keep} | {"replace": _replace, "join": _join}
    return env


_ENV = _environment()
# What a wording may be made of. No calls, assignments, macros, includes or arithmetic beyond + and -, and one level of
# loops: so its work is bounded by the row's size times its own length.
_ALLOWED = (
    nodes.Template, nodes.Output, nodes.TemplateData, nodes.Name, nodes.Const, nodes.Tuple, nodes.List,
    nodes.Filter, nodes.Test, nodes.Compare, nodes.Operand, nodes.And, nodes.Or, nodes.Not, nodes.CondExpr,
    nodes.Concat, nodes.Add, nodes.Sub, nodes.Neg, nodes.Getattr, nodes.Getitem, nodes.Slice, nodes.Keyword,
    nodes.If, nodes.For,
)  # fmt: skip


@functools.lru_cache(maxsize=4096)
def _compiled(text: str) -> jinja2.Template:
    try:
        return _ENV.from_string(_parsed(text))
    except jinja2.TemplateSyntaxError as error:  # an unknown test: known only when the code is made
        raise PromptError(f"is not readable ({error.message}, line {error.lineno})") from None


@functools.lru_cache(maxsize=4096)
def _names(text: str) -> frozenset[str]:
    return frozenset(jinja2.meta.find_undeclared_variables(_parsed(text)))


def _parsed(text: str) -> nodes.Template:
    if _MARKS.search(text):
        raise PromptError("contains one of the private-use characters U+E0F0 to U+E0F2; remove it")
    try:
        tree = _ENV.parse(text)
    except jinja2.TemplateSyntaxError as error:
        raise PromptError(
            f"is not readable ({error.message}, line {error.lineno}). Placeholders are written {{{{ text }}}}"
        ) from None
    _check_nodes(tree, loops=0)
    for node in tree.find_all(nodes.Filter):
        if node.name not in _ENV.filters:
            raise PromptError(f'filter "{node.name}" is not allowed in a prompt.{nearest(node.name, _ENV.filters)}')
    return tree


def _check_nodes(node: nodes.Node, loops: int) -> None:
    if not isinstance(node, _ALLOWED):
        raise PromptError(
            f'uses "{type(node).__name__.lower()}", which a prompt may not. Allowed: placeholders, filters, '
            "if, one level of for"
        )
    if isinstance(node, nodes.For):
        loops += 1
        if loops > 1 or node.recursive:
            raise PromptError("has a loop inside a loop, which a prompt may not")
    for child in node.iter_child_nodes():
        _check_nodes(child, loops)
