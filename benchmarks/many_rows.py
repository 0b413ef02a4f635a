"""A million short rows answered in parts with Ray Data, against one process and against a plain transformers loop.

    python benchmarks/many_rows.py [--rows N] [--json FILE]

The rows are the embedded model's test rows over and over, with a number before each, so that no two are equal. The
adapter is that of one trial of the quickstart. ``one process`` is `steadytune predict` with a file as ``--out``. The
peer, ``transformers``, is what a competent user would write: peft's merged model, sorted by length within blocks of
4,096 rows, padded batches of 64, the labels' first tokens compared at the last one. All read parquet, write
parquet and use 2 threads: Ray Data has two workers of one thread each, and one worker of two threads besides. Each is
timed as a whole process, start included, after one run over 2,000 rows that is not counted. The single process and the
peer get a tenth of the rows, since their time is in proportion to the rows; their rates are compared.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pyarrow as pa
import pyarrow.parquet as pq
from study_command import ROOT, steadytune

DATA = ROOT / "sweeps" / "embedded" / "data" / "test.jsonl"
STUDY = ["run", "quickstart", "axes.template=[plain]", "axes.lora.r=[8]", "axes.plw=[0]", "axes.pool=[many]"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--peer", nargs=3, help=argparse.SUPPRESS)  # export, rows, answers: the peer's own process
    args = parser.parse_args()
    if args.peer:
        plain_loop(*args.peer)
        return
    with tempfile.TemporaryDirectory(prefix="many-rows-") as name:
        folder = Path(name)
        steadytune(*STUDY, "--out", str(folder / "run"))
        steadytune("export", str(folder / "run"), "--to", str(folder / "adapter"))
        rates = measure(folder, args.rows)
    found = {
        "rows": args.rows,
        "rows_per_second": {name: round(rate) for name, rate in rates.items()},
        "ratio_to_one_process": {n: round(r / rates["one process"], 2) for n, r in rates.items()},
        "ratio_to_transformers": {n: round(r / rates["transformers"], 2) for n, r in rates.items()},
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "versions": {n: version(n) for n in ("torch", "transformers", "peft", "ray")},
    }
    print(json.dumps(found, indent=1))
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n")


def measure(folder: Path, n: int) -> dict[str, float]:
    """Rows a second of each way."""
    adapter, few, tenth, all_rows = (
        str(folder / x) for x in ("adapter", "few.parquet", "tenth.parquet", "all.parquet")
    )
    for path, count in ((few, 2000), (tenth, n // 10), (all_rows, n)):
        write_rows(path, count)

    def ways(rows: str, out: Path) -> dict[str, list[str]]:
        predict = [sys.executable, "-m", "sweeps", "predict", adapter, "--rows", rows, "--out"]
        return {
            "transformers": [sys.executable, __file__, "--peer", adapter, rows, str(folder / "peer.parquet")],
            "one process": [*predict, f"{out}.parquet"],
            "parts, one worker": [*predict, f"{out}-1/"],
            "parts, two workers": [*predict, f"{out}-2/", "--workers", "2"],
        }

    for words in ways(few, folder / "warm").values():
        timed(words)
    rates: dict[str, float] = {}
    for name, words in ways(tenth, folder / "one").items():
        if not name.startswith("parts"):
            rates[name] = n // 10 / timed(words)
            print(f"{name}: {rates[name]:,.0f} rows/s", flush=True)
    for name, words in ways(all_rows, folder / "parts").items():
        if name.startswith("parts"):
            rates[name] = n / timed(words)
            print(f"{name}: {rates[name]:,.0f} rows/s", flush=True)
    same(folder)
    return rates


def write_rows(path: str, n: int) -> None:
    texts = [json.loads(line)["text"] for line in DATA.read_text().splitlines()]
    pq.write_table(pa.table({"text": [f"{i} {texts[i % len(texts)]}" for i in range(n)]}), path)


def same(folder: Path) -> None:
    """Print how far the answers to the first tenth agree; end where ours differ by more than rounding."""
    one = pq.read_table(folder / "one.parquet")
    peer = pq.read_table(folder / "peer.parquet")["label"].to_pylist()
    agree = sum(a == b for a, b in zip(one["label"].to_pylist(), peer, strict=True)) / one.num_rows
    print(f"the peer gives the same label for {agree:.4%} of {one.num_rows:,} rows")
    for name in ("parts-1", "parts-2"):
        parts = pa.concat_tables(pq.read_table(p) for p in sorted((folder / name).glob("*.parquet")))
        first = parts.slice(0, one.num_rows)
        gap = max(abs(a - b) for a, b in zip(first["p_yes"].to_pylist(), one["p_yes"].to_pylist(), strict=True))
        print(f"{name}: {parts.num_rows:,} rows; largest difference of a probability from one process: {gap:.2g}")
        if parts["id"].to_pylist() != [f"row-{i}" for i in range(parts.num_rows)] or gap > 1e-4:
            sys.exit(f"{name}: the answers are not those of one process")


def plain_loop(adapter: str, rows: str, out: str) -> None:
    """The peer: answers of the merged model, as a user would write it with transformers and peft."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(2)
    about = json.loads(Path(adapter, "template.json").read_text())
    base = about["trial"]["model"]["path"]
    tokenizer = AutoTokenizer.from_pretrained(base, padding_side="right")
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter).merge_and_unload().eval()
    words = [
        tokenizer(f" {label}", add_special_tokens=False)["input_ids"][0] for label in about["trial"]["task"]["labels"]
    ]
    marker = about["trial"]["template"]["marker"]
    texts = [about["prompt"]["text"].replace("{{ text }}", t) + marker for t in pq.read_table(rows)["text"].to_pylist()]
    chosen = [0] * len(texts)
    with torch.inference_mode():
        for start in range(0, len(texts), 4096):
            block = sorted(range(start, min(start + 4096, len(texts))), key=lambda i: len(texts[i]))
            for at in range(0, len(block), 64):
                batch = block[at : at + 64]
                inputs = tokenizer([texts[i] for i in batch], return_tensors="pt", padding=True)
                last = inputs["attention_mask"].sum(1) - 1
                logits = model(**inputs).logits[torch.arange(len(batch)), last][:, words]
                for i, k in zip(batch, logits.argmax(-1).tolist(), strict=True):
                    chosen[i] = k
    labels = about["trial"]["task"]["labels"]
    pq.write_table(pa.table({"id": [f"row-{i}" for i in range(len(texts))], "label": [labels[k] for k in chosen]}), out)


def timed(words: list[str]) -> float:
    """Seconds of the whole process."""
    start = time.perf_counter()
    subprocess.run(words, env=environment(), check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


if __name__ == "__main__":
    main()
