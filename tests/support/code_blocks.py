"""The fenced blocks of README.md, CONTRIBUTING.md and docs/, and the commands in those of shell."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from checkout import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
SEPARATORS = {"&&", "||", "|", ";", "&"}


@dataclass(frozen=True)
class Block:
    page: str  # its file's name
    line: int  # of the opening fence
    kind: str  # what stands behind the fence: sh, yaml, …; "" for output and drawings
    text: str
    output: str | None  # the text of a plain block that follows at once: what the commands print

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks_of(page: Path) -> list[Block]:
    text = page.read_text()
    fences = list(re.finditer(r"^( *)```(\w*)\n(.*?)^\1```$", text, re.DOTALL | re.MULTILINE))
    found = []
    for fence, after in zip(fences, [*fences[1:], None], strict=False):
        follows = after and after[2] == "" and not text[fence.end() : after.start()].strip()
        line = text.count("\n", 0, fence.start()) + 1
        found.append(Block(page.name, line, fence[2], fence[3], after[3] if after and follows else None))
    return found


BLOCKS = [block for page in PAGES for block in blocks_of(page)]


def of_kind(*kinds: str) -> list[Block]:
    return [block for block in BLOCKS if block.kind in kinds]


def texts_of(page: str, kind: str) -> list[str]:
    return [block.text for block in of_kind(kind) if block.page == page]


def inline_code(text: str) -> list[str]:
    """The texts in `single backticks`, outside of fenced blocks."""
    return re.findall(r"`([^`]+)`", re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE))


def commands_in(block: Block) -> Iterator[list[str]]:
    """The words of each command of a shell block: split at ``&&``, ``|``, ``;`` and ``&``, without ``sudo``, loops and
    comments. Of an assignment only the command in ``$(…)`` is left."""
    for line in block.text.splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars="&|;")
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if word not in SEPARATORS:
                words.append(word)
                continue
            while words and (skipped := re.fullmatch(r"sudo|do|done|[A-Za-z_]\w*=(?:\$\((.+)|.*)", words[0])):
                words = [skipped[1], *words[1:]] if skipped[1] else words[1:]
            if words:
                yield words
            words = []
