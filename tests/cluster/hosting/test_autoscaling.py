"""A study makes the cluster grow from nothing to what its trials can use, lets go of nodes that idle while the last
rung runs, and leaves none behind: Ray's own autoscaler, on nodes that are raylets of this machine."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from checkout import ROOT
from nodes import BIN, OWN_TMP, SPACES, kept, why_not
from small_study import write_study

# Ray's files and processes apart from all others of this machine: the fake cluster stops every Ray that it sees.
INSIDE = f"""{OWN_TMP}
mount -t tmpfs -o size=2g tmpfs /dev/shm
: > /tmp/empty; mount --bind /tmp/empty /etc/resolv.conf || true
ip link set lo up
"$@"
"""
TRIALS, SLOTS = 6, 2


@pytest.mark.long
def test_a_study_scales_from_no_node_to_what_its_trials_use_and_back(tmp_path: Path) -> None:
    if why_not():
        pytest.skip(why_not())
    seen = run_autoscaled(tmp_path)
    assert seen["code"] == 0
    trials = pq.read_table(tmp_path / "out" / "trials.parquet").to_pylist()
    assert sorted(t["status"] for t in trials) == ["finished", *["stopped"] * (TRIALS - 1)]

    nodes, asked, events = seen["nodes"], seen["asked"], seen["events"]
    first_rung = [at for at, what in events if what == "rung 0"]
    last_rung = next(at for at, what in events if what == "rung 1")
    done = next(at for at, what in events if what == "done")
    counts = [n for at, n in nodes]
    assert nodes[0][1] == 0
    # Five are allowed, and three hold all trials. Ray's autoscaler at times starts one more while a node that joins is
    # just being filled, and takes it down at once; what is asked of it is never more than the trials can use.
    lasting = [n for (at, n), (end, _) in itertools.pairwise(nodes) if end - at > 10]
    assert max(n for _, n in asked) == TRIALS, asked
    assert 1 < max(counts) <= TRIALS // SLOTS + 1, nodes
    assert max(lasting) <= TRIALS // SLOTS, nodes
    during = [n for at, n in nodes if first_rung[-1] < at < last_rung]
    assert min(during, default=max(counts)) == 1, (nodes, events)  # one trial runs: one node is left
    assert counts[-1] == 0, (nodes, events)
    assert done < nodes[-1][0]


def run_autoscaled(folder: Path) -> dict[str, Any]:
    """What tests/support/autoscaled_study.py saw of six trials, two to a node, of which one goes on to a long last
    rung."""
    path = write_study(
        folder,
        axes={"steps": 1800, "seed": list(range(TRIALS)), "plw": 0, "pool": "many"},
        scheduler={"name": "asha", "eta": TRIALS, "rungs": [0.01, 1.0]},
        resources={"slots": SLOTS, "cpus": 1},
    )
    with path.open("a") as study:
        study.write("\ntables: {test: finalists}\n")
    own = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    env = {
        **own,
        "PATH": f"{BIN}:{own.get('PATH', '')}",
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests" / "support")]),
        "RAY_AUTH_MODE": "disabled",  # the namespace has no network but its own loopback
        "RAY_ADDRESS": "auto",
        "RAY_USAGE_STATS_ENABLED": "0",
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "KEPT": kept(folder),
    }
    script = [sys.executable, str(ROOT / "tests" / "support" / "autoscaled_study.py"), str(path), str(folder / "out")]
    done = subprocess.run(
        [*SPACES, "bash", "-c", INSIDE, "autoscaled", *script], env=env, capture_output=True, text=True, timeout=280
    )
    line = next((line for line in done.stdout.splitlines() if line.startswith("SEEN ")), None)
    assert line is not None, done.stdout[-2000:] + done.stderr[-4000:]
    found: dict[str, Any] = json.loads(line.removeprefix("SEEN "))
    return found


@pytest.mark.skipif(bool(why_not()), reason=why_not() or "can run")
def test_a_checkout_and_an_environment_in_the_temporary_folder_are_seen_inside() -> None:
    """CASES E12: the namespace has a temporary folder of its own, which would hide them."""
    with tempfile.TemporaryDirectory(prefix="st-", dir="/tmp") as name:
        places = [Path(name, "checkout"), Path(name, "an environment", "bin")]
        for place in places:
            place.mkdir(parents=True)
            (place / "file").write_text("here")
        Path(name, "other").write_text("hidden")
        look = 'cat "$1/file" "$2/file"; test -e "$3" && echo seen'
        command = ["bash", "-c", INSIDE, "autoscaled", "bash", "-c", look, "look", *map(str, places), f"{name}/other"]
        done = subprocess.run(
            [*SPACES, *command], env={**os.environ, "KEPT": kept(*places)}, capture_output=True, text=True
        )
    assert done.stdout == "herehere", done.stderr
