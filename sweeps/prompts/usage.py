"""The cost of a pool of generated wordings: tokens per model and strategy, as Markdown, CSV and LaTeX.

The first table is the PAFT paper's: tokens by model and strategy. The second has requests, wordings read and wordings
taken. Tokens are those of the answers that were received, prompt and completion together, as counted by the server or
the local tokenizer. What a server charges for failed attempts is not reported, so it is not in the tables.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterable, Sequence

from sweeps.display.text import spreadsheet_cell
from sweeps.prompts.generation import WordingSource
from sweeps.prompts.validation import REASONS

COLUMNS = (
    "model", "strategy", "requests", "failed_attempts", "uncounted_answers", "prompt_tokens", "completion_tokens",
    "total_tokens", "wordings", "accepted", "tokens_per_accepted", "seconds",
)  # fmt: skip


def usage_rows(sources: Sequence[WordingSource]) -> list[dict[str, str | int | float | None]]:
    """One row for each source, with ``COLUMNS`` and a count for each reason. Tokens are None where no answer of the
    source has a count."""
    rows: list[dict[str, str | int | float | None]] = []
    for source in sources:
        known = source.uncounted < len(source.answers) or not source.answers
        total = source.prompt_tokens + source.completion_tokens
        taken = len(source.taken)
        rows.append(
            {
                "model": source.model.name,
                "strategy": source.strategy,
                "requests": len(source.answers),
                "failed_attempts": sum(a.failed for a in source.answers),
                "uncounted_answers": source.uncounted,
                "prompt_tokens": source.prompt_tokens if known else None,
                "completion_tokens": source.completion_tokens if known else None,
                "total_tokens": total if known else None,
                "wordings": source.read,
                "accepted": taken,
                "tokens_per_accepted": round(total / taken, 1) if known and taken else None,
                "seconds": round(sum(a.seconds for a in source.answers), 1),
                **{_column(reason): source.verdicts[reason] for reason in REASONS},
            }
        )
    return rows


def usage_csv(sources: Sequence[WordingSource]) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, [*COLUMNS, *map(_column, REASONS)], lineterminator="\n")
    writer.writeheader()
    writer.writerows({k: spreadsheet_cell(v) for k, v in row.items()} for row in usage_rows(sources))
    return out.getvalue()


def usage_md(sources: Sequence[WordingSource], title: str) -> str:
    parts = [f"# Tokens spent on {_plain(title)}", "", *_markdown(*_by_model(sources)), ""]
    parts += ["Prompt and completion tokens of the answers received, by the servers' count.", *_uncounted(sources)]
    parts += ["", *_markdown(*_details(sources)), ""]
    rejected = sum((s.verdicts for s in sources), Counter[str]())
    listed = [(reason, f"{rejected[reason]:,}", why) for reason, why in REASONS.items() if rejected[reason]]
    if listed:
        parts += ["Wordings that were not taken, each under the first reason that holds:", ""]
        parts += [*_markdown(["reason", "wordings", "what it means"], listed), ""]
    return "\n".join(parts)


def usage_tex(sources: Sequence[WordingSource]) -> str:
    """The table by model, for the booktabs package."""
    head, body = _by_model(sources)
    lines = [rf"\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}", r"\toprule", _tex_row(head), r"\midrule"]
    lines += [_tex_row(row) for row in body[:-2]]
    lines += [r"\midrule", *(_tex_row(row) for row in body[-2:]), r"\bottomrule", r"\end{tabular}", ""]
    return "\n".join(lines)


def _by_model(sources: Sequence[WordingSource]) -> tuple[list[str], list[list[str]]]:
    """The heading and the rows: one per model, then the sum and the mean over models."""
    models = list(dict.fromkeys(s.model.name for s in sources))
    strategies = list(dict.fromkeys(s.strategy for s in sources))
    tokens = {(str(r["model"]), str(r["strategy"])): r["total_tokens"] for r in usage_rows(sources)}
    columns = [[tokens[m, s] for m in models] for s in strategies]
    columns.append([_sum(column[i] for column in columns) for i in range(len(models))])
    body = [[model, *(_whole(column[i]) for column in columns)] for i, model in enumerate(models)]
    body.append(["sum", *(_whole(_sum(column)) for column in columns)])
    body.append(["mean", *(_whole(_mean(column)) for column in columns)])
    return ["model", *(f"{s} tokens" for s in strategies), "total tokens"], body


def _details(sources: Sequence[WordingSource]) -> tuple[list[str], list[list[str]]]:
    head = ["model", "strategy", "requests", "failed attempts", "prompt tokens", "completion tokens", "wordings read"]
    body = []
    for row in usage_rows(sources):
        numbers = ("requests", "failed_attempts", "prompt_tokens", "completion_tokens", "wordings", "accepted")
        cells = [str(row["model"]), str(row["strategy"]), *(_whole(row[n]) for n in numbers)]
        body.append([*cells, _whole(row["tokens_per_accepted"])])
    return [*head, "taken", "tokens per wording taken"], body


def _uncounted(sources: Sequence[WordingSource]) -> list[str]:
    n = sum(s.uncounted for s in sources)
    return [f"{n} answers came without a count and are not in the sums."] if n else []


def _sum(values: Iterable[str | int | float | None]) -> float | None:
    known = [v for v in values if isinstance(v, int | float)]
    return sum(known) if known else None


def _mean(values: Sequence[str | int | float | None]) -> float | None:
    known = [v for v in values if isinstance(v, int | float)]
    return sum(known) / len(known) if known else None


def _whole(value: str | int | float | None) -> str:
    return f"{value:,.0f}" if isinstance(value, int | float) else "not counted"


def _column(reason: str) -> str:
    return f"rejected_{reason.replace(' ', '_')}"


def _markdown(head: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *body]
    return [f"| {' | '.join(_plain(cell).replace('|', chr(92) + '|') for cell in line)} |" for line in lines]


def _plain(text: str) -> str:
    """The text in one line, with ``<`` escaped so that Markdown does not read it as HTML."""
    return " ".join(text.split()).replace("<", "&lt;")


_TEX = {c: rf"\{c}" for c in "&%$#_{}"} | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\^{}"}


def _tex_row(cells: Sequence[str]) -> str:
    return " & ".join("".join(_TEX.get(c, c) for c in " ".join(cell.split())) for cell in cells) + r" \\"
