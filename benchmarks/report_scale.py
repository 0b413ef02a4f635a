"""How long the tables and the page of a large run take, how large the page is, and how soon a browser shows it.

    python benchmarks/report_scale.py [--json FILE] [--quick] [--drawn] [--rows N] [--keep FOLDER]

The run folder is made, not trained: 1,000 configurations of one seed, half of them stopped at the first of two rungs,
all scored on 50 test prompts x 200 rows (10 million score rows) and, at every rung, on 10 dev prompts x 100 rows. The
axes are a grid, or, with ``--drawn``, values of a random search, of which no two are alike. Measured are `steadytune
report` as a command of its own, its processor time and memory; the size of the page, without the charts' library, which
is the same in every page; and, where Chromium is installed, the time from opening the file until it can be used, and
until the last chart is drawn.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]

import numpy as np  # noqa: E402
import pyarrow as pa  # noqa: E402

from sweeps.run_folder import trials_file  # noqa: E402
from sweeps.study.load import resolved  # noqa: E402
from sweeps.study.overlay import dump_yaml  # noqa: E402
from sweeps.study.study import Study  # noqa: E402
from trainer import trial as t  # noqa: E402
from trainer.data.pools import fingerprint_prompts  # noqa: E402
from trainer.data.wording import Prompt  # noqa: E402
from trainer.store import SCORES, Store  # noqa: E402

NAMES = ("no", "yes")
STEPS = 100
DEV = (10, 100)  # prompts, rows
OPENINGS = 5  # of the page; the median counts


@dataclass(frozen=True)
class Size:
    configurations: int = 1000
    prompts: int = 50
    rows: int = 200


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the claims here")
    parser.add_argument("--quick", action="store_true", help="20 configurations: does it run, not how fast")
    parser.add_argument("--drawn", action="store_true", help="axes of a random search instead of a grid")
    parser.add_argument("--rows", type=int, default=Size.rows, help="test rows")
    parser.add_argument("--keep", type=Path, help="make the run folder here, or take the one that is here")
    args = parser.parse_args()
    size = Size(20, 8, 40) if args.quick else Size(rows=args.rows)
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="report-") as name:
        folder = args.keep or Path(name)
        if not (folder / "trials.parquet").exists():
            make_run(folder, size, args.drawn)
        found = {**written(folder), **opened(folder / "report.html")}
    axes = "drawn at random" if args.drawn else "a grid"
    print(f"{size.configurations} configurations x {size.prompts} prompts x {size.rows} rows, axes {axes}")
    for claim, (value, unit) in found.items():
        print(f"  {claim}: {value:.2f} {unit}")
    if args.json:
        args.json.write_text(json.dumps(claims_of(size, axes, found, load), indent=1) + "\n")


# the run ---------------------------------------------------------------------------------------------------------


def make_run(folder: Path, size: Size, drawn: bool = False) -> None:
    """A run folder with score rows for each configuration."""
    store = Store.open(folder)
    study = _study(size)
    store.write("study.yaml", dump_yaml(resolved(study)).encode())
    pools = {"dev": _keep_prompts(store, "dev", DEV[0]), "test": _keep_prompts(store, "test", size.prompts)}
    rng, listed = np.random.default_rng(0), list[dict[str, Any]]()
    for place, trial in enumerate(itertools.islice(_trials(drawn, pools), size.configurations)):
        skill = float(np.clip(1.2 + 0.6 * rng.standard_normal(), -0.5, 3.0))
        ended = STEPS if place % 2 == 0 else STEPS // 2
        for rung in range(STEPS // 2, ended + 1, STEPS // 2):
            late = skill if rung == STEPS else skill - 0.3
            store.write_scores(trial.id, rung, "dev", _rows(trial.id, rung, "dev", DEV, late), _record(trial, rung))
        grid = (size.prompts, size.rows)
        store.write_scores(trial.id, ended, "test", _rows(trial.id, ended, "test", grid, skill), _record(trial, ended))
        listed.append(
            {
                "trial_id": trial.id, "configuration": trial.configuration, **t.axis_columns(trial), "role": "search",
                "status": "finished" if ended == STEPS else "stopped", "rung": ended, "seconds": 60.0, "tokens": 10_000,
                "reason": "" if ended == STEPS else "rung 1: stopped, better ones were there", "test_mean": 0.5,
            }
        )  # fmt: skip
    trials_file.write_trials(store, listed, {})


def _study(size: Size) -> Study:
    rows = {use: {"path": f"{use}.jsonl"} for use in ("train", "dev", "test")}
    return Study.model_validate(
        {
            "name": "large",
            "model": {"path": "model"},
            "task": {"rows": rows, "fields": ["text"], "label": "label", "labels": list(NAMES), "metric": "f1_macro"},
            "pools": {"train": {"many": "train.yaml"}, "dev": "dev.yaml", "test": "test.yaml"},
            "axes": {"lr": [1e-3], "steps": STEPS},
            "scheduler": {"rungs": [0.5, 1.0]},
            "tables": {"thresholds": [0.85, 0.9]},
        }
    )


def _keep_prompts(store: Store, pool: str, n: int) -> str:
    """Write a pool of prompts into the run folder and return its fingerprint."""
    texts = {
        f"{pool}{i:02d}": f"{{{{ text }}}}\nWording {i}: is the writer of this message unhappy? Answer with yes or no."
        for i in range(n)
    }
    name = fingerprint_prompts([Prompt(i, text) for i, text in texts.items()])
    store.write(f"prompts/{name}.json", json.dumps([{"id": i, "text": x} for i, x in texts.items()]).encode())
    return name


def _trials(drawn: bool, pools: Mapping[str, str]) -> Iterator[t.Trial]:
    """A grid of 1,000 points, or as many that a random search drew."""
    rng = np.random.default_rng(1)
    names, ranks = ("plain", "chat"), (4, 8, 16, 32, 64)
    weights, rates, arms = (0.0, 0.01, 0.03, 0.1, 1.0), (1e-4, 3e-4, 1e-3, 3e-3, 1e-2), ("one", "few", "many", "all")
    for name, r, plw, lr, pool in itertools.product(names, ranks, weights, rates, arms):
        if drawn:
            lr, plw = (float(f"{10 ** rng.uniform(*ends):.4g}") for ends in ((-4, -2), (-3, 0)))
        yield t.Trial(
            model=t.Model("model", "f0"),
            task=t.Task(NAMES, "f1_macro"),
            template=t.Template(name, chat=name == "chat"),
            lora=t.Lora(r=r),
            loss=t.Loss(plw=plw),
            optimization=t.Optimization(steps=STEPS, lr=lr),
            draw=t.Draw(),
            scoring=t.Scoring(),
            data=t.Data("a", "b", "c", pool, pools["dev"], pools["test"]),
            pool=pool,
        )


def _rows(trial_id: str, rung: int, pool: str, grid: tuple[int, int], skill: float) -> pa.Table:
    """Answers of a trial of this ``skill``, in logits; prompts and rows differ in difficulty."""
    p, r = grid
    common = np.random.default_rng([p, r])
    easy = common.normal(0, 0.5, (p, 1)) + common.normal(0, 1.0, (1, r))
    own = np.random.default_rng([int(trial_id[:8], 16), rung, p])
    sure = easy + skill + own.normal(0, 0.3, (p, 1))
    label = np.arange(r) % 2
    right = own.random((p, r)) < 1 / (1 + np.exp(-sure))
    answer = np.where(right, label, 1 - label).ravel()
    margin = np.abs(own.normal(1, 0.5, p * r)) * (2 * answer - 1)
    logprobs = -np.log1p(np.exp(np.stack([margin, -margin], axis=1))).astype(np.float32)
    names = pa.array(NAMES)
    return pa.table(
        {
            "trial_id": pa.repeat(trial_id, p * r),
            "rung": pa.repeat(pa.scalar(rung, pa.int32()), p * r),
            "pool": pa.repeat(pool, p * r),
            "prompt_id": pa.array([f"{pool}{i:02d}" for i in range(p)]).take(pa.array(np.repeat(np.arange(p), r))),
            "row_id": pa.array([f"{pool}-{j:04d}" for j in range(r)]).take(pa.array(np.tile(np.arange(r), p))),
            "label": names.take(pa.array(np.tile(label, p))),
            "predicted": names.take(pa.array(answer)),
            "correct": pa.array(right.ravel()),
            "label_logprobs": pa.FixedSizeListArray.from_arrays(pa.array(logprobs.ravel()), 2).cast(
                pa.list_(pa.float32())
            ),
            "new_tokens": pa.nulls(p * r, pa.int16()),
        },
        schema=SCORES,
    )


def _record(trial: t.Trial, rung: int) -> dict[str, Any]:
    steps = list(range(rung - STEPS // 2 + 1, rung + 1))
    curve = {"step": steps, "completion_loss": [2.5 * float(np.exp(-s / 40)) + 0.3 for s in steps]}
    return {"trial": trial.to_json(), "rung": rung, "seconds": 30.0, "tokens": 5_000, "curve": curve}


# what is measured ------------------------------------------------------------------------------------------------

WRITTEN = """
import json, resource, sys, time
began = time.perf_counter()
from sweeps.cli import main
try:
    main(["report", sys.argv[1]])
