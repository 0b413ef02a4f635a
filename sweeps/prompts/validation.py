"""Read the wordings in a model's answer, and say why a wording is not taken.

All of it depends on the answer and the brief alone."""

from __future__ import annotations

import itertools
import json
import re
import unicodedata
from collections.abc import Iterable, Iterator
from typing import Any

from sweeps.prompts.brief import Brief
from sweeps.study.terms import mentions, words_of
from trainer.data.grammar import JOINED, OPTIONS
from trainer.data.likeness import Likeness, near, normal_form
from trainer.data.pools import flaws
from trainer.data.wording import EXPRESSION, Prompt, fill, placeholders
from trainer.errors import UserError

ACCEPTED = "accepted"
REASONS = {  # in the order in which they are checked; a wording is counted under the first that applies
    "markup": "an HTML page or HTML tags",
    "unreadable": "control characters, or Jinja that the sandbox refuses",
    "unfilled gap": "a gap such as [describe the text], or a backslash that would reach the model",
    "missing placeholder": "a field of the task is not shown",
    "unknown placeholder": "a placeholder that is no field of the task",
    "does not render": "filled with two rows, it does not show their fields",
    "length": "shorter or longer than the bounds, placeholders not counted",
    "language": "another script, or more stop words of another language",
    "other answers": "offers answers such as true/false and names none of the labels",
    "other task": "says a word of terms.never, or none of terms.one_of",
    "duplicate": "the same as one before, or as one of another pool, but for case, spaces and punctuation",
    "near duplicate": "nearly the same as one of them",
    "surplus": "more than was asked for",
}
MOST = 200  # wordings read from one answer
MOST_CHARACTERS = 200_000  # read from one answer
LONGEST = 20_000  # characters of a wording with its placeholders; a longer one is not checked further

SCRIPTS = {"ru": {"CYRILLIC"}, "zh": {"CJK"}, "ja": {"CJK", "HIRAGANA", "KATAKANA"}, "ko": {"HANGUL"}, "ar": {"ARABIC"}}
SCRIPT_SHARE = 0.9  # of the letters; a name or a formula may be of another script
STOP_WORDS = {
    "en": "the of to is and this that it with you your what which does are for or has they not from by how",
    "de": "der das ist und nicht ein eine den dem mit auf für sie wie oder dieser diese ob im zu es wird",
    "fr": "le la les des est et une dans que qui pour pas cette ce du au avec ou sur il si",
    "es": "el la los las una por con para es que del este esta y lo si como se o en",
    "it": "il la lo che di è della questo questa per sono gli nel con una se o non",
    "pt": "o os a não uma é do da em para este esta que com se ou no por",
    "nl": "het een van niet deze zijn dit op met voor wordt aan de of en is",
}
_STOP = {code: set(words.split()) for code, words in STOP_WORDS.items()}
FEW_WORDS = 6  # with fewer words the stop words are not compared
_HTML = re.compile(
    r"<!doctype|</?(?:html|head|body|div|span|script|style|title|meta|center|h[1-6]|ul|li|a\s[^>]*href)\b", re.I
)
_ANSWERS = (("yes", "no"), ("true", "false"), ("positive", "negative"), ("correct", "incorrect"), ("right", "wrong"),
            ("1", "0"), ("agree", "disagree"))  # fmt: skip
_SLOT = re.compile(r"\{\s*[^\W\d]\w*\s*\}")  # {title}: looks like a placeholder, but is plain text
_LETTERS = re.compile(r"\bA\)?\s*(?:or|/|,)\s*\(?B\b")


# reading an answer ----------------------------------------------------------------------------------------------


def wordings(answer: str, fields: Iterable[str]) -> list[str]:
    """The wordings in a model's answer, which may be cut short: the strings of a JSON array, else the items of a
    numbered or bulleted list, else the lines. A reasoning model's thoughts are left out."""
    answer = answer[:MOST_CHARACTERS].rpartition("</think>")[2]
    if _HTML.match(answer.strip()):
        return [answer.strip()]
    items = _of_json(answer) or list(_of_lines(answer))
    return [text for item in items[:MOST] if (text := repaired(item, fields))]


def _of_json(answer: str) -> list[str]:
    """The texts of the first array in which a placeholder occurs. Of an array that is cut short, those before the
    cut."""
    for start in itertools.islice(re.finditer(r"\[", answer), MOST):
        texts = [text for item in _items(answer, start.end()) if (text := _text(item)) is not None]
        if any("{" in text for text in texts):
            return texts
    return []


def _items(text: str, at: int) -> Iterator[Any]:
    """The items of a JSON array; ``at`` is the position after its opening bracket."""
    decoder = json.JSONDecoder(strict=False)  # real line breaks inside strings are common
    while True:
        at = _BETWEEN.match(text, at).end()  # type: ignore[union-attr]
        try:
            item, at = decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            return
        yield item


def _text(item: Any) -> str | None:
    if isinstance(item, dict):  # {"prompt": "…"}
        texts = [v for v in item.values() if isinstance(v, str)]
        return max(texts, key=len, default=None)
    return item if isinstance(item, str) else None


_BETWEEN = re.compile(r"[\s,]*")
_BULLET = re.compile(r"^\s*(?:\(?\d{1,3}[.):]|[-*\u2022])\s+")


def _of_lines(answer: str) -> Iterator[str]:
    lines = [x for x in answer.splitlines() if x.strip() and not x.strip().startswith("```") and x.strip() not in "[]"]
    if not any(map(_BULLET.match, lines)):
        yield from (x.strip().rstrip(",") for x in lines)
        return
    item: list[str] = []
    for text in itertools.dropwhile(lambda x: not _BULLET.match(x), lines):
        if _BULLET.match(text) and item:
            yield "\n".join(item)
            item = []
        item.append(_BULLET.sub("", text) if not item else text.strip())
    yield "\n".join(item)


