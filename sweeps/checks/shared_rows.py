"""Rows that are in two splits, or twice in one: a row that was trained on cannot show how a trial does on new rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations

from sweeps.checks.findings import Finding
from sweeps.display.text import counted, percent
from trainer.data.rows import Row, first_few

SHOWN = 3  # rows that a message names
Text = tuple[str, ...]  # a row's fields and options, without its label


class SplitTexts:
    """The rows of one split by their texts, as they are and folded: without case, white space as one space."""

    def __init__(self, rows: Sequence[Row]):
        self.rows = rows
        self.exact = [(*row.fields.values(), "", *row.options) for row in rows]
        self.folded = [tuple(" ".join(text.casefold().split()) for text in texts) for texts in self.exact]
        self.first_exact = _first(self.exact)
        self.first_folded = _first(self.folded)

    def alike(self, exact: Text, folded: Text) -> int | None:
        """Position of the first row with this text; else of the first that differs in case or white space only."""
        return self.first_exact.get(exact, self.first_folded.get(folded))


def shared_row_findings(rows: Mapping[str, Sequence[Row]]) -> Iterator[Finding]:
    """``rows`` by split (train, dev, test)."""
    texts = {split: SplitTexts(some) for split, some in rows.items()}
    for a, b in combinations(texts, 2):
        yield from _shared_ids(a, b, rows)
        yield from _shared_texts(a, b, texts[a], texts[b])
    for split, some in texts.items():
        yield from _repeated(split, some)


def _shared_ids(a: str, b: str, rows: Mapping[str, Sequence[Row]]) -> Iterator[Finding]:
    """Ids that are made from positions name their split, so these come from the study's id column."""
    ids = {row.id for row in rows[a]}
    both = [row.id for row in rows[b] if row.id in ids]
    if both:
        yield Finding(
            "error",
            f"task.rows.{b}",
            f"{counted(len(both), 'id')} of {len(rows[b])} are also ids of {a} rows ({first_few(both, SHOWN)})",
            "Keep each row in one split. If every file counts its rows from the start, leave `task.id` out",
        )


def _shared_texts(a: str, b: str, first: SplitTexts, second: SplitTexts) -> Iterator[Finding]:
    found = [
        (j, i)
        for j, (exact, folded) in enumerate(zip(second.exact, second.folded, strict=True))
        if (i := first.alike(exact, folded)) is not None
    ]
    if found:
        n, share = len(second.rows), percent(len(found) / len(second.rows))
        yield Finding(
            "warning",
            f"task.rows.{b}",
            f"{len(found)} of {n} rows ({share} %) have the text of a {a} row{_details(found, second, first)}",
            f"Keep each text in one split, or scores on {b} rows say less about new rows",
        )


def _repeated(split: str, texts: SplitTexts) -> Iterator[Finding]:
    found = [
        (j, i)
        for j, (exact, folded) in enumerate(zip(texts.exact, texts.folded, strict=True))
        if (i := texts.first_exact[exact]) < j or (i := texts.first_folded[folded]) < j
    ]
    if found:
        yield Finding(
            "warning",
            f"task.rows.{split}",
            f"{len(found)} of {len(texts.rows)} rows repeat the text of an earlier one{_details(found, texts, texts)}",
            "They count more than others. Those with the same label, too, are left out by "
            f"task.rows.{split}.drop=[duplicate]",
        )


def _details(found: Sequence[tuple[int, int]], second: SplitTexts, first: SplitTexts) -> str:
    """How many of the pairs (position in ``second``, in ``first``) are not quite the same, and the first few."""
    folded = sum(second.exact[j] != first.exact[i] for j, i in found)
    unlike = sum(second.rows[j].label != first.rows[i].label for j, i in found)
    named = [f'"{second.rows[j].id}" is "{first.rows[i].id}"' for j, i in found[:SHOWN]]
    parts = [
        f", {folded} of them but for case and spaces" if folded else "",
        f", {unlike} with another label" if unlike else "",
        f" ({', '.join(named)}{', …' if len(found) > SHOWN else ''})",
    ]
    return "".join(parts)


def _first(texts: Sequence[Text]) -> dict[Text, int]:
    found: dict[Text, int] = {}
    for i, text in enumerate(texts):
        found.setdefault(text, i)
    return found
