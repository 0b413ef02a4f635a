"""Every message that the packages can give a user, read from their source: the constant parts of its text.

Found are the texts of ``UserError`` and all classes made from it, of findings, of problems of a study and of faults of
a YAML file, and of the lists of lines that are joined into one of these errors. What a message repeats of the input is
a gap between two parts.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from checkout import FILES, ROOT

TEXTS = {"Finding", "Problem", "Problems", "YamlFault"}  # hold a message without being a user's error themselves
METHODS = {"error", "warning", "_wrong", "at_most", "at_most_items"}  # called with a message
COLLECTED = {"append", "extend", "insert"}


@dataclass(frozen=True)
class Message:
    file: str  # path from the checkout's root
    line: int
    kind: str  # the class or function that takes the text
    parts: tuple[str, ...]  # the constant parts, in order; none where another error's text is passed on


@functools.cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


@functools.cache
def nodes(tree: ast.AST) -> list[ast.AST]:
    """The node and all below it."""
    return list(ast.walk(tree))


def user_errors(trees: Iterable[ast.Module]) -> set[str]:
    """``UserError`` and the names of all classes made from it."""
    bases = {
        node.name: {b.id for b in node.bases if isinstance(b, ast.Name)}
        for tree in trees
        for node in nodes(tree)
        if isinstance(node, ast.ClassDef)
    }
    found = {"UserError"}
    while more := {name for name, of in bases.items() if of & found} - found:
        found |= more
    return found


def messages(files: Iterable[Path] = FILES) -> list[Message]:
    """The messages in ``files``, in order of place."""
    trees = {path: parsed(path) for path in FILES}
    errors = user_errors(trees.values())
    found = [message for path in files for message in _of_file(path, trees[path], errors)]
    return sorted(dict.fromkeys(found), key=lambda m: (m.file, m.line))


def _of_file(path: Path, tree: ast.Module, errors: set[str]) -> Iterator[Message]:
    file = path.relative_to(ROOT).as_posix()
    for call in (node for node in nodes(tree) if isinstance(node, ast.Call)):
        kind = _name(call.func)
        if kind in errors | TEXTS or (kind in METHODS and _parts(call)):
            yield Message(file, call.lineno, kind, _parts(call))
    for function in (node for node in nodes(tree) if isinstance(node, ast.FunctionDef)):
        for name in _joined(function, errors):
            for value in _put_into(function, name):
                if parts := _parts(value):
                    yield Message(file, value.lineno, f"line of {name}", parts)


def _name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _parts(node: ast.AST) -> tuple[str, ...]:
    """The constant texts under a node that hold words, in order."""
    return tuple(text for text in _texts(node) if any(c.isalpha() for c in text) and " " in text.strip())


def _texts(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    for child in ast.iter_child_nodes(node):
        yield from _texts(child)


def _joined(function: ast.FunctionDef, errors: set[str]) -> set[str]:
    r"""Names of lists whose lines become an error: ``raise UserError("\n".join(wrong))``."""
    calls = [n for n in nodes(function) if isinstance(n, ast.Call) and _name(n.func) in errors]
    return {n.id for call in calls for arg in call.args for n in ast.walk(arg) if isinstance(n, ast.Name)}


def _put_into(function: ast.FunctionDef, name: str) -> Iterator[ast.expr]:
    """What is assigned or added to a name."""
    for node in nodes(function):
        if (isinstance(node, ast.Assign) and any(_name(t) == name for t in node.targets)) or (
            isinstance(node, ast.AugAssign | ast.AnnAssign) and _name(node.target) == name and node.value is not None
        ):
            yield node.value
        elif (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in COLLECTED
            and _name(node.func.value) == name
        ):
            yield from node.args
