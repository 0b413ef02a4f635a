"""Mutants of the shipped studies: values swapped for hostile ones, keys gone, doubled or renamed, text cut and pasted.

A mutant is the text of a YAML file. Trees are kept as pairs, so that a key can stand twice, and hostile values as raw
YAML, so that tags, aliases and broken syntax can stand anywhere.
"""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from checkout import EMBEDDED, ROOT
from hypothesis import strategies as st

STUDIES = ROOT / "sweeps" / "studies"
HOSTILE = (
    "0", "-1", "-0", "-0.0", "1", "2", "3", "8", "0.5", "1e-300", "1e18", "3e9", "1e400", ".nan", ".inf", "-.inf",
    "9" * 30, "9" * 5000, "18446744073709551616", "0x10", "0o17", "007", "1_000", "1:30", "2024-13-45", "true",
    "false", "no", "~", "null", '""', '" "', '"\\0"', '"\\ud800"', '"\\ud83d\\ude00"', '"\\x1b[31m"',
    '"\\u202e\\u2028"', '"a\\nb"', "x" * 20_000, "/" + "x" * 5000, "/" + "x/" * 2000, "../x", ".", "/", "/dev/null",
    "missing.yaml", "$HOME/x", "s3://key:word@b/x.json", "org/name", "[]", "{}", "[[one]]", "[{one: 1}]", "{one: 1}",
    "[1, 1]", "[1, 2, 3]", "[a, b]", "[null]", "[true, 1]", "{0: a, 00: b}", "{a: 1, a: 2}", "{? [a] : 1}",
    "{? {a: 1} : 1}", "!!bool maybe", "!!int x", "!!float y", "!!binary é", "!!timestamp 5", "!!set {a}",
    "!!omap [a]", "!!python/object/apply:os.system [x]", "!x y", "!!null x", "!!str 5", "!<x> y", "*nowhere",
    "&a [*a]", "&b {<<: *b}", "{<<: 5}", "{<<: [1]}", "[" * 60 + "]" * 60, "[" * 400 + "]" * 400,
    "{a: " * 60 + "1" + "}" * 60, "[" + ",".join(map(str, range(1, 2000))) + "]", "{loguniform: [1e-4, 1e-2]}",
    "{uniform: [0, 1e400]}", "{uniform: [2, 1]}", "{uniform: [1, 2, 3]}", "{uniform: 1}", "{loguniform: [-1, .nan]}",
    "{choice: []}", "{choice: [1, 2]}", "{share: [0.1], ratio: 0}", "{share: [0.5], ratio: 1e-308}",
    "{power: [1e300]}", "{lambda: {}}", "{split: {file: x}}", "{path: 1}", "{file: [x]}", "{chat: true}",
    "{method: random}", "'{{ text }}'", "{{ text }}", "|\n x\n", "\t", "%", "@x", "`x`", "]", "}", ": ", "- ", "# x",
    "---", "...", '"', "'",
)  # fmt: skip


MILD = (  # often a value that the study may have, so that the mutant gets further
    "1", "2", "4", "0.5", "[1, 2]", "[0.001, 0.01]", "true", "false", "null", '" "', '"\\n"', "x", "007", "text",
    "label", "yes", "[q_proj]", "all-linear", "generate", "classifier", "pmi", "batch", "random", "none", "load",
    "{chat: true}", "[plain]", "[many]", "plain", "many", '"é😀"', '"<s>"', '"</s>"', "{path: x}",
    "{a: b}", "[label, text]", "{}",
)  # fmt: skip


@dataclass(frozen=True)
class Raw:
    """A piece of YAML as it stands."""

    text: str


def small_quickstart() -> str:
    """The quickstart with few rows and prompts: what passes is checked to the end in under a second."""
    text = (STUDIES / "quickstart.yaml").read_text().replace("../embedded", str(EMBEDDED))
    data = EMBEDDED / "data"
    for old, new in (
        (f"train: {data}/train.jsonl", f"train: {{path: {data}/train.jsonl, limit: 40}}"),
        ("limit: 100", "limit: 10"),
        ("limit: 200", "limit: 10"),
        (f"many: {data}/pools/train.yaml", f"many: {{file: {data}/pools/train.yaml, limit: 3}}"),
        (f"dev: {data}/pools/dev.yaml", f"dev: {{file: {data}/pools/dev.yaml, limit: 2}}"),
        (f"test: {data}/pools/test.yaml", f"test: {{file: {data}/pools/test.yaml, limit: 2}}"),
    ):
        assert old in text, old
        text = text.replace(old, new)
    return text


