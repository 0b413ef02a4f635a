"""Chat data: what the system and user turns of all rows have in common is the wording, the rest is the row's content.

The last turn of the assistant is the answer. The user's turn before it is divided at the longest beginning and the
longest end that all rows share, cut back to whole words; turns before that are content. A system turn that is the same
in all rows becomes the template's system text, any other is content.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from sweeps.init.examples import DataError, Wording
from trainer.data.row_table import Cell, in_short

_ROLES = {"human": "user", "gpt": "assistant", "bot": "assistant", "model": "assistant"}
TEXT, EARLIER, SYSTEM = "text", "conversation", "system"  # fields


@dataclass(frozen=True)
class Chat:
    system: str
    earlier: str  # turns before the last question, one a line, as "user: …"
    question: str
    answer: str


def chat_of(cell: Cell, place: str) -> Chat:
    """The turns of one row. Raises ``DataError`` where the assistant does not have the last word after a user."""
    turns = []
    for turn in cell if isinstance(cell, list) else []:
        if not isinstance(turn, dict):
            raise DataError(f"{place}: holds {in_short(turn)} among its turns, not a record with role and content")
        role, content = turn.get("role", turn.get("from")), turn.get("content", turn.get("value"))
        if not isinstance(role, str) or not isinstance(content, str):
            raise DataError(
                f"{place}: a turn has the role {in_short(role)} and the content {in_short(content)}; both must be texts"
            )
        turns.append((_ROLES.get(role, role), content))
    system = "\n".join(content for role, content in turns if role == "system")
    turns = [turn for turn in turns if turn[0] != "system"]
    roles = [role for role, _ in turns[-2:]]
    if roles != ["user", "assistant"]:
        raise DataError(
            f"{place}: its last turns are {', '.join(roles) or 'none'}; they must be the user's and then the "
            "assistant's, which is the answer"
        )
    earlier = "\n".join(f"{role}: {content}" for role, content in turns[:-2])
    return Chat(system, earlier, turns[-2][1], turns[-1][1].strip())


def wording_of(chats: Sequence[Chat]) -> tuple[Wording, list[dict[str, str]]]:
    """How the rows ask, and the fields of each. A single row has nothing in common with others: its whole turn is
    content."""
    questions = [chat.question for chat in chats]
    before, after = common_ends(questions)
    fields = [{TEXT: q[len(before) : len(q) - len(after)].strip()} for q in questions]
    first = escaped(before)
    if any(chat.earlier for chat in chats):
        first = f"{{{{ {EARLIER} }}}}\n{first}"
        fields = [{EARLIER: chat.earlier or "-", **f} for chat, f in zip(chats, fields, strict=True)]
    systems = {chat.system for chat in chats}
    system = systems.pop() if len(systems) == 1 else ""
    if systems:  # they differ
        first = f"{{{{ {SYSTEM} }}}}\n{first}"
        fields = [{SYSTEM: chat.system or "-", **f} for chat, f in zip(chats, fields, strict=True)]
    return Wording(system.strip(), f"{first}{{{{ {TEXT} }}}}{escaped(after)}".strip()), fields


def escaped(text: str) -> str:
    """``text`` as a prompt: what Jinja would read in it is written so that it stays as it is."""
    return re.sub(r"\{[{%#]", lambda found: f"{{{{ '{found.group()}' }}}}", text)


def common_ends(texts: Sequence[str]) -> tuple[str, str]:
    """The longest beginning and the longest end that all ``texts`` share, of whole words, and no part of a text in
    both. Two empty texts where there are not two different ones."""
    if len(set(texts)) < 2:
        return "", ""
    before = _beginning(texts)
    if any(len(t) > len(before) and not t[len(before)].isspace() for t in texts) and not before[-1:].isspace():
        before = before[: len(before) - len(re.split(r"\s", before)[-1])]
    rest = [t[len(before) :] for t in texts]
    after = _beginning([t[::-1] for t in rest])[::-1]
    if any(len(t) > len(after) and not t[-len(after) - 1].isspace() for t in rest if after) and not after[:1].isspace():
        after = after[len(re.split(r"\s", after)[0]) :]
    return before, after


def _beginning(texts: Sequence[str]) -> str:
    """The longest text with which all ``texts`` begin."""
    low, high = min(texts), max(texts)
    return low[: next((i for i, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), len(low))]
