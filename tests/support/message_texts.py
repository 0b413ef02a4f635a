"""The whole text of every message that a command can give, with ``…`` for what varies: read from the source.

``messages.py`` finds where messages are made; here their expressions become texts. Of ``a if x else b`` both texts are
given; a name stands for what its function assigns to it, a call of one of our functions for what that returns.
"""

from __future__ import annotations

import ast
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from checkout import FILES, ROOT
from messages import METHODS, TEXTS, nodes, parsed, user_errors

GAP = "…"
MOST = 16  # texts of one expression; beyond, its alternatives are gaps
DEPTH = 6
NEVER = {"nearest", "listed", "short", "printable", "told", "str", "repr"}  # what follows them varies with the input
RETURNED = {  # functions that return a message, and tables of messages, that no error is made from beside them
    "sweeps/cli/environment_errors.py": ("_line", "_import_line", "ADVICE"),
    "sweeps/run_folder/reading.py": ("how_to_continue", "how_to_mend"),
    "sweeps/study/problems.py": ("_sentence", "_KINDS"),
    "trainer/measure/registry.py": ("misfit",),
}
HANDED = {  # take words of a message, and make it elsewhere
    "_error",
    "_in_use",
    "_no_study",
    "_other_base",
    "_print_error",
    "_Twice",
    "keep_only",
    "kind",
    "note",
    "PromptSlip",
}
Function = ast.FunctionDef
Functions = dict[str, list[tuple[Path, Function]]]


@dataclass(frozen=True)
class Text:
    file: str  # path from the checkout's root
    line: int
    text: str


def message_texts(files: Iterable[Path]) -> list[Text]:
    """The texts of all messages in ``files`` that hold words of their own, in order of place."""
    trees = {path: parsed(path) for path in FILES}
    errors, functions, constants = user_errors(trees.values()), _functions(trees), _constants(trees.values())
    found = []
    for path in files:
        file = path.relative_to(ROOT).as_posix()
        for line, node, inside in _expressions(trees[path], errors | TEXTS, RETURNED.get(file, ())):
            for text in _Reader(path, functions, constants, inside).texts(node):
                found += [Text(file, line, tidy(one)) for one in text.split("\n")]
    return list(dict.fromkeys(t for t in found if _wordy(t.text) and not t.text.endswith(": …. …")))


def tidy(text: str) -> str:
    """One line with single spaces, no two gaps beside each other, and without the places that it begins with."""
    text = re.sub(r"\s+", " ", text).strip()
    text = re.sub(r"…[…\s]*…", GAP, text)
    text = re.sub(r"(?<= )…(?=[a-z]{2})", "… ", text)
    text = re.sub(r"^(?:(?:…[/,.]? ?)+: )+|^…(?=[a-z])", "", text).lstrip(":,; ")
    return re.sub(r"([.?])…$", r"\1 …", text)


def _wordy(text: str) -> bool:
    return re.search(r"[^\W\d_]{2,}\W*\s\W*[^\W\d_]{2,}", text) is not None


def _functions(trees: Mapping[Path, ast.Module]) -> Functions:
    found: Functions = {}
    for path, tree in trees.items():
        for node in nodes(tree):
            if isinstance(node, ast.FunctionDef):
                found.setdefault(node.name, []).append((path, node))
    return found


def _constants(trees: Iterable[ast.Module]) -> dict[str, ast.expr]:
    """What modules assign to names in capitals, where only one does."""
    found: dict[str, list[ast.expr]] = {}
    for node in (n for tree in trees for n in tree.body if isinstance(n, ast.Assign)):
        for target in node.targets:
            if _name(target).isupper():
                found.setdefault(_name(target), []).append(node.value)
    return {name: values[0] for name, values in found.items() if len(values) == 1}


def _expressions(
    tree: ast.Module, kinds: set[str], returned: tuple[str, ...]
) -> Iterator[tuple[int, ast.expr, Function | None]]:
    """(line, expression, function that it stands in) of every message."""
    inside: dict[ast.AST, Function] = {}
    for function in (n for n in nodes(tree) if isinstance(n, ast.FunctionDef)):
        inside.update(dict.fromkeys(nodes(function), function))  # the innermost comes last
    for node in nodes(tree):
        if isinstance(node, ast.Call) and (name := _name(node.func)) in kinds | METHODS | HANDED:
            for argument in _arguments(name, node):
                yield node.lineno, argument, inside.get(node)
        elif isinstance(node, ast.Return) and node.value is not None and node in inside:
            if inside[node].name in returned:
                yield node.lineno, node.value, inside[node]
        elif isinstance(node, ast.Assign) and any(_name(t) in returned for t in node.targets):
            for value in node.value.values if isinstance(node.value, ast.Dict) else ():
                yield value.lineno, value.elts[0] if isinstance(value, ast.Tuple) else value, None


def _arguments(kind: str, call: ast.Call) -> list[ast.expr]:
    """The expressions of a call that hold its text. A finding shows its place, what is wrong and what to do."""
    if kind == "Finding" and len(call.args) == 4:
        parts = [*call.args[1:3], ast.Constant(". "), call.args[3]]
        return [ast.JoinedStr([parts[0], ast.Constant(": "), *parts[1:]])]
    if kind == "note":  # with the name of a file before it
        return call.args[1:]
    return list(call.args)


