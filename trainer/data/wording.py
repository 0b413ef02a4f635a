"""A wording and the text it gives for one row, in a sandbox.

A wording is a Jinja2 template over the row's fields (``{{ text }}``), restricted to constructs whose work is bounded,
so that a wording from any source can neither run code nor run for ever. ``fill`` also says which characters came from
the row: the loss weights them apart from the wording (Instruction Modelling, arXiv 2405.14394).
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jinja2
import jinja2.meta
import jinja2.sandbox
from jinja2 import nodes
from jinja2.filters import FILTERS as FILTERS_OF_JINJA
from jinja2.tests import TESTS as TESTS_OF_JINJA

from trainer.data.grammar import FILTERS, LONGEST, OPTIONS, TESTS, UNUSABLE, PromptError, check_parts, too_deep
from trainer.errors import nearest

MAX_CHARACTERS = 1_000_000  # of a filled prompt
# Characters that filters may make of a row, so that no wording can take long: a multiple of the row and the wording,
# and a floor for short ones. A wording with twenty filters on the whole row needs a fifth of it.
FLOOR, GROWTH, MOST = 100_000, 100, 20 * MAX_CHARACTERS


@dataclass(frozen=True)
class Prompt:
    id: str
    text: str


@dataclass(frozen=True)
class Filled:
    """``spans``: character ranges [start, end) of ``text`` that placeholders put there, in order."""

    text: str
    spans: list[tuple[int, int]]


_OPEN, _CLOSE, _ESCAPE = "\ue0f0", "\ue0f1", "\ue0f2"  # private-use characters: mark what an expression put out
_MARKS = re.compile(f"[{_OPEN}{_CLOSE}{_ESCAPE}]")
_CODES = {_OPEN: "o", _CLOSE: "c", _ESCAPE: "e"}
_DECODE = {v: k for k, v in _CODES.items()}
# Anything of Jinja in a wording. Bounded, because a text may hold thousands of braces that nothing closes.
EXPRESSION = re.compile(r"\{\{.{0,1000}?\}\}|\{%.{0,1000}?%\}|\{#.{0,1000}?#\}", re.DOTALL)
_TOKENS = re.compile(f"{_OPEN}|{_CLOSE}|{_ESCAPE}(.)", re.DOTALL)


def fill(prompt: Prompt, fields: Mapping[str, str], options: Sequence[str] = ()) -> Filled:
    """The prompt's text for one row. Everything an expression puts out counts as the row's content.

    ``options`` are there as the list ``options``. Raises ``PromptError`` for a placeholder that is no field, and where
    the text, or what filters make on the way to it, is longer than any prompt needs.
    """
    values: dict[str, Any] = {**({OPTIONS: list(options)} if options else {}), **fields}
    row = len(prompt.text) + sum(map(len, fields.values())) + sum(map(len, options))
    work = _Work(min(MOST, FLOOR + GROWTH * row))
    try:
        pieces, size = [], 0
        for piece in _compiled(prompt.text, "text" if OPTIONS in fields else "list").generate({**values, _WORK: work}):
            size += len(piece)
            work.add(len(piece))
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
    """Raises ``PromptError`` where ``text`` is not readable or uses what a prompt may not. Whether ``options`` are a
    list or a field's text is known when a row is filled in."""
    _compiled(text, "any")


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


class _Work:
    """Characters that one filling of a wording has made, in its filters and in what it gives out."""

    def __init__(self, most: int):
        self.most, self.made = most, 0

    def add(self, size: int) -> None:
        self.made += size
        if self.made > self.most:
            raise PromptError(
                f"makes more than {self.most} characters of one row. Use fewer filters, or cut the field: "
                "{{ text[:2000] }}"
            )


_WORK = _ESCAPE + "work"  # where a filling keeps its count; no wording can name it


def _replaced(text: Any, old: str, new: str) -> int:
    text, old = str(text), str(old)
    return len(text) + (text.count(old) if old else len(text) + 1) * len(new)


def _joined(values: Sequence[str], d: str = "") -> int:
    return sum(len(v) + len(d) for v in map(str, values))


def _as_long(value: Any, *args: Any, **kwargs: Any) -> int:
    return len(value) if isinstance(value, str) else 1


def _counted(name: str) -> Callable[..., Any]:
    """Jinja's filter ``name``. What it may give is counted before it works."""
    plain = FILTERS_OF_JINJA[name]
    sizes: dict[str, Callable[..., int]] = {"replace": _replaced, "join": _joined}
    size = sizes.get(name, _as_long)
    own = getattr(plain, "jinja_pass_arg", None)  # what Jinja gives such a filter first

    @jinja2.pass_context
    def counted(context: jinja2.runtime.Context, value: Any, *args: Any, **kwargs: Any) -> Any:
        context[_WORK].add(size(value, *args, **kwargs))
        first = () if own is None else (context.eval_ctx if own.name == "eval_context" else context.environment,)
        return plain(*first, value, *args, **kwargs)

    return counted


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
    env.filters = {name: _counted(name) for name in FILTERS}
    env.tests = {name: TESTS_OF_JINJA[name] for name in TESTS}
    return env


_ENV = _environment()


@functools.lru_cache(maxsize=4096)
def _compiled(text: str, options: Literal["list", "text", "any"]) -> jinja2.Template:
    tree = _parsed(text)
    check_parts(tree, options)
    try:
        return _ENV.from_string(tree)
    except (SyntaxError, jinja2.TemplateError, RecursionError, MemoryError) as error:  # known when the code is made
        raise PromptError(f"is not readable ({type(error).__name__}: {error})") from None


@functools.lru_cache(maxsize=4096)
def _names(text: str) -> frozenset[str]:
    return frozenset(jinja2.meta.find_undeclared_variables(_parsed(text)))


def _parsed(text: str) -> nodes.Template:
    if _MARKS.search(text):
        raise PromptError("contains one of the private-use characters U+E0F0 to U+E0F2; remove it")
    unusable = UNUSABLE.search(text)
    if unusable:
        raise PromptError(f"contains the character U+{ord(unusable.group()):04X}, which no text can hold. Take it out")
    if len(text) > LONGEST:
        raise PromptError(f"has {len(text)} characters; a prompt may have {LONGEST}. Shorten it")
    try:
        tree = _ENV.parse(text)
    except jinja2.TemplateSyntaxError as error:
        raise PromptError(
            f"is not readable ({_in_our_words(error.message)}, line {error.lineno}). "
            "Placeholders are written {{ text }}"
        ) from None
    except RecursionError:
        raise too_deep() from None
    except ValueError:  # Python reads no number of thousands of digits
        raise PromptError("has a number with more than 4300 digits. Shorten it") from None
    check_parts(tree, "any")
    return tree


def _in_our_words(message: str | None) -> str:
    """Jinja's message about a text that it cannot read."""
    said = (message or "").replace("Unexpected end of template", "the prompt ends too early")
    return re.sub(r"^unexpected ", "out of place: ", said)
