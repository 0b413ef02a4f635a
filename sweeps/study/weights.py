"""Three ways to lay out the axis of prompt loss weights; each becomes plain weights when the study is read.

    plw: [0, 0.01, 0.1, 1]                      # lambda: the weight of the row's tokens; the answer's weigh 1
    plw: {lambda: [0, 0.01, 0.1, 1]}            # the same, written in full
    plw: {power: [0, 0.25, 0.5, 0.75, 1]}       # weight^0.30103, the scale of the PLW paper's later version
    plw: {share: [0, 0.25, 0.5, 0.75], ratio: 0.081}   # the prompt's share of the loss, for completion/prompt = ratio

The same weight means another thing on another data set: where completions are 13 times shorter than prompts, a weight
of 0.1 already gives the prompt 55 % of the loss, where they are 3 times longer 3 %. Shares compare across data sets.
``steadytune lengths`` prints the ratio. A trial holds a plain weight, so neither its id nor the trainer depends on the
layout; the resolved study holds plain weights, too.
"""

from __future__ import annotations

import math
from typing import Any

from sweeps.study.problems import Problems
from trainer.errors import nearest

POWER = math.log10(2.0)  # 0.30103: weight 0.1 becomes 0.5, 0.01 becomes 0.25; 0 and 1 stay
LAYOUTS = ("lambda", "power", "share")
MOST_PLACE = 1_000_000  # of a power, a share or a ratio: its weight still fits a float32
_DIGITS = 6  # significant digits that are kept, so that 0.1 as a power and back is 0.1 again


def weight_of_power(place: float) -> float:
    """The weight whose 0.30103th power is ``place`` (0 or more)."""
    return float(place ** (1.0 / POWER))


def weight_of_share(share: float, ratio: float) -> float:
    """The weight at which the prompt has ``share`` (0 to below 1) of the loss, where completion / prompt = ``ratio``:
    share = w P / (w P + C)."""
    return share * ratio / (1.0 - share)


def as_weights(value: Any) -> Any:
    """The axis as plain weights. A value without a layout (a number, a list, a range) is returned as it is, and the
    schema checks it. Raises ``Problems``."""
    if not isinstance(value, dict) or not ({*value} & {*LAYOUTS, "ratio"}):
        return value
    names = [key for key in value if key != "ratio"]
    unknown = next((key for key in names if key not in LAYOUTS), None)
    if unknown is not None:
        raise Problems(f'holds "{unknown}", which is not known as a layout of weights.{nearest(str(unknown), LAYOUTS)}')
    if len(names) != 1:
        raise Problems("must hold one of lambda, power and share, such as {power: [0, 0.5, 1]}")
    [layout] = names
    places, ratio = value[layout], value.get("ratio")
    if layout != "share" and "ratio" in value:
        raise Problems(f"has a ratio, which only share needs. Remove it, or write share instead of {layout}")
    if layout == "lambda":
        return places
    places = places if isinstance(places, list | tuple) else [places]
    if not places or not all(_number(p) and p >= 0 for p in places):
        raise Problems(f"must give {layout} as numbers of 0 to {MOST_PLACE:,}, such as {{{layout}: [0, 0.25, 0.5]}}")
    if layout == "power":
        return [_round(weight_of_power(p)) for p in places]
    if ratio is None or not _number(ratio) or not ratio > 0:
        raise Problems(
            "needs the completion/prompt ratio of the train rows, such as {share: [0, 0.5], ratio: 3.28}; "
            "`steadytune lengths FILE --tokenizer T` prints it"
        )
    if max(places) >= 1:
        raise Problems("must give shares below 1: at 1 the completion would have no weight at all")
    return [_round(weight_of_share(p, ratio)) for p in places]


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= MOST_PLACE


def _round(weight: float) -> float:
    return float(f"{weight:.{_DIGITS}g}")