def _name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _added(value: ast.expr) -> ast.expr:
    """What is added to a list as it is, to a text with a gap before it."""
    return ast.JoinedStr([ast.Constant(GAP), value]) if isinstance(value, ast.JoinedStr | ast.IfExp) else value


class _Reader:
    """Reads expressions as they stand in a function of a file."""

    def __init__(
        self,
        path: Path,
        functions: Functions,
        constants: dict[str, ast.expr],
        inside: Function | None,
        seen: tuple[str, ...] = (),
    ):
        self.path, self.functions, self.constants, self.inside, self.seen = path, functions, constants, inside, seen

    def _at(self, path: Path, inside: Function | None, name: str) -> _Reader:
        return _Reader(path, self.functions, self.constants, inside, (*self.seen, name))

    def texts(self, node: ast.AST | None) -> list[str]:
        """The texts that ``node`` can be; one gap where nothing of it is known."""
        found = list(dict.fromkeys(self._texts(node)))
        return found if 0 < len(found) <= MOST else [GAP]

    def _texts(self, node: ast.AST | None) -> list[str]:
        if isinstance(node, ast.Constant):
            return [re.sub(r"%[.\d]*[sdgfr]", GAP, node.value)] if isinstance(node.value, str) else [GAP]
        if isinstance(node, ast.JoinedStr):
            return self._joined(node.values)
        if isinstance(node, ast.FormattedValue):
            return self._wordy(self.texts(node.value))
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            return self._joined([node.left, node.right])
        if isinstance(node, ast.IfExp):
            return self._wordy([*self.texts(node.body), *self.texts(node.orelse)])
        if isinstance(node, ast.BoolOp):
            return self._wordy([t for v in node.values for t in self.texts(v)])
        if isinstance(node, ast.List | ast.Tuple):
            return [t for v in node.elts for t in self.texts(v)]
        if isinstance(node, ast.ListComp | ast.GeneratorExp):
            return self.texts(node.elt)
        if isinstance(node, ast.Starred):
            return self.texts(node.value)
        if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Dict):
            return [t for v in node.value.values for t in self.texts(v)]
        if isinstance(node, ast.Name):
            return self._wordy(self._assigned(node.id))
        if isinstance(node, ast.Call):
            return self._called(node)
        return [GAP]

    def _joined(self, nodes: Iterable[ast.expr]) -> list[str]:
        each = [self.texts(n) for n in nodes]
        n = 1
        for i, texts in enumerate(each):
            n *= len(texts)
            if n > MOST:
                n //= len(texts)
                each[i] = [GAP]
        return ["".join(parts) for parts in itertools.product(*each)]

    def _wordy(self, texts: list[str]) -> list[str]:
        """The alternatives if one of them holds words; else they are a gap."""
        texts = [GAP if t.startswith((" Did you mean", " Known")) else t for t in texts]
        return list(dict.fromkeys(texts)) if any(_wordy(t) for t in texts) else [GAP]

    def _assigned(self, name: str) -> list[str]:
        """What the function assigns to a name, or adds to the list of that name."""
        if name in self.seen or len(self.seen) > DEPTH:
            return [GAP]
        reader = self._at(self.path, self.inside, name)
        if name in self.constants:
            return reader.texts(self.constants[name])
        if self.inside is None:
            return [GAP]
        values: list[ast.AST | None] = []
        for node in nodes(self.inside):
            if isinstance(node, ast.Assign):
                for target in node.targets:
                    if isinstance(target, ast.Name) and target.id == name:
                        values.append(node.value)
                    elif isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                        values += [v for t, v in zip(target.elts, node.value.elts, strict=False) if _name(t) == name]
            elif isinstance(node, ast.comprehension | ast.For) and _name(node.target) == name:
                values.append(node.iter)
            elif isinstance(node, ast.AugAssign | ast.AnnAssign | ast.NamedExpr):
                if isinstance(node.target, ast.Name) and node.target.id == name:
                    values.append(node.value if not isinstance(node, ast.AugAssign) else _added(node.value))
            elif (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr in ("append", "extend", "insert")
                and _name(node.func.value) == name
            ):
                values += node.args
        return [t for v in values for t in reader.texts(v) if t] or [GAP]

    def _called(self, call: ast.Call) -> list[str]:
        name = _name(call.func)
        if name == "join" and call.args:
            return self._wordy(self.texts(call.args[0]))
        if name in ("strip", "rstrip", "removesuffix") and isinstance(call.func, ast.Attribute):
            return self.texts(call.func.value)
        if name in NEVER or name in self.seen or len(self.seen) > DEPTH:
            return [GAP]
        found = []
        everywhere = self.functions.get(name, [])
        definitions = [d for d in everywhere if d[0] == self.path] or everywhere
        if len(definitions) != 1:
            return [GAP]
        for path, function in definitions:
            reader = self._at(path, function, name)
            for node in nodes(function):
                if isinstance(node, ast.Return | ast.Yield) and node.value is not None:
                    found += reader.texts(node.value)
        return self._wordy(list(dict.fromkeys(found)))