def repaired(text: str, fields: Iterable[str]) -> str:
    """``text`` with errors of form repaired: quotes around it are removed, ``{text}`` and ``{{{text}}}`` become
    ``{{ text }}``, ``{options}`` the options with commas between them, and a backslash with an n becomes a line
    break (as in the published PAFT prompts)."""
    text, fields = text.strip(), tuple(fields)
    for quote in ('"', "'", "`"):
        if len(text) > 1 and text[0] == text[-1] == quote and quote not in text[1:-1].replace("\\" + quote, ""):
            text = text[1:-1].replace("\\" + quote, quote).strip()
    text = text.replace("\\r\\n", "\n").replace("\\n", "\n").replace("\\t", " ").replace("\r\n", "\n")
    for name in (*fields, OPTIONS):
        shown = JOINED if name == OPTIONS and name not in fields else f"{{{{ {name} }}}}"
        text = re.sub(rf"(?<!\{{)(?:\{{|\{{\{{\{{?)\s*{re.escape(name)}\s*\}}{{1,3}}(?!\}})", shown, text)
    return text.strip()


# one wording ----------------------------------------------------------------------------------------------------


def fault(text: str, brief: Brief) -> str | None:
    """The first of ``REASONS`` that applies to ``text`` by itself; None where none does."""
    if len(text) > LONGEST:
        return "length"
    if _HTML.search(text):
        return "markup"
    if any(unicodedata.category(c) in ("Cc", "Cs", "Co", "Cn") and c not in "\n\t" for c in text):
        return "unreadable"
    prompt = Prompt("wording", text)
    try:
        asked = placeholders(prompt)
        fill(prompt, dict.fromkeys(asked - ({OPTIONS} - set(brief.fields)), "x"), ("x", "y"))
    except UserError:
        return "unreadable"
    if flaws(prompt):
        return "unfilled gap"
    if set(brief.fields) - asked:
        return "missing placeholder"
    if asked - set(brief.fields) - ({OPTIONS} if brief.options else set()) or _SLOT.search(_own_words(text)):
        return "unknown placeholder"
    if not _shows_fields(prompt, brief):
        return "does not render"
    own = _own_words(text)
    if not brief.length[0] <= len(own) <= brief.length[1]:
        return "length"
    if not in_language(own, brief.language):
        return "language"
    if _offers_other_answers(own, brief.labels):
        return "other answers"
    names_task = not brief.one_of or any(mentions(own, t) for t in brief.one_of)
    if not names_task or any(mentions(own, t) for t in brief.never):
        return "other task"
    return None


def _shows_fields(prompt: Prompt, brief: Brief) -> bool:
    """Whether the filled wording contains the value of each field, for two made-up rows."""
    options = ("first option", "second option") if brief.options else ()
    for row in range(2):
        values = {name: f"value {i} of row {row}" for i, name in enumerate(brief.fields)}
        try:
            text = fill(prompt, values, options).text
        except UserError:
            return False
        if not all(value in text for value in values.values()):
            return False
    return True


def _own_words(text: str) -> str:
    """``text`` without its placeholders, one space between words."""
    return " ".join(EXPRESSION.sub(" ", text).split())


def in_language(text: str, language: str) -> bool:
    """Whether ``text`` seems to be in the language, by its script and stop words: at least ``SCRIPT_SHARE`` of the
    letters belong to the language's script, and no other language has two stop words more in the text (where the text
    has at least ``FEW_WORDS`` words)."""
    if language == "any":
        return True
    letters = [c for c in text if c.isalpha()]
    scripts = SCRIPTS.get(language, {"LATIN"})
    of_script = sum(unicodedata.name(c, "?").split()[0].split("-")[0] in scripts for c in letters)
    if of_script < SCRIPT_SHARE * len(letters):
        return False
    words = re.findall(r"\w+", text.casefold())
    if language not in _STOP or len(words) < FEW_WORDS:
        return True
    counts = {code: sum(w in stop for w in words) for code, stop in _STOP.items()}
    return counts[language] + 1 >= max(counts.values())  # one more is allowed: "a" is also a Portuguese word


def _offers_other_answers(text: str, labels: Iterable[str]) -> bool:
    names = [n.casefold() for n in labels]
    if not names or any(n == word.casefold() for n in names for word in words_of(text, n)):
        return False
    if _LETTERS.search(text):
        return True
    for x, y in _ANSWERS:
        between = r"\W{1,4}(?:(?:or|and)\W{1,4})?"
        if re.search(rf"\b{x}\b{between}\b{y}\b|\b{y}\b{between}\b{x}\b", text, re.I) and not {x, y} <= set(names):
            return True
    return False


# compared with others ------------------------------------------------------------------------------------------------


class WordingFilter:
    """Decides on one wording after the other: ``accepted``, or the reason against it. At most ``number`` wordings are
    accepted for each ``source``."""

    def __init__(self, brief: Brief, number: int):
        self.brief, self.number = brief, number
        self.taken: dict[str, list[str]] = {}
        self._likenesses = [Likeness.of(p.text) for p in brief.known]
        self._forms = {normal_form(p.text) for p in brief.known}

    def verdict(self, text: str, source: str) -> str:
        taken = self.taken.setdefault(source, [])
        reason = fault(text, self.brief)
        if reason is not None:
            return reason
        form, likeness = normal_form(text), Likeness.of(text)
        if form in self._forms:
            return "duplicate"
        if any(near(likeness, other) for other in self._likenesses):
            return "near duplicate"
        if len(taken) >= self.number:
            return "surplus"
        taken.append(text)
        self._forms.add(form)
        self._likenesses.append(likeness)
        return ACCEPTED