except SystemExit as ended:
    assert not ended.code, ended.code
used = resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps([time.perf_counter() - began, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024]))
"""


def written(folder: Path) -> dict[str, tuple[float, str]]:
    """`steadytune report` in a process of its own, and the size of its page."""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    env.pop("OMP_NUM_THREADS", None)
    run = subprocess.run(
        [sys.executable, "-c", WRITTEN, str(folder)], capture_output=True, text=True, check=False, cwd=ROOT, env=env
    )
    if run.returncode:
        sys.exit(run.stderr[-3000:])
    wall, used, memory = json.loads(run.stdout.splitlines()[-1])
    page = (folder / "report.html").read_text(encoding="utf-8")
    library = re.search(r'<script id="vega">.*?</script>', page, re.DOTALL)
    library_bytes = len(library[0].encode()) if library else 0
    return {
        "writing tables and page": (wall, "s"),
        "writing tables and page, processor time": (used, "s"),
        "writing tables and page, memory at most": (memory, "MB"),
        "the page without the library": ((len(page.encode()) - library_bytes) / 1e6, "MB"),
        "the library": (library_bytes / 1e6, "MB"),
    }


def opened(page: Path) -> dict[str, tuple[float, str]]:
    """The page in Chromium, from opening the file on; empty without Chromium or Playwright."""
    try:
        from browser import DRAWN, MissingBrowser, chromium
    except ImportError as error:
        print(f"not opened: {error}")
        return {}
    usable, drawn = [], []
    try:
        with chromium() as browser:
            for _ in range(OPENINGS):
                tab = browser.new_page()
                tab.goto(page.as_uri(), wait_until="load")
                usable.append(tab.evaluate("performance.timing.loadEventEnd - performance.timing.navigationStart"))
                tab.wait_for_function(DRAWN)
                drawn.append(tab.evaluate("performance.now()"))
                tab.close()
    except MissingBrowser as error:
        print(f"not opened: {error}")
        return {}
    return {
        "opening the page in Chromium until it can be used": (statistics.median(usable) / 1000, "s"),
        "opening the page in Chromium until the last chart is drawn": (statistics.median(drawn) / 1000, "s"),
    }


def claims_of(size: Size, axes: str, found: Mapping[str, tuple[float, str]], load: float) -> list[dict[str, Any]]:
    """``load``: processes that waited for a core when this began. Well above 0, it has slowed down all but the
    processor time and the sizes."""
    of = f"{size.configurations} configurations x {size.prompts} prompts x {size.rows} rows, axes {axes}"
    machine = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"
    versions = {name: version(name) for name in ("numpy", "pyarrow", "altair")} | {"python": platform.python_version()}
    return [
        {"claim": f"{claim}, {of}", "ours": round(value, 3), "peer": None, "ratio": None, "unit": unit}
        | {"machine": machine, "load": round(load, 1), "versions": versions}
        for claim, (value, unit) in found.items()
    ]


if __name__ == "__main__":
    main()
