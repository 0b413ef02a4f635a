"""YAML files as trees of nodes, within bounds on size, depth and number, and without a key that stands twice.

Every YAML file that a user may bring is read through ``read_nodes``. A node keeps a scalar as it was written, so each
reader decides what a text is. YAML lets a short file grow without end: an alias of a list of aliases of a list … nine
deep is a thousand million values. Aliases are therefore counted by what they stand for before any value is made.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

MOST_CHARACTERS = 2 * 2**20  # ten thousand prompts have a quarter of that; to read it takes PyYAML about ten seconds
MOST_NODES = 100_000  # keys and values, each alias counted as all that it stands for
DEEPEST = 100  # mappings and lists in each other; the deepest key of a study has seven levels

KeyParts = tuple[str | int, ...]


class YamlFault(Exception):
    """A text is no YAML that may be read: ``str()`` says where and why, without the file's name."""

    def __init__(self, what: str, mark: yaml.Mark | None = None):
        at = f"line {mark.line + 1}, column {mark.column + 1}: " if mark is not None else ""
        super().__init__(at + what)


@dataclass(frozen=True)
class KeyTwice:
    """One mapping has two keys that are the same, as written or as values (0 and 0x0)."""

    path: KeyParts  # of the second, as it was written
    line: int
    first: str  # the first, as it was written
    first_line: int

    def __str__(self) -> str:
        """``line 4: axes.lr is given twice (first on line 3). Keep one``, to follow a file's name."""
        name = str(self.path[-1])
        shown = ""
        for part in self.path:
            shown += f"[{part}]" if isinstance(part, int) else f".{part}" if shown else str(part)
        if name == self.first:
            return f"line {self.line}: {shown} is given twice (first on line {self.first_line}). Keep one"
        return (
            f"line {self.line}: {shown} is the same key as {self.first} on line {self.first_line}: YAML reads both as "
            "one value. Keep one, or quote both if they are different texts"
        )


class _Bounded:
    """Put before a loader of PyYAML: composes its nodes within the bounds."""

    def __init__(self, stream: str):
        super().__init__(stream)  # type: ignore[call-arg]
        self._depth = self._count = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        self._depth += 1
        self._count += 1
        mark = self.peek_event().start_mark  # type: ignore[attr-defined]
        if self._depth > DEEPEST:
            raise YamlFault(f"mappings and lists are more than {DEEPEST} deep in each other", mark)
        if self._count > MOST_NODES:
            raise YamlFault(f"there are more than {MOST_NODES:,} keys and values", mark)
        node = super().compose_node(parent, index)  # type: ignore[misc]
        self._depth -= 1
        return node


class SafeNodes(_Bounded, yaml.SafeLoader):
    """By the rules of YAML 1.1, as Ray and kubectl read files."""


def read_nodes(text: str, loader: Any = SafeNodes, times: int = 1) -> list[yaml.Node]:
    """The root node of every document that is not empty. ``loader``: a loader class made with ``bounded``, whose rules
    decide the tags of plain scalars, or one of PyYAML's own in C. ``times``: how much larger than usual the text may
    be. Texts are made whole: halves of a character that stand together, as JSON writes them (``\\ud83d\\ude00``),
    become the character. Raises ``YamlFault``."""
    if len(text) > MOST_CHARACTERS * times:
        raise YamlFault(f"has more than {MOST_CHARACTERS * times:,} characters, which is more than is read")
    try:
        reader = loader(text)
    except yaml.YAMLError as error:  # a character that YAML does not allow
        raise YamlFault(f"is not YAML ({_first_line(error)})") from None
    roots = []
    try:
        while reader.check_node():
            root = reader.get_node()
            if root is not None:
                _check_size(root, MOST_NODES * times)
                _check_texts(root)
                roots.append(root)
    except yaml.MarkedYAMLError as error:
        fix = ". Indent with spaces" if "\\t" in str(error.problem) else ""
        mark = error.problem_mark or error.context_mark
        raise YamlFault(f"is not YAML ({error.problem or error.context}){fix}", mark) from None
    except RecursionError:
        raise YamlFault(f"mappings and lists are more than {DEEPEST} deep in each other") from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # ValueError: a character "\U00ffffff"
        raise YamlFault(f"is not YAML ({_first_line(error)})") from None
    finally:
        reader.dispose()
    return roots


def bounded(loader: Any) -> Any:
    """A class of PyYAML's loaders, made to keep the bounds."""
    return type(f"Bounded{loader.__name__}", (_Bounded, loader), {})


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def plain_value(root: yaml.Node) -> Any:
    """The value of a document by the rules of YAML 1.1. Raises ``YamlFault`` for a tag that is not plain YAML's, or
    that its text does not fit (``!!bool maybe``, ``!!timestamp 5``, 2024-13-45)."""
    maker, seen, waiting = yaml.SafeLoader(""), set[int](), [root]
    try:
        while waiting:
            node = waiting.pop()
            if id(node) not in seen:
                seen.add(id(node))
                waiting.extend(children(node))
                if isinstance(node, yaml.ScalarNode):
                    _made(maker, node)
        return maker.construct_document(root)
    except yaml.MarkedYAMLError as error:
        raise YamlFault(f"is not YAML ({error.problem or error.context})", error.problem_mark) from None
    finally:
        maker.dispose()


