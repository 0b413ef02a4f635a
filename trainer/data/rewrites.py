"""A writer of wordings that needs no language model: it rewrites by rules and a table of words.

The rules know no meaning, so they change the form of an instruction far more than its content: they replace words by
synonyms, add or drop filler words, reorder sentences, move the row's text before or behind the instruction, change
quotes and line breaks, add a frame such as "Please …", a list of the answers, or a hint about noise. Placeholders,
template statements, the letters of options and the words of labels stay as they are (``asks_the_same``). Where an
instruct model is available, ``writers.ModelWriter`` writes better.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from rapidfuzz.distance import Levenshtein

from trainer.data import rewrite_tables as tables
from trainer.data.grammar import PromptError
from trainer.data.wording import EXPRESSION, Prompt, check_wording, placeholders

_WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)?")
_SENTENCE = re.compile(r"(?<=[.!?])(?<!\b[A-Z]\.)\s+")  # "A. {{ one }}" is an option, no end of a sentence
_EDGE = " \n\"'"  # characters that may stand between the row's text and the end
Edit = Callable[[str, random.Random], str]


def asks_the_same(text: str, source: str, answers: Sequence[str] = ()) -> bool:
    """Whether ``text`` is a valid wording that shows the same fields as ``source``, and names each option letter and
    each of the labels' words ``answers`` at least as often."""
    try:
        check_wording(text)
        same_fields = placeholders(Prompt("new", text)) == placeholders(Prompt("old", source))
    except PromptError:
        return False
    return same_fields and _named(source, answers) <= _named(text, answers)


def _named(text: str, answers: Sequence[str]) -> Counter[str]:
    """How often a wording names each option letter, and each label's word in any case. Every capital that stands alone
    counts as an option letter, since which options there are is known to the rows only."""
    bare = EXPRESSION.sub(" ", text)
    found = Counter(word for word in _WORD.findall(bare) if _is_letter(word))
    for answer in answers:
        # as a letter, "a" would be the article as well
        flags = re.IGNORECASE if len(answer) > 1 else re.NOFLAG
        found[answer] = len(re.findall(rf"(?<!\w){re.escape(answer)}(?!\w)", bare, flags))
    return found


def _is_letter(word: str) -> bool:
    return len(word) == 1 and word.isupper()


class RuleWriter:
    """``answers`` are the labels' words: a rewritten instruction keeps them, and may list them."""

    name = "rules"

    def __init__(self, answers: Sequence[str] = ()):
        self.answers = [a.strip() for a in answers if a.strip()]
        self._edits: tuple[Edit, ...] = (
            synonyms, drop_words, add_words, contract, reorder, move_row, requote, rejoin, name_row, frame,
            self._list_answers, self._lower_case,
        )  # fmt: skip

    def perturb(self, text: str, strategy: str, n: int, seed: int) -> list[str]:
        """Up to ``n`` changed texts; fewer where the rules find nothing to change. Strategies: W1 synonyms, W2 words
        deleted, W3 up to four words added, S2 paraphrase, S3 another order of the clauses."""
        rng = random.Random(f"{strategy}|{seed}|{text}")
        return _different(text, (_of_rows(text, strategy, rng) for _ in range(5 * n)), n)

    def guidance(self, pairs: Sequence[tuple[str, str]], seed: int) -> str:
        """The names of the kinds of differences between originals and perturbed texts, the most frequent first."""
        kinds = [k for a, b in pairs for k in _differences(a, b)]
        return " ".join(sorted(set(kinds), key=lambda k: (-kinds.count(k), k)))

    def improve(self, prompt: str, guidance: str, n: int, seed: int) -> list[str]:
        """Rewrites of an instruction, half of them with a hint about the differences in ``guidance``."""
        rng = random.Random(f"improve|{seed}|{guidance}|{prompt}")
        hints = [h for kind in guidance.split() for h in tables.ROBUST.get(kind, ())]

        def candidates() -> Iterable[str]:
            for i in range(20 * n):
                text = self._rewritten(prompt, rng)
                yield _with_sentence(text, rng.choice(hints)) if hints and i % 2 else text

        return self._sound(prompt, candidates(), n)

    def paraphrase(self, prompt: str, n: int, seed: int) -> list[str]:
        rng = random.Random(f"paraphrase|{seed}|{prompt}")
        return self._sound(prompt, (self._rewritten(prompt, rng) for _ in range(20 * n)), n)

    def _sound(self, prompt: str, candidates: Iterable[str], n: int) -> list[str]:
        return _different(prompt, (text for text in candidates if asks_the_same(text, prompt, self.answers)), n)

    def _rewritten(self, prompt: str, rng: random.Random) -> str:
        text = prompt
        for edit in rng.sample(self._edits, rng.randint(1, 3)):
            text = edit(text, rng)
        return text

    def _list_answers(self, text: str, rng: random.Random) -> str:
        if not self.answers or len(self.answers) > 6:
            return text
        listed = " or ".join(self.answers) if rng.random() < 0.5 else "/".join(self.answers)
        return _with_sentence(text, rng.choice(("Answer with {}.", "({})", "Choose: {}.")).format(listed))

    def _lower_case(self, text: str, rng: random.Random) -> str:
        kept = {word for answer in self.answers for word in answer.lower().split()}

        def lower(match: re.Match[str]) -> str:
            word = match.group()
            return word if _is_letter(word) or word.lower() in kept else word.lower()

        return _outside(text, lambda part: _WORD.sub(lower, part)) if rng.random() < 0.3 else text


