"""The sentences of the report on how the numbers were measured, and which configurations its figures draw."""

from __future__ import annotations

import itertools
import math

from sweeps.display.text import HEAVY_TAILS, counted, duration, metric_text, percent, unseen
from sweeps.report.evidence import DRAWN, Evidence
from sweeps.statistics.intervals import LEVEL
from sweeps.study.precision import may_sample
from sweeps.study.study import Study
from sweeps.tables.columns import is_sampled
from sweeps.tables.configurations import seed_note
from trainer.measure.estimate import Z


def facts(evidence: Evidence) -> list[str]:
    study, (seconds, tokens) = evidence.study, evidence.spent
    return [
        f"Metric: {study.task.metric}, for each prompt over all rows; then mean and standard deviation over prompts.",
        "Three pools of prompts without common prompts: one for training, one for early stopping (dev), and one only "
        "for measuring (test).",
        *_grid(evidence),
        *_cells(evidence),
        *_intervals(evidence),
        _share(study),
        f"Early stopping: {_stopping(study)}",
        *_sampling(evidence),
        _answering(study),
        f"Model: {study.model.path}, {study.model.dtype}{_quantized(study)}; prompt and answer together take at most "
        f"{study.task.max_length} tokens.",
        f"Cost: {duration(seconds)} of training and scoring, summed over all trials; {tokens:,} tokens trained on.",
    ]


def _grid(evidence: Evidence) -> list[str]:
    sizes = {(e.number("n_prompts"), e.number("n_rows")) for e in evidence.entries if math.isfinite(e.number("n_rows"))}
    grids = [f"{counted(p, f'{evidence.pool} prompt')} on {counted(r, 'row')}" for p, r in sorted(sizes)]
    return [f"Measured on {' or '.join(grids)}."] if grids else []


def _cells(evidence: Evidence) -> list[str]:
    """On how many cells the numbers rest, where not all were scored."""
    part = [e for e in evidence.entries if is_sampled(e.row)]
    if not part or evidence.pool != "test":
        return []
    sizes = sorted({(e.number("n_cells"), e.number("n_prompts") * e.number("n_rows")) for e in part})
    cells = " or ".join(f"{n:,.0f} of {of:,.0f} cells" for n, of in sizes)
    half = percent(Z * max(e.number("mean_sampling") for e in part))
    whole = len(evidence.entries) - len(part) - sum(math.isnan(e.number("mean")) for e in evidence.entries)
    every = f" {whole} of the table {'was' if whole == 1 else 'were'} scored on every cell." if whole else ""
    return [
        f"{len(part)} of the table {'was' if len(part) == 1 else 'were'} scored on {cells} of the test grid, the "
        f"same cells for each, after a pilot that said how many are needed; the means are those of the whole grid to "
        f"{half} points or less ({level()}).{every}"
    ]


def _intervals(evidence: Evidence) -> list[str]:
    if evidence.pool != "test":
        return []
    return [
        f"{level()} intervals are for new prompts and new rows: both count as drawn at random. The interval of the "
        "corrected standard deviation is for the differences between prompts, without the noise of finite rows.",
        f"Differences are to the best {evidence.unit} by the dev objective, paired on the same prompts and rows. Their "
        "p-values are corrected for the number of comparisons with the best and the second best (Holm).",
        *filter(None, [_of_table(seed_note([e.row for e in evidence.entries if "n_seeds" in e.row]))]),
        *[unseen(int(min(found))) for found in [_prompts(evidence)] if found],
        *([HEAVY_TAILS] if any(e.row.get("heavy_tails") for e in evidence.entries) else []),
    ]


def _of_table(note: str) -> str:
    return note and f"In the table of all: {note[:1].lower()}{note[1:]}"


def _prompts(evidence: Evidence) -> list[float]:
    return [n for e in evidence.entries if math.isfinite(n := e.number("n_prompts"))]


def _quantized(study: Study) -> str:
    kind = study.model.quantization
    return "" if kind == "none" else f", linear layers in {kind}"


def _share(study: Study) -> str:
    limits = " and ".join(f"{100 * t:g} %" for t in study.tables.thresholds)
    rule = "strictly above" if study.tables.strict else "at or above"
    return f"The share of prompts counts those {rule} {limits}."


def _stopping(study: Study) -> str:
    if study.scheduler.name == "none":
        return "none, every trial is trained to its end."
    rungs = ", ".join(f"{share:g}" for share in study.scheduler.shares)
    return (
        f"ASHA at {rungs} of a trial's steps; the best 1/{study.scheduler.eta} go on, by mean - "
        f"{study.objective.std_weight:g} x standard deviation over the dev prompts."
    )


def _sampling(evidence: Evidence) -> list[str]:
    """What of the dev grid is scored at the rungs."""
    study, found = evidence.study, []
    if study.scoring.sample < 1:
        found.append(
            f"Rungs before the last score {100 * study.scoring.sample:g} % of the dev prompts x rows, the same cells "
            "for every trial; the values there are estimates of what the whole grid would give."
        )
    last = [list(evidence.objectives(e).values())[-1:] for e in evidence.drawn]
    part = {(o.n_cells, o.n_prompts * o.n_rows) for o in itertools.chain(*last) if o.n_cells < o.n_prompts * o.n_rows}
    if part and may_sample(study):
        cells = " or ".join(f"{n:,} of {of:,}" for n, of in sorted(part))
        found.append(
            f"Trials ended on {cells} cells of the dev grid, the same for every trial: as many as tables.precision "
            "needs where rows and cells vary as they usually do."
        )
    return found


def _answering(study: Study) -> str:
    if study.scoring.scorer == "generate":
        return f"Answers: generated, at most {study.scoring.max_new_tokens} tokens, and parsed."
    return f"Answers: the label with the highest log-probability (decision {study.scoring.decision})."


def drawn(evidence: Evidence) -> str:
    """Which trials the figures leave out."""
    rest = evidence.entries[DRAWN:]
    if not rest:
        return ""
    means = [e.number("mean") for e in rest if math.isfinite(e.number("mean"))]
    ends = [metric_text(end(means), evidence.study.task.metric) for end in (min, max)] if means else []
    span = f", with means from {' to '.join(ends)}" if means else ""
    return (
        f"Only the best {DRAWN} of {len(evidence.entries)} {evidence.unit}s are drawn; "
        f"the other {len(rest)}{span}, are in the table only."
    )


def level() -> str:
    return f"{100 * LEVEL:g} %"
