"""What a search leaves in its folder, and the budget report over all searches that share it."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from sweeps.prompt_search.found import METHODS
from sweeps.prompts.files import pool_text

if TYPE_CHECKING:
    from sweeps.prompt_search.found import Found
    from sweeps.prompt_search.order import Order
    from sweeps.prompt_search.scorer import Spent
    from trainer.store import Store

COLUMNS = (
    "method", "seed", "prompt", "score", "rows", "evaluations", "scorings", "reused", "tokens", "seconds", "nan",
    "requests", "written", "written_tokens",
)  # fmt: skip


def write_results(store: Store, order: Order, found: Found, spent: Spent, study: str) -> None:
    """The found prompt as a pool, every evaluation, the search itself, and the budget of all methods in the folder.
    The budget counts all that the search asked for; ``reused`` of it was in the journal before."""
    folder = order.method
    header = (
        f"Found by `steadytune prompts search` ({order.method}, seed {order.seed}) for the study {study}: "
        f"{found.score:.3f} on {found.rows} training rows."
    )
    store.write(f"{folder}/prompt.yaml", pool_text([header], {"": [found.prompt]}).encode())
    lines = [["place", "prompt", "score", "rows", "scorings", "text"]]
    for place, one in enumerate(found.evaluated, 1):
        lines.append([str(place), one.prompt.id, f"{one.score:.6f}", str(one.rows), str(one.scorings), one.prompt.text])
    store.write(f"{folder}/evaluated.csv", _csv(lines))
    result = {"prompt": found.prompt.id, "score": found.score, "rows": found.rows, "evaluations": len(found.evaluated)}
    content = {"order": asdict(order), "result": result, "spent": asdict(spent)}
    store.write(f"{folder}/search.json", (json.dumps(content, indent=1) + "\n").encode())
    table = budget_table(store)
    store.write("budget.csv", _csv([list(COLUMNS), *([_cell(r[c]) for c in COLUMNS] for r in table)]))
    store.write("budget.md", budget_md(table).encode())


def budget_table(store: Store) -> list[dict[str, Any]]:
    """A record for every method in the folder, by name."""
    found = []
    for method in sorted(METHODS):
        if not store.exists(f"{method}/search.json"):
            continue
        content = json.loads(store.read(f"{method}/search.json"))
        record = {"method": method, "seed": content["order"]["seed"], **content["result"], **content["spent"]}
        found.append({c: record.get(c) for c in COLUMNS})
    return found


def budget_md(table: Sequence[Mapping[str, Any]]) -> str:
    lines = [f"| {' | '.join(COLUMNS)} |", f"|{'---|' * len(COLUMNS)}"]
    lines += [f"| {' | '.join(_cell(r[c]) or '-' for c in COLUMNS)} |" for r in table]
    return "\n".join(lines) + (
        "\n\nA scoring is one prompt on one row; `seconds` are of the run that paid for it. `score` is the best of "
        "many on the rows of the search, so on other rows the prompt does worse.\n"
    )


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _csv(lines: Sequence[Sequence[str]]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text).writerows(lines)
    return text.getvalue().encode()
