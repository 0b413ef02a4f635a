"""Differences between training arms that have several seeds: what they are made of, and how often equal arms are told
apart."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from tiny_run import LABELLED, PLAIN, make_run

from sweeps.paft import tables
from sweeps.paft.arm_results import Result, results
from sweeps.paft.changes import changes, seed_luck
from sweeps.paft.claims import claims
from sweeps.run_folder.reading import RunFolder
from sweeps.run_folder.timing import Timing
from sweeps.statistics import seeds as sd
from trainer.store import Store

Cells = np.ndarray[Any, Any]
SECTIONS: dict[str, Any] = {
    "templates": PLAIN,
    "pools": {
        "train": {"many": "train.yaml", "one": {"file": "train.yaml", "only": ["t1"]}},
        "dev": "dev.yaml",
        "test": "test.yaml",
    },
    "arms": {"base": {"pool": "one", "steps": 0}, "user": {"pool": "one"}, "paft": {"pool": "many"}},
    "axes": {"template": "plain", "lora": {"r": 2}, "lr": 1e-2, "epochs": 3, "seed": [0, 1, 2]},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder, _ = make_run(tmp_path_factory.mktemp("seeds"), LABELLED, **SECTIONS)
    return RunFolder(Store.open(folder))


def arm(like: Result, name: str, by_seed: Cells) -> Result:
    trial = dataclasses.replace(like.trial, data=dataclasses.replace(like.trial.data, train_prompts=name))
    prompts = tuple(f"p{i}" for i in range(by_seed.shape[1]))
    pool = 24 if name == "paft" else 1
    return dataclasses.replace(
        like, name=name, arm=name, trial=trial, train_prompts=pool, prompts=prompts, by_seed=by_seed
    )


def arms(
    like: Result, rng: np.random.Generator, shape: tuple[int, int, int], seed_sd: float, better: float = 0.0
) -> list[Result]:
    """paft and three arms on one prompt: all equally good, or paft better. Cells are right where a sum of normal
    effects of seed, prompt, row and all of their pairs is above 0; those of prompts and rows are shared in part."""
    s, p, r = shape

    def normal(*of: int) -> Cells:
        return rng.standard_normal(of)

    prompt, row, found = normal(1, p, 1), normal(1, 1, r), []
    for name in ("paft", "user", "top", "zopo"):
        latent = 0.9 + 0.21 * (prompt + normal(1, p, 1)) + row + 0.3 * normal(1, 1, r) + seed_sd * normal(s, 1, 1)
        latent += 0.25 * normal(s, p, 1) + 0.3 * normal(s, 1, r) + 0.5 * normal(1, p, r) + 1.05 * normal(s, p, r)
        found.append(arm(like, name, (latent + better * (name == "paft") > 0).astype(float)))
    return found


def told_apart(like: Result, shape: tuple[int, int, int], times: int, seed_sd: float) -> dict[str, float]:
    """The share of studies of equal arms in which the first two differ, by p-value and by interval."""
    rng, hits = np.random.default_rng([*shape, times]), dict.fromkeys(("mean", "std", "min"), 0.0)
    for _ in range(times):
        found = arms(like, rng, shape, seed_sd)
        for name, change in changes(found[0], found[1], seed_luck(found)).items():
            hits[name] += (change.p < 0.05 or not change.low <= 0.0 <= change.high) / times
    return hits


def test_a_runs_claims_include_the_seeds_and_say_so(run: RunFolder) -> None:
    found = results(run)
    of = {r.arm: r for r in found}
    user, paft = of["user"], of["paft"]
    assert [len(r.by_seed) for r in found] == [3, 3, 3]
    assert user.by_seed.mean(axis=0) == pytest.approx(user.cells)
    luck = seed_luck(found)
    assert luck.mean.of_mean.df == 4  # of user and paft: the base model has no seeds
    mean, p = sd.mean_test([paft.by_seed, user.by_seed], sd.NO_SEEDS)  # three seeds: each has its own variance
    told = {r["claim"]: r for r in claims(found)}["paft raises the mean against user"]
    assert (told["difference"], told["low"], told["high"], told["p"]) == pytest.approx(
        (mean.value, mean.low, mean.high, p)
    )
    said = " ".join(tables.notes(found, run.study, Timing()))
    assert "for other seeds, too, so verdicts speak of the arms" in said


def test_std_and_worst_prompt_are_those_of_one_fine_tune(run: RunFolder) -> None:
    """Two fine-tunes that fail under different prompts have a std each; their average has less."""
    like = results(run)[-1]
    even = np.full((2, 12, 40), 1.0)
    even[:, :, :8] = 0.0
    bad = even.copy()
    bad[0, :3, :20], bad[1, 6:9, :20] = 0.0, 0.0
    a, b = arm(like, "paft", even), arm(like, "user", bad)
    found = changes(a, b, seed_luck([a, b]))
    assert found["std"].value == pytest.approx(-bad[0].mean(axis=1).std(ddof=1))
    assert found["min"].value == pytest.approx(0.8 - 0.5)


def test_the_base_model_has_no_luck_of_a_seed(run: RunFolder) -> None:
    """Whether it was scored once or under every seed, a difference to it has the luck of the other arm alone."""
    base, rng = next(r for r in results(run) if r.arm == "base"), np.random.default_rng(4)
    once = dataclasses.replace(
        base, prompts=tuple(f"p{i}" for i in range(12)), by_seed=(rng.random((1, 12, 60)) < 0.5).astype(float)
    )
    thrice = dataclasses.replace(once, by_seed=np.repeat(once.by_seed, 3, axis=0))
    level = np.array([0.6, 0.9, 0.8])[:, None, None]
    tuned = arm(results(run)[-1], "paft", (rng.random((3, 12, 60)) < level).astype(float))
    luck = seed_luck([once, tuned])
    both = [changes(tuned, other, luck) for other in (once, thrice)]
    assert all(dataclasses.astuple(both[0][n]) == pytest.approx(dataclasses.astuple(both[1][n])) for n in both[0])
    alone, _ = sd.mean_test([tuned.by_seed], sd.NO_SEEDS)
    found = changes(tuned, once, luck)["mean"]
    assert found.high - found.low == pytest.approx(alone.high - alone.low, rel=0.15)


def test_the_luck_of_seeds_is_no_finding(run: RunFolder) -> None:
    """Arms that differ as their seeds do: of one fine-tune each a difference is shown, of arms it is not."""
    like, rng = results(run)[-1], np.random.default_rng(1)
    lucky = np.array([0.9, 0.7, 0.8])
    a = arm(like, "paft", (rng.random((3, 20, 200)) < lucky[:, None, None]).astype(float))
    b = arm(like, "user", (rng.random((3, 20, 200)) < lucky[::-1][:, None, None] - 0.02).astype(float))
    one = [arm(like, r.name, r.by_seed[:1]) for r in (a, b)]
    assert changes(one[0], one[1], seed_luck(one))["mean"].p < 0.001
    assert changes(a, b, seed_luck([a, b]))["mean"].p > 0.5


def test_equal_arms_are_seldom_told_apart_and_better_ones_are(run: RunFolder) -> None:
    like = results(run)[-1]
    hits = told_apart(like, (3, 12, 60), 60, 0.12)
    assert all(share <= 0.15 for share in hits.values())  # of 0.05, in 60 studies
    found = arms(like, np.random.default_rng(2), (3, 20, 100), 0.05, better=0.8)
    decided = {r["claim"]: r["verdict"] for r in claims(found)}
    assert decided["paft raises the mean against user"] == "holds"


@pytest.mark.long
@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize("seed_sd", [0.02, 0.12, 0.3])
def test_type_one_error(run: RunFolder, seeds: int, seed_sd: float) -> None:
    hits = told_apart(results(run)[-1], (seeds, 20, 150), 400, seed_sd)
    print(f"{seeds} seeds, sd {seed_sd:g}: " + ", ".join(f"{n} {share:.3f}" for n, share in hits.items()))
    assert all(share <= 0.1 for share in hits.values())
