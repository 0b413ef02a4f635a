"""What a wording may be made of: an allow-list of Jinja2's constructs, with the kind of value that each gives.

A wording shows fields, options and what the listed filters make of them. Everything else is refused with the nearest
valid thing, whatever the row: attributes and calls (``{{ text.upper }}`` would print a Python object), lists where a
text is due (``{{ options }}`` would print Python's brackets), loops over characters, more than one level of loops. The
size and the depth of a wording are bounded as well, so that its work is at most a multiple of the row's size.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from jinja2 import nodes

from trainer.errors import UserError, closest, listed, nearest

OPTIONS = "options"  # the placeholder that lists a row's own options
LONGEST = 50_000  # characters of a wording
MOST_PARTS = 500  # of Jinja in a wording; the largest of our own has 9
DEEPEST = 40  # levels of conditions and brackets
UNUSABLE = re.compile("[\x00\ud800-\udfff]")  # no text, and no file in UTF-8, can hold them


class PromptError(UserError):
    """A wording that cannot be read or filled."""


Kind = Literal["text", "number", "list", "truth", "any"]
_A = {"text": "a text", "number": "a number", "list": "a list", "truth": "true or false", "any": "a value"}
JOINED = "{{ options|join(', ') }}"
_LOOPED = "{% for option in options %}…{% endfor %}"


@dataclass(frozen=True)
class Filter:
    """``takes``: kinds it can be applied to; ``arguments``: name and kind of each, in order, the first ``required`` of
    them needed."""

    takes: tuple[Kind, ...]
    gives: Kind
    arguments: Mapping[str, Kind] = field(default_factory=dict)
    required: int = 0


FILTERS: dict[str, Filter] = {
    **{name: Filter(("text",), "text") for name in ("upper", "lower", "title", "capitalize")},
    "trim": Filter(("text",), "text", {"chars": "text"}),
    "string": Filter(("text", "number"), "text"),
    "replace": Filter(("text",), "text", {"old": "text", "new": "text"}, required=2),
    "truncate": Filter(
        ("text",), "text", {"length": "number", "killwords": "truth", "end": "text", "leeway": "number"}
    ),
    "default": Filter(("text", "number"), "text", {"default_value": "text", "boolean": "truth"}),
    "first": Filter(("text", "list"), "text"),
    "last": Filter(("text", "list"), "text"),
    "length": Filter(("text", "list"), "number"),
    "join": Filter(("list",), "text", {"d": "text"}),
}
TESTS: dict[str, tuple[Kind, ...]] = {  # name -> kinds of its arguments
    "defined": (),
    "undefined": (),
    "odd": (),
    "even": (),
    "upper": (),
    "lower": (),
    "divisibleby": ("number",),
}
LOOP: dict[str, Kind] = {
    "index": "number",
    "index0": "number",
    "revindex": "number",
    "revindex0": "number",
    "length": "number",
    "first": "truth",
    "last": "truth",
}
_OF_TEMPLATES = frozenset(["self", "super", "caller", "varargs", "kwargs"])  # Jinja's own objects, no fields


def check_parts(tree: nodes.Template, options: Literal["list", "text", "any"]) -> None:
    """Raises ``PromptError`` where the wording uses what it may not. ``options``: what the placeholder of that name
    stands for; ``any`` where that is not known yet."""
    _check_size(tree)
    _KindReader({OPTIONS: options}).statement(tree)


def _check_size(tree: nodes.Template) -> None:
    """Without recursion, so that a wording of any depth gets the same answer."""
    parts = 0
    open_: list[tuple[nodes.Node, int]] = [(tree, 1)]
    while open_:
        node, depth = open_.pop()
        parts += not isinstance(node, nodes.Output | nodes.TemplateData)
        if depth > DEEPEST:
            raise too_deep()
        if parts > MOST_PARTS:
            raise PromptError(f"has more than {MOST_PARTS} parts of Jinja. Write a shorter one")
        open_ += [(child, depth + 1) for child in node.iter_child_nodes()]


def too_deep() -> PromptError:
    return PromptError(f"is nested more than {DEEPEST} deep. Write it with fewer brackets, conditions and signs")


class _KindReader:
    """Goes through a wording and knows the kind of value of each expression in it."""

    def __init__(self, names: Mapping[str, Kind], loop: bool = False):
        self.names, self.loop = dict(names), loop

    # statements ---------------------------------------------------------------------------------------------------

    def statement(self, node: nodes.Node) -> None:
        match node:
            case nodes.Template():
                self._all(node.body)
            case nodes.Output():
                for part in node.nodes:
                    if not isinstance(part, nodes.TemplateData):
                        self._shown(part)
            case nodes.If():
                self.kind(node.test)
                self._all([*node.body, *node.elif_, *node.else_])
            case nodes.For():
                self._for(node)
            case _:
                raise _refused(node)

    def _all(self, body: list[nodes.Node]) -> None:
        for node in body:
            self.statement(node)

    def _shown(self, node: nodes.Expr) -> None:
        kind = self.kind(node)
        if kind == "list":
            raise PromptError(
                f"shows a list, which would stand there with Python's brackets and quotes. Write {JOINED}, or {_LOOPED}"
            )
        if kind == "truth":
            raise PromptError("shows True or False instead of a text. Ask with {% if … %} and write the text in it")

    def _for(self, node: nodes.For) -> None:
        if self.loop or node.recursive:
            raise PromptError("has a loop inside a loop, which a prompt may not")
        if not isinstance(node.target, nodes.Name):
            raise PromptError(f"takes each value of a loop apart, which a prompt may not. Write {_LOOPED}")
        kind = self.kind(node.iter)
        if kind not in ("list", "any"):
            raise PromptError(f"has a loop over {_A[kind]}; a loop goes over options: {_LOOPED}")
        inside = _KindReader({**self.names, node.target.name: "text"}, loop=True)
        if node.test is not None:
            inside.kind(node.test)
        inside._all(node.body)
        self._all(node.else_)

    # expressions --------------------------------------------------------------------------------------------------

    def kind(self, node: nodes.Node) -> Kind:
        """Of the value that an expression gives. Fields are texts."""
        reader = _EXPRESSIONS.get(type(node))
        if reader is None:
            raise _refused(node)
        return reader(self, node)

    def name(self, node: nodes.Name) -> Kind:
        if node.name in _OF_TEMPLATES or (node.name == "loop" and self.loop):
            raise PromptError(f'uses "{node.name}", which is no field of a row')
        return self.names.get(node.name, "text")

    def constant(self, node: nodes.Const) -> Kind:
        value = node.value
        if isinstance(value, bool):
            return "truth"
        if isinstance(value, int):
            return "number"
        if isinstance(value, str):
            return "text"
        raise PromptError(f"uses the value {value!r:.40}, which a prompt may not: only texts and whole numbers")

    def sequence(self, node: nodes.List | nodes.Tuple) -> Kind:
        for item in node.items:
            self.expect(item, ("text", "number"), "in a list")
        return "list"

    def attribute(self, node: nodes.Getattr) -> Kind:
        if self.loop and isinstance(node.node, nodes.Name) and node.node.name == "loop":
            if node.attr in LOOP:
                return LOOP[node.attr]
            raise PromptError(f"uses loop.{node.attr}.{nearest(node.attr, LOOP)}")
        shown = _shown_as(node.node)
        near = closest(node.attr, FILTERS)
        meant = f"Did you mean {{{{ {shown}|{near} }}}}?" if near else f"Filters are written {{{{ {shown}|upper }}}}."
        raise PromptError(
            f"uses {shown}.{node.attr}, but {_A[self.kind(node.node)]} has no parts with names. {meant}"
            f"{listed(FILTERS)}"
        )

    def call(self, node: nodes.Call) -> Kind:
        of = node.node
        if isinstance(of, nodes.Getattr):
            return self.attribute(of)  # says which filter is meant
        shown = _shown_as(of)
        raise PromptError(f"uses {shown}(…), which is no filter.{nearest(shown, FILTERS)}")

    def item(self, node: nodes.Getitem) -> Kind:
        of, shown = self.expect(node.node, ("text", "list"), "with [ ]"), _shown_as(node.node)
        if isinstance(node.arg, nodes.Slice):
            for part in (node.arg.start, node.arg.stop, node.arg.step):
                if part is not None:
                    self.expect(part, ("number",), "in [ ]")
            return of
        kind = self.kind(node.arg)
        if kind != "number":
            word = node.arg.value if isinstance(node.arg, nodes.Const) else ""
            near = closest(word, FILTERS) if isinstance(word, str) and word else None
            meant = f" Did you mean {{{{ {shown}|{near} }}}}?" if near else ""
            raise PromptError(
                f"uses {_A[kind]} in [ ], where a number belongs: {{{{ {shown}[0] }}}} or {{{{ {shown}[:20] }}}}."
                + meant
            )
        return of if of == "any" else "text"

    def filter(self, node: nodes.Filter) -> Kind:
        rule = FILTERS.get(node.name)
        if rule is None or node.node is None:
            raise PromptError(f'filter "{node.name}" is not allowed in a prompt.{nearest(node.name, FILTERS)}')
        kind = self.kind(node.node)
        if kind != "any" and kind not in rule.takes:
            fix = f". Write {JOINED}" if kind == "list" else ""
            raise PromptError(f'applies the filter "{node.name}" to {_A[kind]}; it takes {_either(rule.takes)}{fix}')
        self._arguments(f'filter "{node.name}"', node, rule)
        return rule.gives

    def _arguments(self, what: str, node: nodes.Filter, rule: Filter) -> None:
        if node.dyn_args is not None or node.dyn_kwargs is not None:
            raise PromptError(f"gives {what} a list with *, which a prompt may not")
        names = list(rule.arguments)
        if len(node.args) > len(names):
            raise PromptError(f"gives {what} {len(node.args)} values; it takes {len(names)}")
        given = dict(zip(names, node.args, strict=False))
        for pair in node.kwargs:
            name = str(pair.key)
            if name not in rule.arguments or name in given:
                raise PromptError(f'gives {what} the value "{name}".{nearest(name, rule.arguments)}')
            given[name] = pair.value
        for name in names[: rule.required]:
            if name not in given:
                raise PromptError(f'gives {what} no "{name}", which it needs')
        for name, value in given.items():
            self.expect(value, (rule.arguments[name],), f'as "{name}" of {what}')

    def test(self, node: nodes.Test) -> Kind:
        kinds = TESTS.get(node.name)
        if kinds is None:
            raise PromptError(f'asks "is {node.name}", which is not known in a prompt.{nearest(node.name, TESTS)}')
        self.kind(node.node)
        if node.kwargs or node.dyn_args is not None or node.dyn_kwargs is not None or len(node.args) != len(kinds):
            raise PromptError(f'asks "is {node.name}" with {len(node.args)} values; it takes {len(kinds)}')
        for value, kind in zip(node.args, kinds, strict=True):
            self.expect(value, (kind,), f'in "is {node.name}"')
        return "truth"

    def comparison(self, node: nodes.Compare) -> Kind:
        left = self.kind(node.expr)
        for operand in node.ops:
            right = self.kind(operand.expr)
            if operand.op in ("in", "notin"):
                if right not in ("text", "list", "any"):
                    raise PromptError(f"looks for a value in {_A[right]}; `in` needs a text or a list")
            elif "any" not in (left, right) and left != right:
                raise PromptError(f"compares {_A[left]} with {_A[right]}")
            left = right
        return "truth"

    def either(self, node: nodes.And | nodes.Or) -> Kind:
        return self._common(node.left, node.right)

    def negation(self, node: nodes.Not) -> Kind:
        self.kind(node.node)
        return "truth"

    def choice(self, node: nodes.CondExpr) -> Kind:
        self.kind(node.test)
        return self.kind(node.expr1) if node.expr2 is None else self._common(node.expr1, node.expr2)

    def _common(self, first: nodes.Node, second: nodes.Node) -> Kind:
        """The kind of both; of two kinds together nothing can be shown, only asked."""
        one, two = self.kind(first), self.kind(second)
        return two if one == "any" else one if two in (one, "any") else "truth"

    def joined(self, node: nodes.Concat) -> Kind:
        for part in node.nodes:
            self.expect(part, ("text", "number"), "before or after ~")
        return "text"

    def sum(self, node: nodes.Add | nodes.Sub) -> Kind:
        sign = "+" if isinstance(node, nodes.Add) else "-"
        takes: tuple[Kind, ...] = ("text", "number") if sign == "+" else ("number",)
        left = self.expect(node.left, takes, f"before {sign}")
        right = self.expect(node.right, takes, f"after {sign}")
        if "any" not in (left, right) and left != right:
            raise PromptError(f"adds {_A[right]} to {_A[left]}. Join them with ~ instead of +")
        return right if left == "any" else left

    def negative(self, node: nodes.Neg) -> Kind:
        return self.expect(node.node, ("number",), "after -")

    def expect(self, node: nodes.Node, kinds: tuple[Kind, ...], place: str) -> Kind:
        kind = self.kind(node)
        if kind != "any" and kind not in kinds:
            fix = f". Write {JOINED}" if kind == "list" and "text" in kinds else ""
            raise PromptError(f"uses {_A[kind]} {place}, where {_either(kinds)} belongs{fix}")
        return kind


_EXPRESSIONS: dict[type[nodes.Node], Callable[..., Kind]] = {
    nodes.Name: _KindReader.name, nodes.Const: _KindReader.constant,
    nodes.List: _KindReader.sequence, nodes.Tuple: _KindReader.sequence,
    nodes.Getattr: _KindReader.attribute, nodes.Call: _KindReader.call,
    nodes.Getitem: _KindReader.item, nodes.Filter: _KindReader.filter,
    nodes.Test: _KindReader.test, nodes.Compare: _KindReader.comparison,
    nodes.And: _KindReader.either, nodes.Or: _KindReader.either,
    nodes.Not: _KindReader.negation, nodes.CondExpr: _KindReader.choice,
    nodes.Concat: _KindReader.joined, nodes.Add: _KindReader.sum,
    nodes.Sub: _KindReader.sum, nodes.Neg: _KindReader.negative,
}  # fmt: skip


def _either(kinds: tuple[Kind, ...]) -> str:
    return " or ".join(_A[kind] for kind in kinds)


def _shown_as(node: nodes.Node) -> str:
    """A short form of an expression for a message."""
    match node:
        case nodes.Name():
            return str(node.name)
        case nodes.Const():
            return repr(node.value)[:40]
        case nodes.Getattr():
            return f"{_shown_as(node.node)}.{node.attr}"
        case nodes.Getitem():
            return f"{_shown_as(node.node)}[…]"
        case nodes.Call():
            return f"{_shown_as(node.node)}(…)"
    return "(…)"


_SAID = {
    nodes.Assign: "set", nodes.AssignBlock: "set", nodes.Macro: "macro", nodes.CallBlock: "call",
    nodes.FilterBlock: "filter", nodes.With: "with", nodes.Block: "block", nodes.Include: "include",
    nodes.Import: "import", nodes.FromImport: "import", nodes.Extends: "extends",
    nodes.Mul: "*", nodes.Div: "/", nodes.FloorDiv: "//", nodes.Mod: "%", nodes.Pow: "**", nodes.Pos: "+",
    nodes.Dict: "a dictionary",
}  # fmt: skip


def _refused(node: nodes.Node) -> PromptError:
    said = _SAID.get(type(node), type(node).__name__.lower())
    return PromptError(
        f'uses "{said}", which a prompt may not. Allowed: placeholders such as {{{{ text }}}}, the filters '
        f"{', '.join(FILTERS)}, an index such as options[0], if, and one level of for"
    )
