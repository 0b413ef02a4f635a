"""YAML within bounds, and keys that stand twice (CASES B2, B4, V13)."""

from __future__ import annotations

import pytest

from trainer.files.yaml_nodes import DEEPEST, MOST_CHARACTERS, YamlFault, keys_twice, plain_value, read_nodes

BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 10)
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (BOMB, "line 6, column 5: there are more than 100,000 keys and values, counting what aliases stand for"),
        (BOMB.replace("[", "{<<: [").replace("]", "]}"), "more than 100,000 keys and values"),
        ("a: &a [*a]", "line 1, column 4: an alias stands inside what it is an alias of"),
        ("a: &a {<<: *a}", "an alias stands inside what it is an alias of"),
        ("[" * 5000, f"mappings and lists are more than {DEEPEST} deep in each other"),
        ("{a: " * 5000, f"mappings and lists are more than {DEEPEST} deep in each other"),
        ("- " * 5000, f"mappings and lists are more than {DEEPEST} deep in each other"),
        ("x" * (MOST_CHARACTERS + 1), "has more than 2,097,152 characters"),
        ('a: "\\ud800"', "line 1, column 4: holds half a character"),
        ('"\\udfff": a', "line 1, column 1: holds half a character"),
        ('a: "\\0"', "line 1, column 4: holds a NUL character"),
        ("a: \0", "is not YAML"),
        ('a: "\\U00ffffff"', "is not YAML"),
        ("a: *b", "line 1, column 4: is not YAML (found undefined alias 'b')"),
        ("a:\n\tb: 1", "Indent with spaces"),
    ],
)
def test_what_is_not_read_is_told_at_once(text: str, said: str) -> None:
    with pytest.raises(YamlFault) as fault:
        read_nodes(text)
    assert said in str(fault.value)


def test_as_many_keys_as_a_large_pool_has_are_read() -> None:
    text = "\n".join(f"p{i}: x" for i in range(4000)) + "\nq: [" + "*a, " * 100 + "x]"
    [root] = read_nodes(f"a: &a [{'y, ' * 100}]\n" + text)
    assert len(root.value) == 4002


def test_halves_of_a_character_that_stand_together_are_the_character() -> None:
    """As JSON writes what lies beyond 16 bits."""
    [root] = read_nodes('{"a": "\\ud83d\\ude00"}')
    assert plain_value(root) == {"a": "\U0001f600"}


@pytest.mark.parametrize("second", ["0", "00", "0x0", "0.0", "0b0", "false", "'0'", "+0", "-0", ".0"])
def test_a_key_given_twice_names_both_lines(second: str) -> None:
    [root] = read_nodes(f"labels:\n  0: no\n  5: x\n  {second}: yes\n")
    [found] = keys_twice(root)
    assert (found.line, found.first_line, found.first) == (4, 2, "0")
    assert str(found).startswith(f"line 4: labels.{second.strip(chr(39))} is ")
    assert "line 2" in str(found)


@pytest.mark.parametrize("keys", [("'0'", "'00'"), ("0", "'00'"), ("0", "1"), ("0", "no"), ("01", "10"), ("~", "null")])
def test_texts_that_differ_are_different_keys(keys: tuple[str, str]) -> None:
    [root] = read_nodes(f"{keys[0]}: a\n{keys[1]}: b\n")
    assert not list(keys_twice(root))


def test_what_merges_into_a_mapping_is_no_second_key() -> None:
    [root] = read_nodes("a: &a {x: 1}\nb: {<<: *a, <<: *a, x: 2}\n")
    assert not list(keys_twice(root))
    assert plain_value(root)["b"] == {"x": 2}


@pytest.mark.parametrize(
    "value",
    [
        "!!bool maybe",
        "!!int x",
        "!!float y",
        "!!timestamp 5",
        "2024-13-45",
        "!!binary é",
        "!!python/name:os.x x",
        "!x y",
    ],
)
def test_a_tag_that_does_not_fit_is_told_with_its_line(value: str) -> None:
    [root] = read_nodes(f"a: 1\nb: {value}\n")
    with pytest.raises(YamlFault, match=r"^line 2, column 4: "):
        plain_value(root)