# edits of an instruction, a text that may hold expressions ----------------------------------------------------------


def synonyms(text: str, rng: random.Random, most: int = 2) -> str:
    return _outside(text, lambda part: _swap_words(part, rng, most))


def drop_words(text: str, rng: random.Random) -> str:
    return _outside(text, lambda part: _drop(part, rng, tables.DROPPABLE, 2))


def add_words(text: str, rng: random.Random) -> str:
    return _outside(text, lambda part: _insert(part, rng, 1))


def contract(text: str, rng: random.Random) -> str:
    return _outside(text, lambda part: _contract(part, rng))


def reorder(text: str, rng: random.Random) -> str:
    """Several lines in another order; a single line with its sentences in another order."""
    lines = text.split("\n")
    full = [line for line in lines if line.strip()]
    if len(full) > 1 and "{%" not in text:
        rng.shuffle(full)
        return ("\n\n" if "\n\n" in text else "\n").join(full)
    parts = _pieces(text)
    rng.shuffle(parts)
    return " ".join(parts) if "{%" not in text else text


def move_row(text: str, rng: random.Random) -> str:
    """Move the row's text from before the instruction to behind it or back, where it stands at one end."""
    found = _single(text)
    if found is None:
        return text
    before, expression, after = found
    joint = rng.choice(tables.JOINTS)
    if not before.strip(_EDGE) and after.strip():
        return after.strip(_EDGE) + joint + expression
    if not after.strip(_EDGE) and before.strip():
        return expression + joint + before.strip(_EDGE)
    return text


def requote(text: str, rng: random.Random) -> str:
    found = _single(text)
    if found is None:
        return text
    before, expression, after = found
    for left, right in tables.QUOTES:
        if before.endswith(left) and after.startswith(right):
            return before[: len(before) - len(left)] + expression + after[len(right) :]
    left, right = rng.choice(tables.QUOTES)
    return f"{before}{left}{expression}{right}{after}"


def rejoin(text: str, rng: random.Random) -> str:
    """Another separator between the row's text and what stands around it."""
    found = _single(text)
    if found is None:
        return text
    before, expression, after = found
    joint = rng.choice(tables.JOINTS)
    before = before.rstrip() + joint if before.strip() and before[-1:].isspace() else before
    after = joint + after.lstrip() if after.strip() and after[:1].isspace() else after
    return before + expression + after


def name_row(text: str, rng: random.Random) -> str:
    found = _single(text)
    if found is None or (found[0].strip() and not found[0].endswith(("\n", " "))):
        return text
    before, expression, after = found
    return f"{before}{rng.choice(tables.NAMES)}: {expression}{after}"


def frame(text: str, rng: random.Random) -> str:
    head, _, tail = rng.choice(tables.BEFORE + tables.AFTER).partition("{}")
    return head + text + tail


# changes of a row: plain text ----------------------------------------------------------------------------------------


def _of_rows(text: str, strategy: str, rng: random.Random) -> str:
    if strategy == "W1":
        return _swap_words(text, rng, 3)
    if strategy == "W2":
        return _drop(text, rng, tables.DROPPABLE, 3) if rng.random() < 0.7 else _drop(text, rng, None, 1)
    if strategy == "W3":
        return _insert(text, rng, rng.randint(1, 4))
    if strategy == "S2":
        return _contract(_swap_words(text, rng, 3), rng)
    if strategy == "S3":
        return _clauses(text, rng)
    raise ValueError(f'strategy "{strategy}" is not known. Known: W1, W2, W3, S2, S3')


def _swap_words(text: str, rng: random.Random, most: int) -> str:
    others = {w: [x for x in line if x != w] for line in tables.SYNONYMS for w in line if " " not in w}
    places = [m for m in _WORD.finditer(text) if m.group().lower() in others]
    for match in sorted(rng.sample(places, min(len(places), rng.randint(1, most))), key=lambda m: -m.start()):
        word = rng.choice(others[match.group().lower()])
        word = word.capitalize() if match.group()[:1].isupper() else word
        text = text[: match.start()] + word + text[match.end() :]
    return text


