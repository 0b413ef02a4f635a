"""The lines of ``verify``'s result: what was compared, what differs, and why."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sweeps.display.text import interval, percent
from sweeps.export.predict import ExportedAdapter
from sweeps.prompts.endpoints import ModelAnswer
from sweeps.verify.compare import AnswerComparison
from sweeps.verify.diagnosis import faults
from sweeps.verify.reference import ReferenceAnswer, ReferenceModel
from sweeps.verify.setups import OTHER_TEMPLATE
from trainer.data.rows import Row
from trainer.data.wording import Prompt
from trainer.errors import short
from trainer.trial import Trial


def figures(found: AnswerComparison, rows: Sequence[Row], unread: int) -> Iterator[str]:
    n = len(found.rows)
    answers = sum(r.same_answer for r in found.rows)
    none = f"; {unread} of predict's begin with no label" if unread else ""
    yield f"answers: {_share(answers, n)} as predict gives them with the scorer generate{none}"
    rounded = f"; in {len(found.rounded)} of the others two tokens are about as probable" if found.rounded else ""
    yield f"texts: {sum(r.same_text for r in found.rows)} of {n} are the same{rounded}"
    yield _token_counts(found)
    largest = found.largest
    if largest is None or largest.gap is None:
        yield "probabilities: the server gives no log-probabilities"
    else:
        gap, counted = largest.gap, sum(r.gap is not None for r in found.rows)
        yield (
            f"probabilities of the first token, over {counted} rows: largest difference {gap.value:.4f} "
            f'(row "{short(rows[largest.at].id)}", token {short(repr(gap.token))}: {gap.here:.4f} here, '
            f"{gap.there:.4f} there)"
        )


def _token_counts(found: AnswerComparison) -> str:
    more = [r.more_tokens for r in found.rows if r.more_tokens is not None]
    if not more:
        return "question's tokens: the server does not count them"
    text = f"question's tokens: {more.count(0)} of {len(more)} counts are the same"
    low, high = min(more), max(more)
    if low == high == 0:
        return text
    return f"{text}; the server has {low:+d}" + (f" to {high:+d}" if high > low else "")


def by_labels(
    adapter: ExportedAdapter, wording: Prompt, rows: Sequence[Row], model: ReferenceModel, there: Sequence[ModelAnswer]
) -> str:
    exported = adapter.exported
    counts = [exported.label_counts.get(label, 0) for label in exported.trial.task.labels] or None
    chosen = adapter.predictor.predict(wording, rows, counts)
    same = sum(model.index_of(a.text, i) == p.index for i, (a, p) in enumerate(zip(there, chosen, strict=True)))
    return f"labels: {_share(same, len(rows))} as predict gives them, which compares the labels' probabilities"


def _share(k: int, n: int) -> str:
    """``98 of 100 (98.0 %, 93.0 to 99.4)``: with Wilson's interval of 95 %."""
    from scipy.stats import binomtest

    low, high = binomtest(k, n).proportion_ci(method="wilson")
    return f"{k} of {n} ({percent(k / n)} %, {interval(low, high)})"


def differences(
    found: AnswerComparison, rows: Sequence[Row], here: Sequence[ReferenceAnswer], there: Sequence[ModelAnswer]
) -> Iterator[str]:
    for row in found.differing[:3]:
        mine, theirs = (short(repr(text)) for text in (here[row.at].text, there[row.at].text))
        yield f'row "{short(rows[row.at].id)}": {mine} here, {theirs} there'


def reason(
    drawn: str, model: ReferenceModel, trial: Trial, there: Sequence[ModelAnswer], found: AnswerComparison
) -> str:
    if drawn:
        return (
            f"sampling is on: {drawn}, though temperature 0 was asked for. Let the server, and what stands before it, "
            "take the request's temperature; then verify again, since nothing else can be told from drawn answers"
        )
    reasons = faults(model, there, found)
    if reasons:
        named = "; or ".join(dict.fromkeys(setup.fault for setup in reasons[:3]))
        gives = "That set-up gives" if len(reasons) == 1 else "Each of these set-ups gives"
        fixes = " ".join(dict.fromkeys(f"{setup.fix}." for setup in reasons[:3]))
        return f"{named}. {gives} the server's answers here. {fixes}"
    if found.other_lengths and trial.template.chat:
        return (
            f"its chat template is another one: it makes other numbers of tokens of {len(found.other_lengths)} of "
            f"{len(found.rows)} questions. {OTHER_TEMPLATE}"
        )
    if found.other_lengths:
        return "its tokenizer is another one, by its counts of the questions' tokens. Serve the base model's tokenizer"
    return (
        "the reason was not found: no count of a question's tokens differs, and none of the known faults gives the "
        "server's answers here. Look at its base model, its adapter, penalties in its generation_config.json, and "
        "quantisation"
    )
