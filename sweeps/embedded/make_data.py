"""Write the quickstart's rows, data/train.jsonl, dev.jsonl and test.jsonl; the same bytes every time.

    python -m sweeps.embedded.make_data

Question: is the writer of the message unhappy? (label 1 = yes). No text occurs twice, within or across splits.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path

from sweeps.embedded.messages import Message, message

HERE = Path(__file__).parent
SIZES = {"train": 1500, "dev": 300, "test": 500}
SEED = 20240607


def splits() -> dict[str, list[Message]]:
    """The three splits, drawn in the order test, dev, train from one stream without repetition."""
    stream = distinct(random.Random(SEED), set())
    return {name: [next(stream) for _ in range(SIZES[name])] for name in ("test", "dev", "train")}


def distinct(rng: random.Random, seen: set[str]) -> Iterator[Message]:
    """Messages whose lower-case text is not in ``seen``; adds the texts of those that it yields."""
    while True:
        found = message(rng)
        if found.text.lower() not in seen:
            seen.add(found.text.lower())
            yield found


def jsonl(name: str, messages: list[Message]) -> str:
    rows = ({"id": f"{name}-{i:04d}", "text": m.text, "label": m.label} for i, m in enumerate(messages))
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def main() -> None:
    for name, messages in splits().items():
        path = HERE / "data" / f"{name}.jsonl"
        path.write_text(jsonl(name, messages), encoding="utf-8", newline="\n")
        print(f"{path.name}: {len(messages)} rows, {sum(m.label for m in messages) / len(messages):.1%} yes")


if __name__ == "__main__":
    main()