def _drop(text: str, rng: random.Random, allowed: Iterable[str] | None, most: int) -> str:
    words = set(allowed) if allowed is not None else None
    found = [m for m in re.finditer(r"\b[^\W\d_]+\b ?", text) if not _is_letter(m.group().strip())]
    places = [m for m in found if words is None or m.group().strip().lower() in words]
    if len(places) < 2 and words is None:
        return text
    for match in sorted(rng.sample(places, min(len(places), rng.randint(1, most))), key=lambda m: -m.start()):
        text = text[: match.start()] + text[match.end() :]
    return re.sub(r"(?<=\w) +([,.;!?])", r"\1", text)  # no space is left before a comma


def _insert(text: str, rng: random.Random, n: int) -> str:
    for _ in range(n):
        spaces = [m.start() for m in re.finditer(r"(?<=[^\W\d_]) (?=[^\W\d_])", text)]
        if not spaces:
            return text
        at = rng.choice(spaces)
        text = f"{text[:at]} {rng.choice(tables.NEUTRAL)}{text[at:]}"
    return text


def _contract(text: str, rng: random.Random) -> str:
    """Write one contraction out, or contract one pair of words, whichever the text has."""
    for long, short in rng.sample(tables.CONTRACTIONS, len(tables.CONTRACTIONS)):
        for a, b in ((long, short), (short, long)):
            if re.search(rf"\b{re.escape(a)}\b", text):
                return re.sub(rf"\b{re.escape(a)}\b", b, text, count=1)
    return text


def _clauses(text: str, rng: random.Random) -> str:
    sentences = _SENTENCE.split(text)
    if len(sentences) > 1:
        rng.shuffle(sentences)
        return " ".join(sentences)
    head, comma, tail = text.rstrip(".!? ").partition(", ")
    return f"{tail}, {head}{text[len(text.rstrip('.!? ')) :]}" if comma else text


# parts ----------------------------------------------------------------------------------------------------------------


def _outside(text: str, change: Callable[[str], str]) -> str:
    """``change`` applied to what stands between expressions."""
    out, at = [], 0
    for match in EXPRESSION.finditer(text):
        out += [change(text[at : match.start()]), match.group()]
        at = match.end()
    return "".join([*out, change(text[at:])])


def _single(text: str) -> tuple[str, str, str] | None:
    """(before, expression, after) where the text has exactly one."""
    found = list(EXPRESSION.finditer(text))
    if len(found) != 1:
        return None
    match = found[0]
    return text[: match.start()], match.group(), text[match.end() :]


def _pieces(text: str) -> list[str]:
    """Sentences, expressions kept whole."""
    marks: list[str] = []

    def hide(match: re.Match[str]) -> str:
        marks.append(match.group())
        return f"\x00{len(marks) - 1}\x00"

    hidden = EXPRESSION.sub(hide, text)
    return [re.sub(r"\x00(\d+)\x00", lambda m: marks[int(m[1])], part) for part in _SENTENCE.split(hidden)]


def _with_sentence(text: str, sentence: str) -> str:
    """With ``sentence`` after the last words, or before the row's text where that comes last."""
    found = _single(text)
    if found is not None and not found[2].strip(" \n\"'>]-") and found[0].strip():
        return f"{found[0].rstrip()} {sentence}{_gap(found[0])}{found[1]}{found[2]}"
    return f"{text.rstrip()} {sentence}"


def _gap(before: str) -> str:
    return before[len(before.rstrip()) :] or " "


def _differences(a: str, b: str) -> set[str]:
    if a == b:
        return set()
    kinds = set()
    if b.startswith(a):
        return {"tail"}
    first, second = a.lower().split(), b.lower().split()
    if sorted(first) == sorted(second):
        return {"order"}
    fresh = [w for w in second if w not in first]
    near = [w for w in fresh if any(Levenshtein.normalized_similarity(w, x) >= 0.6 for x in first)]
    if near:
        kinds.add("letters")
    if len(fresh) > len(near) or len(second) < len(first):
        kinds.add("words")
    if len(second) > len(first) and second[-1] not in first:
        kinds.add("tail")
    return kinds or {"words"}


def _different(text: str, candidates: Iterable[str], n: int) -> list[str]:
    """The first ``n`` that differ from ``text`` and from each other."""
    found: dict[str, None] = {}
    for candidate in candidates:
        if candidate.strip() and candidate != text:
            found.setdefault(candidate)
        if len(found) == n:
            break
    return list(found)
