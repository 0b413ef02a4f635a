"""What ``steadytune report RUN --against OTHER`` says of two runs: a part of the page, and lines for the terminal."""

from __future__ import annotations

import math
from collections.abc import Iterator

from markupsafe import Markup

from sweeps.display.html import render
from sweeps.display.text import HEAVY_TAILS, counted, interval, metric_sign, one_line, percent, with_interval
from sweeps.report.method import level
from sweeps.report.verdict import ALPHA
from sweeps.statistics.intervals import Estimate
from sweeps.tables.against import MOST, WINNERS, Comparison, Pair, Side

MOST_LINES = 8  # changed keys that the terminal lists
LONGEST = 60  # characters of a value there


def part(found: Comparison) -> Markup:
    return render(
        "report/against.html.j2",
        title=f"Compared with {found.address}",
        sentences=[*_of_winners(found), *_of_matched(found)],
        head=_head(found),
        rows=[_row(pair) for pair in found.pairs],
        data=[*found.shared.said, *_other_data(found)],
        study=found.study,
        notes=list(_notes(found)),
    )


def lines(found: Comparison) -> list[str]:
    """The short form for the terminal."""
    said = [f"against {found.address}:", *_of_winners(found), *_of_matched(found), *found.shared.said]
    said += _other_data(found)
    for one in found.study[:MOST_LINES]:
        said.append(f"{one.key}: {_short(one.here)} here, {_short(one.there)} there")
    if len(found.study) > MOST_LINES:
        said.append(f"{counted(len(found.study) - MOST_LINES, 'other key')} of the study differ; the report lists them")
    if not found.study:
        said.append("The studies have the same settings.")
    said += [*_of_fine_tunes(found), *(f"{found.address}: {note}" for note in found.said)]
    return [one_line(line) for line in said]


def _short(value: str) -> str:
    if value == "-":
        return "none"
    return value if len(value) <= LONGEST else value[: LONGEST - 1] + "…"


# sentences -------------------------------------------------------------------------------------------------------


def _of_winners(found: Comparison) -> Iterator[str]:
    yield from (f"{address} is not finished, so its winner may change." for address in found.unfinished)
    yield from found.no_winner
    if not found.shared:
        yield "No test prompt and row is shared, so no difference can be given."
    elif found.equal_winners:
        yield f"Both runs have the same winner, {found.equal[0]}, with the same answers."
    elif found.pairs and found.pairs[0].why == WINNERS:
        yield from _of_pair(found.pairs[0], found.metric)
    elif not found.no_winner:
        yield "The two winners have no test scores on the same prompts and rows."


def _of_pair(pair: Pair, metric: str) -> Iterator[str]:
    here, there = _named(pair.here), _named(pair.there)
    yield f"Both runs have the same winner, {here}." if here == there else f"Winner here: {here}; there: {there}."
    gap, clear = pair.mean, pair.p_holm < ALPHA
    yield (
        f"On what both share, the mean {metric} is {percent(abs(gap.value))} points "
        f"{'higher' if gap.value >= 0 else 'lower'} here ({_interval(gap)}, {_p(pair.p_holm)} after correction): "
        f"{_found(pair.heavy, clear)}."
    )
    std, clear = pair.std, pair.p_std < ALPHA
    text = (
        f"The standard deviation between prompts is {percent(abs(std.value))} points "
        f"{'higher' if std.value >= 0 else 'lower'} here, {percent(pair.here.std)} against {percent(pair.there.std)}"
    )
    if math.isnan(std.low):
        yield f"{text}."
    elif math.isnan(pair.p_std):
        yield f"{text} ({_interval(std)}, for these fine-tunes)."
    else:
        yield f"{text} ({_interval(std)}, {_p(pair.p_std)}): {_found(pair.heavy_std, clear)}."