def study_texts() -> dict[str, str]:
    """Name -> text of every shipped study, with absolute paths, the quickstart made small."""
    texts = {p.stem: p.read_text().replace("../embedded", str(EMBEDDED)) for p in sorted(STUDIES.glob("*.yaml"))}
    small = small_quickstart()
    drawn = small.replace("lr: 4.0e-3", "lr: {loguniform: [1e-3, 1e-2]}") + "search: {method: tpe, trials: 4}\n"
    arms = small.replace("  pool: [one, many]\n", "") + "arms: {a: {pool: many, choice: curriculum}, b: {pool: one}}\n"
    staged = small.replace("plw: [0, 0.02]", "plw: 0\n  seed: [0, 1]").replace("pool: [one, many]", "pool: many")
    meaning = "  meaning: {about: 'Is the writer unhappy?', other: {spam: [spam]}}\n"
    staged = staged.replace("task:\n", f"task:\n{meaning}") + "stages: {heads: [labels]}\n"
    return {**texts, "quickstart": small, "drawn": drawn, "arms": arms, "stages": staged}


def tree_of(text: str) -> Any:
    """Mappings as lists of pairs in a tuple ("map", pairs)."""

    def made(node: yaml.Node) -> Any:
        if isinstance(node, yaml.MappingNode):
            return ("map", [(k.value, made(v)) for k, v in node.value])
        if isinstance(node, yaml.SequenceNode):
            return [made(v) for v in node.value]
        return Raw(json.dumps(node.value) if node.style else node.value)

    return made(yaml.compose(text, Loader=yaml.SafeLoader))


def written(tree: Any) -> str:
    """A tree as YAML in flow style, one line for each key at the top."""
    if isinstance(tree, Raw):
        return tree.text
    if isinstance(tree, tuple):
        return "{" + ", ".join(f"{json.dumps(k)}: {written(v)}" for k, v in tree[1]) + "}"
    return "[" + ", ".join(map(written, tree)) + "]"


def document(tree: Any) -> str:
    if not isinstance(tree, tuple):
        return written(tree)
    return "".join(f"{json.dumps(k)}: {written(v)}\n" for k, v in tree[1])


def _places(tree: Any) -> list[tuple[Any, int]]:
    """(list that holds it, index) of every value."""
    held = tree[1] if isinstance(tree, tuple) else tree if isinstance(tree, list) else []
    found = [(held, i) for i in range(len(held))]
    for item in held:
        found += _places(item[1] if isinstance(item, tuple) and item[0] != "map" else item)
    return found


def _put(held: Any, i: int, value: Any) -> None:
    item = held[i]
    held[i] = (item[0], value) if isinstance(item, tuple) and item[0] != "map" else value


@st.composite
def mutants(draw: st.DrawFn, texts: dict[str, str]) -> str:
    """The text of a study after one to three changes."""
    whole = [name for name, text in texts.items() if str(EMBEDDED) in text]  # those whose files are all there
    text = texts[draw(st.sampled_from([*texts, *whole * (4 * len(texts) // len(whole))]))]
    if draw(st.integers(0, 3)) == 0:
        for _ in range(draw(st.integers(1, 3))):
            text = _cut_and_pasted(draw, text)
        return text
    tree = tree_of(text)
    for _ in range(draw(st.sampled_from([1, 1, 1, 2, 3]))):
        places = _places(tree)
        if not places:
            break
        held, i = places[draw(st.integers(0, len(places) - 1))]
        change = draw(st.sampled_from(["hostile", "hostile", "hostile", "delete", "double", "rename", "swap", "wrap"]))
        pair = isinstance(held[i], tuple) and held[i][0] != "map"
        value = held[i][1] if pair else held[i]
        if change == "hostile":
            _put(held, i, Raw(draw(st.one_of(st.sampled_from(MILD), st.sampled_from(HOSTILE)))))
        elif change == "delete":
            del held[i]
        elif change == "double":
            held.insert(i, held[i])
        elif change == "rename" and pair:
            name = draw(st.sampled_from(["x", "", " ", "a.b", "0", held[i][0] + "x", held[i][0][:-1], "k" * 300, "\0"]))
            held[i] = (name, value)
        elif change == "swap":
            other, j = places[draw(st.integers(0, len(places) - 1))]
            item = other[j]
            _put(held, i, copy.deepcopy(item[1] if isinstance(item, tuple) and item[0] != "map" else item))
        elif change == "wrap":
            _put(held, i, draw(st.sampled_from([[value], [value, value], ("map", [("x", value)])])))
    return document(tree)


def _cut_and_pasted(draw: st.DrawFn, text: str) -> str:
    start = draw(st.integers(0, max(0, len(text) - 1)))
    end = min(len(text), start + draw(st.integers(0, 40)))
    kind = draw(st.sampled_from(["delete", "insert", "hostile", "double", "byte"]))
    if kind == "delete":
        return text[:start] + text[end:]
    if kind == "insert":
        return text[:start] + draw(st.text(max_size=6)) + text[start:]
    if kind == "hostile":
        return text[:start] + draw(st.sampled_from(HOSTILE)) + text[end:]
    if kind == "double":
        return text[:end] + text[start:end] + text[end:]
    return text[:start] + draw(st.characters()) + text[start + 1 :]


def write(path: Path, text: str) -> None:
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
