"""Files of prompts: where a prompt ends, which characters it may hold, and files that are none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from trainer.data.pool_files import MOST_BYTES, MOST_PROMPTS
from trainer.data.pools import hidden_characters, load_pool
from trainer.data.wording import Prompt
from trainer.errors import UserError

SEPARATORS = ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e"]  # lines end here for str.splitlines


def texts(folder: Path, name: str, content: bytes) -> list[str]:
    (folder / name).write_bytes(content)
    return [p.text for p in load_pool(str(folder / name))]


def refused(folder: Path, name: str, content: bytes) -> list[str]:
    with pytest.raises(UserError) as caught:
        texts(folder, name, content)
    said = str(caught.value).split("\n")
    assert all(str(folder / name) in line for line in said)
    assert all(line.isprintable() for line in said)
    return said


@pytest.mark.parametrize(
    ("name", "content"),
    [("p.txt", "A {{ t }}\n"), ("p.yaml", "a: A {{ t }}\n"), ("p.jsonl", '{"id": "a", "text": "A {{ t }}"}\n')],
)
def test_a_byte_order_mark_is_no_part_of_a_prompt(tmp_path: Path, name: str, content: str) -> None:
    """CASES V12."""
    assert texts(tmp_path, name, b"\xef\xbb\xbf" + content.encode()) == ["A {{ t }}"]
    assert texts(tmp_path, name, content.encode()) == ["A {{ t }}"]


@pytest.mark.parametrize("separator", SEPARATORS)
def test_a_prompt_ends_at_a_line_feed_only(tmp_path: Path, separator: str) -> None:
    """CASES V12."""
    text = f"Is it?{separator}{{{{ t }}}}"
    assert texts(tmp_path, "p.txt", f"{text}\nOther {{{{ t }}}}\r\n".encode()) == [text, "Other {{ t }}"]
    lines = "".join(json.dumps({"text": t}, ensure_ascii=False) + "\r\n" for t in (text, "Other {{ t }}"))
    assert texts(tmp_path, "p.jsonl", lines.encode()) == [text, "Other {{ t }}"]
    assert texts(tmp_path, "p.yaml", f'- "Is it?\\u{ord(separator):04x}{{{{ t }}}}"\n'.encode()) == [text]
    assert [f[0] for f in hidden_characters(Prompt("p", text))] == ["warning"], "nobody sees it, so it is told"


@pytest.mark.parametrize("separator", SEPARATORS[:3])
def test_yaml_that_would_end_a_line_elsewhere_is_refused(tmp_path: Path, separator: str) -> None:
    """CASES V12. YAML makes a space or another line of these."""
    said = refused(tmp_path, "p.yaml", f'a: "x {{{{ t }}}}"\nb: "Is{separator}it {{{{ t }}}}"\n'.encode())
    assert f"line 2 contains the character U+{ord(separator):04X}, at which YAML ends a line" in said[0]


def test_line_ends_of_windows_and_of_old_macs(tmp_path: Path) -> None:
    assert texts(tmp_path, "p.yaml", b"a: |\r\n  A\r\n  {{ t }}\r\nb: B {{ t }}\r\n") == ["A\n{{ t }}", "B {{ t }}"]
    assert "line 1 holds a carriage return without" in refused(tmp_path, "p.txt", b"A {{ t }}\rB {{ t }}\r")[0]


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("p.txt", b"A {{ t }}\nB \x00 {{ t }}\n", "line 2: the prompt contains the character U+0000"),
        ("p.yaml", b'a: "\\0 {{ t }}"\n', "line 1, column 4: holds a NUL character"),
        ("p.yaml", b'a: "\\ud800 {{ t }}"\n', "line 1, column 4: holds half a character"),
        ("p.yaml", b'"a\\ud800": "{{ t }}"\n', "line 1, column 1: holds half a character"),
        ("p.yaml", b'"a\\nb": "{{ t }}"\n', "line 1: the id 'a\\nb' contains the character U+000A"),
        ("p.yaml", b'" ": "{{ t }}"\n', "line 1: the id ' ' is blank"),
        ("p.yaml", b"? [a, b]\n: x {{ t }}\n", "line 1: an id is a list or a mapping"),
        ("p.yaml", b"a: &x {b: *x}\n", "line 1, column 4: an alias stands inside what it is an alias of"),
        ("p.yaml", b"a: *x\n", "line 1, column 4: is not YAML (found undefined alias 'x')"),
        ("p.yaml", b"a: x\n---\nb: y\n", "holds several documents"),
        ("p.yaml", b'a: "\\UFFFFFFFF"\n', "is not YAML ("),
        ("p.yaml", b"[" * 5000, "more than 100 deep in each other"),
        ("p.yaml", b"- " * 5000, "more than 100 deep in each other"),
        ("p.yaml", b"a: \x01 {{ t }}\n", "is not YAML ("),
        ("p.yaml", b"a: 'x\n", "line 2, column 1: is not YAML ("),
        ("p.yaml", b"5\n", "holds neither id: text pairs nor a list of texts"),
        ("p.jsonl", b'{"text": "\\ud800 {{ t }}"}\n', "line 1: the prompt contains the character U+D800"),
        ("p.jsonl", b'{"id": "\\u0000", "text": "{{ t }}"}\n', "contains the character U+0000"),
        ("p.jsonl", b'{"id": [1], "text": "{{ t }}"}\n', "line 1: id = [1] is neither a text nor a whole number"),
        ("p.jsonl", b'{"text": "{{ t }}", "text": "x"}\n', "line 1: 'text' is given twice"),
        ("p.jsonl", b"[" * 5000, "line 1 is not of the form"),
        ("p.jsonl", b'["text"]\n', "line 1 is not of the form"),
        ("p.jsonl", b'{"text": ' + b"9" * 5000 + b"}\n", "line 1 is not of the form"),
        ("p.txt", "schön {{ t }}\n".encode("latin-1"), "line 1 is not UTF-8"),
        ("p.txt", "x {{ t }}\n".encode("utf-16"), "line 1 is not UTF-8"),
        ("p.txt", b"x" * (MOST_BYTES + 1), f"a file of prompts may have {MOST_BYTES}"),
        ("p.txt", b"{{ t }}\n" * (MOST_PROMPTS + 1), f"holds {MOST_PROMPTS + 1} prompts"),
    ],
)
def test_a_file_that_cannot_be_a_pool_is_refused_in_words(tmp_path: Path, name: str, content: bytes, told: str) -> None:
    """CASES B4 and V12."""
    assert told in refused(tmp_path, name, content)[0]


def test_a_path_that_is_no_path_is_refused_in_words(tmp_path: Path) -> None:
    """CASES B4."""
    for path in ("a\x00b.txt", f"{tmp_path}/{'x' * 100_000}.txt", str(tmp_path)):
        with pytest.raises(UserError):
            load_pool(path)


def test_an_id_that_is_a_number_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text('{"id": 0, "text": "A {{ t }}"}\n{"id": null, "text": "B {{ t }}"}\n')
    assert load_pool(str(tmp_path / "p.jsonl"))[0] == Prompt("0", "A {{ t }}")