def _of_matched(found: Comparison) -> Iterator[str]:
    beside = "" if found.no_winner else "Beside the winners, "
    if not found.matched:
        none = f"{beside}no configuration is in both runs, neither by its id nor by its axis values."
        yield none[0].upper() + none[1:]
        return
    others = [pair for pair in found.pairs if pair.why != WINNERS]
    heavy = sum(pair.heavy for pair in others)
    clear = sum(not pair.heavy and pair.p_holm < ALPHA for pair in others)
    equal = len(found.equal) - found.equal_winners
    parts = [f"{clear} of {len(others)} differ clearly in the mean"] if others else []
    parts += [f"{heavy} are undecided, since a few prompts decide"] if heavy else []
    parts += [f"{equal} have the same trials with the same answers"] if equal else []
    parts += [f"{found.unshared} have no test scores in common"] if found.unshared else []
    said = f": {', '.join(parts)}" if parts else ""
    are = f"{counted(found.matched, 'configuration')} {'is' if found.matched == 1 else 'are'}"
    yield f"{beside}{are} in both runs{said}."


def _other_data(found: Comparison) -> list[str]:
    return [f"Other content: {', '.join(found.shared.other_data)}."] if found.shared.other_data else []


def _notes(found: Comparison) -> Iterator[str]:
    yield from (f"{found.address}: {note}" for note in found.said)
    if not found.pairs:
        return
    unit = "points" if metric_sign(found.metric) else "times 100"
    new = "new seeds, prompts and rows" if all(pair.of_settings for pair in found.pairs) else "new prompts and rows"
    yield (
        f"A difference is here minus there, in {unit} of {found.metric}, paired on the test prompts and rows that both "
        f"runs share, with its {level()} interval for {new}; p is corrected for the number of lines "
        "(Holm)."
    )
    yield from _of_fine_tunes(found)
    if any(pair.sampled for pair in found.pairs):
        yield (
            "Some were scored on a sample of the test grid. Differences are on the cells that both have, so they can "
            "be others than those of the means, which estimate the whole grid."
        )
    if found.left:
        yield f"At most {MOST} pairs are compared: {found.left} more that are in both runs, last in the table, are not."
    if any(pair.heavy or pair.heavy_std for pair in found.pairs):
        yield HEAVY_TAILS


def _of_fine_tunes(found: Comparison) -> list[str]:
    if not found.pairs or all(pair.of_settings for pair in found.pairs):
        return []
    return [
        "One seed: differences, intervals and p-values speak of these fine-tunes, not of their settings, since how "
        "much the luck of the seed changes is not known."
    ]


# the table of pairs ---------------------------------------------------------------------------------------------


def _head(found: Comparison) -> list[str]:
    own = found.metric
    return ["pair", "here", "there", f"{own} here", "there", "difference", "p, corrected", "std here", "there"]


def _row(pair: Pair) -> list[str]:
    p = "-" if math.isnan(pair.p_holm) else "< 0.001" if pair.p_holm < 0.001 else f"{pair.p_holm:.3f}"
    return [
        pair.why,
        _named(pair.here),
        _named(pair.there),
        percent(pair.here.mean),
        percent(pair.there.mean),
        with_interval(pair.mean.value, pair.mean.low, pair.mean.high, signed=True),
        f"{p}, undecided (heavy tails)" if pair.heavy else p,
        percent(pair.here.std),
        percent(pair.there.std),
    ]


def _named(side: Side) -> str:
    return f"{side.name} ({side.state})" if side.state else side.name


def _interval(estimate: Estimate) -> str:
    bounds = interval(estimate.low, estimate.high, signed=True)
    return f"{level()} interval {bounds}" if bounds else "no interval"


def _p(value: float) -> str:
    if math.isnan(value):
        return "no p-value"
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"


def _found(heavy: bool, clear: bool) -> str:
    if heavy:
        return "undecided, since a few prompts decide, and for heavy tails neither interval nor p-value holds"
    return f"{'' if clear else 'not '}a clear difference"