def _made(maker: yaml.SafeLoader, node: yaml.ScalarNode) -> None:
    if node.tag in ("tag:yaml.org,2002:merge", "tag:yaml.org,2002:value"):  # "<<" and "=" as keys: not values
        return
    try:
        maker.construct_object(node)
    except yaml.MarkedYAMLError:
        raise
    except Exception:  # PyYAML's constructors raise KeyError, ValueError, AttributeError and others for such a text
        kind = node.tag.rpartition(":")[2]
        raise YamlFault(f'"{node.value}" is no {kind} of YAML. Quote it if it is a text', node.start_mark) from None


def children(node: yaml.Node) -> Iterator[yaml.Node]:
    """Keys and values of a mapping, items of a list."""
    if isinstance(node, yaml.MappingNode):
        for pair in node.value:
            yield from pair
    elif isinstance(node, yaml.SequenceNode):
        yield from node.value


_RESOLVER = SafeNodes("")


def has_other_tag(node: yaml.Node) -> bool:
    """Whether a scalar was given a tag that YAML would not give it by itself, other than ``!!str``."""
    if not isinstance(node, yaml.ScalarNode) or node.tag == "tag:yaml.org,2002:str":
        return False
    plain = node.style is None
    return bool(node.tag != _RESOLVER.resolve(yaml.ScalarNode, node.value, (plain, not plain)))


def _check_size(root: yaml.Node, most: int) -> None:
    """Raises ``YamlFault`` where the aliases of a document stand for too much, or for a mapping or list in itself."""
    sizes: dict[int, int] = {}
    open_nodes: set[int] = set()

    def size(node: yaml.Node) -> int:
        known = sizes.get(id(node))
        if known is not None:
            return known
        if id(node) in open_nodes:
            raise YamlFault("an alias stands inside what it is an alias of", node.start_mark)
        open_nodes.add(id(node))
        total, mark = 1, node.start_mark
        for child in children(node):
            total += size(child)
            if total > most:
                raise YamlFault(f"there are more than {most:,} keys and values, counting what aliases stand for", mark)
        open_nodes.discard(id(node))
        sizes[id(node)] = total
        return total

    size(root)


_SURROGATE = re.compile("[\ud800-\udfff]")


def _check_texts(root: yaml.Node) -> None:
    """Makes the scalars' texts whole. Raises ``YamlFault`` for a text that no file and no tokenizer can hold."""
    seen: set[int] = set()
    waiting = [root]
    while waiting:
        node = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        waiting.extend(children(node))
        if not isinstance(node, yaml.ScalarNode):
            continue
        if _SURROGATE.search(node.value):
            try:
                node.value = node.value.encode("utf-16-le", "surrogatepass").decode("utf-16-le")
            except UnicodeDecodeError:
                raise YamlFault(
                    "holds half a character (\\ud800 to \\udfff), which no text may. Write the character itself",
                    node.start_mark,
                ) from None
        if "\0" in node.value:
            raise YamlFault("holds a NUL character, which no text here may. Remove it", node.start_mark)


# keys ---------------------------------------------------------------------------------------------------------

_ZEROES = re.compile(r"[-+]?0b[01_]+")  # a number for YAML 1.1 alone


def keys_twice(root: yaml.Node) -> Iterator[KeyTwice]:
    """Keys that a mapping holds more than once: written alike, or plain scalars that are read as equal numbers or truth
    values (0, 00, 0x0, 0.0, false). What an alias stands for is looked at where it was anchored."""
    seen: set[int] = set()

    def walk(node: yaml.Node, path: KeyParts) -> Iterator[KeyTwice]:
        if id(node) in seen:
            return
        seen.add(id(node))
        if isinstance(node, yaml.MappingNode):
            first: dict[Any, yaml.ScalarNode] = {}
            for key, value in node.value:
                if not isinstance(key, yaml.ScalarNode):
                    continue
                if key.tag != "tag:yaml.org,2002:merge":
                    same = [first[mark] for mark in _identities(key) if mark in first]
                    if same:
                        yield KeyTwice(
                            (*path, key.value), key.start_mark.line + 1, same[0].value, same[0].start_mark.line + 1
                        )
                    for mark in _identities(key):
                        first.setdefault(mark, key)
                yield from walk(value, (*path, key.value))
        elif isinstance(node, yaml.SequenceNode):
            for i, value in enumerate(node.value):
                yield from walk(value, (*path, i))

    return walk(root, ())


def _identities(key: yaml.ScalarNode) -> Iterator[tuple[str, Any]]:
    """What a key is equal by: its text, and for a plain number or truth value its value."""
    yield "text", key.value
    if key.style is None:
        number = number_of(key)
        if number is not None:
            yield "number", number


def number_of(node: yaml.ScalarNode) -> float | None:
    """The number or truth value that a plain scalar is read as; None for anything else. Leading zeroes mean octal in
    YAML 1.1 only; both readings of 00 are 0."""
    kind = node.tag.rpartition(":")[2]
    text = node.value.replace("_", "")
    try:
        if kind == "bool":
            return {"true": 1.0, "false": 0.0}.get(text.lower())  # no, off and the like are texts to most people
        if kind == "int" or _ZEROES.fullmatch(text):
            sign = -1 if text.startswith("-") else 1
            digits = text.lstrip("+-")
            base = {"0x": 16, "0o": 8, "0b": 2}.get(digits[:2].lower(), 10)
            return sign * int(digits[2:] if base != 10 else digits, base)
        if kind == "float":
            number = float(re.sub(r"^([-+]?)\.(inf|nan)$", r"\1\2", text, flags=re.IGNORECASE))
            return number if number == number else None
    except (ValueError, OverflowError):
        return None
    return None
