"""The files that a search writes into its folder, and the budget table over all searches that share the folder."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from sweeps.display.text import spreadsheet_text
from sweeps.prompt_search.request import METHODS, SearchRequest
from sweeps.prompt_search.settings import Settings, recorded
from sweeps.prompts.files import pool_text

if TYPE_CHECKING:
    from sweeps.prompt_search.result import SearchResult
    from sweeps.prompt_search.scorer import Spent
    from trainer.store import Store

COLUMNS = (
    "method", "seed", "prompt", "score", "rows", "evaluations", "scorings", "reused", "tokens", "seconds", "nan",
    "requests", "written", "written_tokens",
)  # fmt: skip


def write_results(
    store: Store, request: SearchRequest, settings: Settings | None, result: SearchResult, spent: Spent, study: str
) -> None:
    """Write the chosen prompt as a pool, every evaluation, the request with its result, and the budget of all methods
    in the folder. The budget counts all that the search asked for; ``reused`` of that was in the journal before."""
    folder = request.method
    header = (
        f"Found by `steadytune prompts search` ({request.method}, seed {request.seed}) for the study {study}: "
        f"{result.score:.3f} on {result.rows} training rows."
    )
    store.write(f"{folder}/prompt.yaml", pool_text([header], {"": [result.prompt]}).encode())
    lines = [["place", "prompt", "score", "rows", "scorings", "text"]]
    for place, one in enumerate(result.evaluated, 1):
        lines.append([str(place), one.prompt.id, f"{one.score:.6f}", str(one.rows), str(one.scorings), one.prompt.text])
    store.write(f"{folder}/evaluated.csv", _csv(lines))
    outcome = {
        "prompt": result.prompt.id,
        "score": result.score,
        "rows": result.rows,
        "evaluations": len(result.evaluated),
    }
    content = {
        "order": asdict(request),
        "settings": recorded(request.settings, settings, request.embeddings, request.writer),
        "result": outcome,
        "spent": asdict(spent),
    }
    store.write(f"{folder}/search.json", (json.dumps(content, indent=1) + "\n").encode())
    table = budget_table(store)
    store.write("budget.csv", _csv([list(COLUMNS), *([_cell(r[c]) for c in COLUMNS] for r in table)]))
    store.write("budget.md", budget_md(table).encode())


def budget_table(store: Store) -> list[dict[str, Any]]:
    """One record for each method in the folder, sorted by the method's name."""
    records = []
    for method in sorted(METHODS):
        if not store.exists(f"{method}/search.json"):
            continue
        content = json.loads(store.read(f"{method}/search.json"))
        record = {"method": method, "seed": content["order"]["seed"], **content["result"], **content["spent"]}
        records.append({c: record.get(c) for c in COLUMNS})
    return records


def budget_md(table: Sequence[Mapping[str, Any]]) -> str:
    lines = [f"| {' | '.join(COLUMNS)} |", f"|{'---|' * len(COLUMNS)}"]
    lines += [f"| {' | '.join(_cell(r[c]) or '-' for c in COLUMNS)} |" for r in table]
    return "\n".join(lines) + (
        "\n\nA scoring is one prompt on one row. `seconds` are those of the run that paid for the scorings. `score` is "
        "the best of many scores on the rows of the search, so expect less on other rows.\n"
    )


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _csv(lines: Sequence[Sequence[str]]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text).writerows([spreadsheet_text(cell) for cell in line] for line in lines)
    return text.getvalue().encode()
