"""Studies of training arms: what a study may say, the trials it makes, and the paper's tables from a run folder."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
import yaml
from checkout import ROOT
from made_content import made_content
from tiny_run import LABELLED, PLAIN, make_run

from sweeps.paft import arm_results, figures, report, tables
from sweeps.paft.arm_results import Result
from sweeps.paft.changes import ONE_SEED, changes
from sweeps.paft.claims import claims
from sweeps.plan.cost import count_trials, mean_steps
from sweeps.prompts.usage import COLUMNS
from sweeps.run_folder.reading import RunFolder
from sweeps.run_folder.timing import Timing
from sweeps.study.load import load_study, resolved
from sweeps.study.overlay import StudyError, dump_yaml
from sweeps.study.shipped import study_path
from sweeps.study.study import Study
from sweeps.trials.assets import templates_of
from sweeps.trials.from_points import make_trials, points_of, pool_of
from trainer import trial as t
from trainer.store import Store

ARMS: dict[str, Any] = {
    "base": {"pool": "one", "steps": 0},
    "user": {"pool": "one"},
    "paft": {"pool": "many"},
    "k1": {"pool": "many", "draw": {"every": 1}},
    "short": {"pool": "many", "epochs": 1},
    "load": {"pool": "many", "draw": {"mode": "load"}},
    "typos": {"pool": "many", "typos": 0.5},
    "formats": {"pool": "many", "formats": ["plain", "other"]},
    "agree": {"pool": "many", "views": 2, "consistency": 0.5},
}
SECTIONS: dict[str, Any] = {
    "templates": {**PLAIN, "other": {"marker": " it:", "words": {"no": " no", "yes": " yes"}}},
    "pools": {
        "train": {"many": "train.yaml", "one": {"file": "train.yaml", "only": ["t1"]}},
        "dev": "dev.yaml",
        "test": "test.yaml",
    },
    "arms": ARMS,
    "axes": {"template": "plain", "lora": {"r": 2}, "lr": 1e-2, "epochs": 3},
}  # fmt: skip


@pytest.fixture
def loaded(tmp_path: Path) -> Any:
    """Loads the study with ``key=value`` laid over it; files need not exist."""
    study = {
        "name": "arms", "model": {"path": "m"}, **SECTIONS,
        "task": {"rows": {"train": "a.jsonl", "dev": "b.jsonl", "test": "c.jsonl"}, "fields": ["text"], **LABELLED},
        "scheduler": {"name": "none"},
    }  # fmt: skip
    (tmp_path / "arms.yaml").write_text(yaml.safe_dump(study, sort_keys=False))
    return lambda *overrides: load_study(tmp_path / "arms.yaml", overrides, files=False)


def trials_of(study: Study, n_rows: int = 40) -> dict[str, t.Trial]:
    points = points_of(study)
    assert points is not None
    data = {name: t.Data("a", "b", "c", name, "d", "e") for name in study.axes.pool}
    return {x.arm.name: x for x in make_trials(study, points, made_content(study, data, t.Model("m", "f"), n_rows))}


# what a study says --------------------------------------------------------------------------------------------------


def test_arms_are_an_axis_that_brings_its_pool(loaded: Any) -> None:
    study = loaded()
    assert study.axes.arm == tuple(ARMS)
    assert sorted(study.axes.pool) == ["many", "one"]
    assert count_trials(study) == len(ARMS)
    trials = trials_of(study)
    assert {n: x.pool for n, x in trials.items()} == {n: a["pool"] for n, a in ARMS.items()}
    assert all(t.axis_columns(x)["arm"] == n for n, x in trials.items())
    assert len({x.id for x in trials.values()}) == len(ARMS)
    assert [pool_of(study, p) for p in points_of(study)] == [a["pool"] for a in ARMS.values()]  # type: ignore[union-attr]
    assert list(templates_of(study)) == ["plain", "other"]


def test_an_arm_sets_its_draw_and_length_and_the_rest_is_the_studys(loaded: Any) -> None:
    trials = trials_of(loaded())
    assert {n: x.optimization.steps for n, x in trials.items()} == {n: {"base": 0, "short": 5}.get(n, 15) for n in ARMS}
    assert trials["k1"].draw == t.Draw(every=1)
    assert trials["load"].draw.mode == "load"
    assert trials["paft"].draw == t.Draw()
    assert trials["typos"].arm == t.Arm("typos", typos=0.5)
    assert [f.marker for f in trials["formats"].arm.formats] == ["\nAnswer:", " it:"]
    assert trials["agree"].arm == t.Arm("agree", views=2, consistency=0.5)
    assert mean_steps(loaded(), 40) == sum(x.optimization.steps for x in trials.values()) / len(trials)


def test_an_arm_that_adds_nothing_is_the_trial_that_it_is_without(loaded: Any) -> None:
    with_arm = trials_of(loaded("axes.arm=paft"))["paft"]
    points = points_of(plain := loaded("arms={}", "axes.pool=many"))
    assert points is not None
    data = {"many": t.Data("a", "b", "c", "many", "d", "e")}
    [without] = make_trials(plain, points, made_content(plain, data, t.Model("m", "f"), 40))
    assert with_arm.id == without.id
    assert "arm" not in t.axis_columns(without)


def test_two_arms_that_are_one_trial_are_refused(loaded: Any) -> None:
    with pytest.raises(StudyError, match="arm = paft and arm = again are one trial"):
        trials_of(loaded("arms.again={pool: many}", "axes.arm=[paft, again]"))


def test_arms_whose_searches_found_one_prompt_share_a_trial(loaded: Any) -> None:
    study = loaded("pools.train.found={file: train.yaml}", "arms.found={pool: found}", "axes.arm=[paft, base, found]")
    points = points_of(study)
    assert points is not None
    data = {name: t.Data("a", "b", "c", "same", "d", "e") for name in study.axes.pool}
    made = make_trials(study, points, made_content(study, data, t.Model("m", "f"), 40))
    assert [x.arm.name for x in made] == ["paft = found", "base"]


@pytest.mark.parametrize("extra", [(), ("axes.arm=[user, paft]",), ("arms={}",)])
def test_the_resolved_study_loads_equal(loaded: Any, tmp_path: Path, extra: tuple[str, ...]) -> None:
    study = loaded(*extra)
    (tmp_path / "again.yaml").write_text(dump_yaml(resolved(study)))
    assert load_study(tmp_path / "again.yaml", files=False) == study


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("axes.arm=[papft]", 'axes.arm[0]="papft" is not one of arms. Did you mean "paft"?'),
        ("arms.paft.pool=meny", 'is not one of pools.train. Did you mean "many"?'),
        ("arms.formats.formats=[plane]", 'is not one of templates. Did you mean "plain"?'),
        ("arms.paft={}", "arms.paft.pool is missing: one of many, one"),
        ("axes.pool=many", "has no effect together with arms"),
        ("arms.short.steps=3", "cannot be combined with steps"),
        ("arms.agree.views=3", "must divide training.batch_size x training.accumulation = 8"),
        ("arms.agree.views=1", "compares the views of a row"),
        ("arms.load.choice=curriculum", "needs draw.mode = dynamic"),
        ("arms.agree.choice=importance", "must be 1 with choice = importance"),
        ("arms.paft.temperature=2", "has no effect with choice = uniform; it belongs to importance"),
        ("scheduler.name=asha", "needs scheduler.name = none"),
        ("arms.paft.choice=dro", 'is not known. Did you mean "group_dro"? Known: uniform, curriculum'),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(loaded: Any, override: str, says: str) -> None:
    with pytest.raises(StudyError) as error:
        loaded(override)
    assert says in str(error.value)


def test_the_file_of_a_searched_prompt_is_asked_for_only_where_an_arm_uses_it(tmp_path: Path) -> None:
    text = study_path("paft")
    for arms, missing in (("[user, paft]", False), ("[user, zopo]", True)):
        study = load_study(text, [f"axes.arm={arms}"], files=False)
        assert ("zopo" in study.axes.pool) == missing
    with pytest.raises(StudyError, match=r"pools\.train\.zopo.* does not exist"):
        load_study(text, ["axes.arm=[user, zopo]"])
    load_study(text, ["axes.arm=[user, paft]"])
    with pytest.raises(StudyError, match="carries a password"):
        load_study(text, ["axes.arm=[user, paft]", "pools.train.zopo.file=s3://me:secret@bucket/p.yaml"], files=False)


def test_the_shipped_studies_are_the_papers(tmp_path: Path) -> None:
    thresholds = {
        "paft": 0.85,
        "paft-hellaswag": 0.9,
        "paft-winogrande": 0.8,
        "paft-race-middle": 0.85,
        "paft-race-high": 0.85,
    }
    first = load_study(study_path("paft"), files=False)
    for name, threshold in thresholds.items():
        study = load_study(study_path(name), files=False)
        assert study.tables.thresholds == (threshold,)
        assert study.task.max_length == 1024
        assert study.task.rows.train.limit == 20000
        assert (study.axes.lora.r, study.axes.lr, study.axes.epochs) == ((8,), (1e-4,), (3.0,))
        assert study.axes.lora.target_modules == (("q_proj", "v_proj"),)
        assert study.arms == first.arms
        for other in ("training", "scoring", "scheduler", "axes", "model"):
            assert getattr(study, other) == getattr(first, other), other
    assert {"base", "user", "top_accuracy", "batprompt", "zopo", "paft"} <= set(first.arms)


# tables of a run ----------------------------------------------------------------------------------------------------


SPENT = ("model", "strategy", "total_tokens")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, t.Trial]]:
    place = tmp_path_factory.mktemp("arms")
    spent = [("big", "zero-shot", 100), ("big", "few-shot", 300), ("small", "few-shot", 50)]
    lines = [",".join(str(dict(zip(SPENT, s, strict=True)).get(c, "")) for c in COLUMNS) for s in spent]
    (place / "train.usage.csv").write_text("\n".join([",".join(COLUMNS), *lines]) + "\n")
    folder, trials = make_run(place, LABELLED, **SECTIONS)
    return folder, {x.arm.name: x for x in trials}


def test_every_table_is_written_in_every_form(run: tuple[str, dict[str, t.Trial]]) -> None:
    folder = Path(run[0]) / "tables"
    names = ["paft_main", "paft_best", "paft_training", "paft_inference", "paft_k_t", "paft_prompts"]
    names += ["paft_usage", "paft_claims"]
    for name in names:
        table = pq.read_table(folder / f"{name}.parquet")
        assert table.num_rows > 0
        assert pacsv.read_csv(folder / f"{name}.csv").column_names == table.column_names
        assert (folder / f"{name}.md").read_text().count("\n| ") == table.num_rows + 2
        tex = (folder / f"{name}.tex").read_text()
        assert tex.count(r"\\") == table.num_rows + 1
    page = (Path(run[0]) / "report.html").read_text()
    assert "Training arms" in page
    for title in tables.TITLES.values():
        assert title in page


def test_tokens_spent_on_the_largest_pool_are_told(run: tuple[str, dict[str, t.Trial]]) -> None:
    rows = pq.read_table(Path(run[0]) / "tables" / "paft_usage.parquet").to_pylist()
    assert rows == [
        {"model": "big", "zero-shot_tokens": 100, "few-shot_tokens": 300, "total_tokens": 400},
        {"model": "small", "zero-shot_tokens": None, "few-shot_tokens": 50, "total_tokens": 50},
        {"model": "sum", "zero-shot_tokens": 100, "few-shot_tokens": 350, "total_tokens": 450},
        {"model": "mean", "zero-shot_tokens": 100, "few-shot_tokens": 175, "total_tokens": 225},
    ]


def test_the_main_table_is_what_the_score_rows_say(run: tuple[str, dict[str, t.Trial]]) -> None:
    folder, trials = run
    rows = {r["arm"]: r for r in pq.read_table(f"{folder}/tables/paft_main.parquet").to_pylist()}
    assert set(rows) == set(ARMS)
    means = {}
    for name, x in trials.items():
        found = Store.open(folder).read_scores(x.id, x.optimization.steps, "test")
        assert found is not None
        frame = found[0].to_pandas()
        by_prompt = frame.groupby("prompt_id")["correct"].mean()
        means[name] = float(by_prompt.mean())
        assert rows[name]["mean"] == pytest.approx(means[name])
        assert rows[name]["std"] == pytest.approx(float(by_prompt.std(ddof=1)))
        assert rows[name]["min"] == pytest.approx(float(by_prompt.min()))
        assert rows[name]["train_prompts"] == {"base": 0, "user": 1}.get(name, 2)
    assert rows["user"]["minus_paft"] == pytest.approx(means["user"] - means["paft"])
    assert rows["paft"]["minus_paft"] is None


def test_cost_is_told_and_the_base_model_is_not_trained(run: tuple[str, dict[str, t.Trial]]) -> None:
    training = pq.read_table(f"{run[0]}/tables/paft_training.parquet").to_pylist()
    assert sorted(r["arm"] for r in training) == sorted(set(ARMS) - {"base"})
    assert {r["arm"]: r["steps"] for r in training}["short"] * 3 == {r["arm"]: r["steps"] for r in training}["paft"]
    assert {(r["hours"], r["to_fastest"]) for r in training} == {(None, None)}, "not measured yet: test_timing.py does"
    assert all(r["joint_hours"] > 0 for r in training)
    inference = pq.read_table(f"{run[0]}/tables/paft_inference.parquet").to_pylist()
    assert all(r["answers"] == 2 * 16 and r["mean_new_tokens"] is None for r in inference)


def test_k_and_t_and_the_number_of_prompts(run: tuple[str, dict[str, t.Trial]]) -> None:
    k_t = pq.read_table(f"{run[0]}/tables/paft_k_t.parquet").to_pylist()
    assert [(r["K"], r["T"]) for r in k_t] == [(1, 3.0), (4, 1.0), (4, 3.0)], "no arm that is more than PAFT"
    scaling = pq.read_table(f"{run[0]}/tables/paft_prompts.parquet").to_pylist()
    assert [(r["train_prompts"], r["arm"]) for r in scaling] == [(1, "user"), (2, "paft")]


def test_arms_that_come_to_one_training_are_one_row(run: tuple[str, dict[str, t.Trial]]) -> None:
    """PAFT on the first 32 of 24 prompts is PAFT; it has a row of its own in the main table alone, without a
    comparison."""
    found = arm_results.results(RunFolder(Store.open(run[0])))
    paft = next(r for r in found if r.arm == "paft")
    more = [*found, dataclasses.replace(paft, arm="n32", name="n32"), dataclasses.replace(paft, arm="n64", name="n64")]
    for table in (tables.k_t, tables.by_prompts, tables.best, claims):
        assert table(more) == table(found)
    for costs in (tables.training, tables.inference):
        assert costs(more, Timing()) == costs(found, Timing())
    best_twice = max(found, key=lambda r: r.stats["mean"])
    twin = dataclasses.replace(best_twice, name="twin", arm="twin")
    assert "twin" not in [r["arm"] for r in tables.best([*found, twin])], "an arm against itself"
    study = RunFolder(Store.open(run[0])).study
    rows = {r["arm"]: r for r in tables.main_table(more, study)}
    assert {n: rows[n] for n in ARMS} == {r["arm"]: r for r in tables.main_table(found, study)}
    assert rows["n32"]["p"] is rows["n32"]["minus_paft"] is None
    assert rows["n32"]["mean"] == rows["paft"]["mean"]
    assert any("one trial: paft = n32 = n64. They" in note for note in tables.notes(more, study, Timing()))


def test_arms_that_are_one_trial_are_compared_once(run: tuple[str, dict[str, t.Trial]]) -> None:
    rng = np.random.default_rng(0)
    arms = [
        fake(run, n, grid(rng, 0.76 + i / 50, 0.05), 24 if n == "paft" else 1) for i, n in enumerate(("a", "b", "paft"))
    ]
    arms.append(dataclasses.replace(arms[0], name="twin", arm="twin"))
    study = RunFolder(Store.open(run[0])).study
    rows = {r["arm"]: r for r in tables.main_table(arms, study)}
    alone = {r["arm"]: r for r in tables.main_table(arms[:3], study)}
    assert rows["a"] == alone["a"]
    assert rows["twin"] == {**rows["a"], "arm": "twin"}
    assert claims(arms) == claims(arms[:3])
    assert len(claims(arms)) == 6


def test_the_k_t_table_is_the_papers_third(run: tuple[str, dict[str, t.Trial]]) -> None:
    """Five rows: K of 1, 2, 4 and 8 at T = 3, and K = 1 at T = 6."""
    found = arm_results.results(RunFolder(Store.open(run[0])))
    paft = next(r for r in found if r.arm == "paft")

    def arm(name: str, every: int, epochs: float) -> Result:
        other = dataclasses.replace(paft.trial, draw=t.Draw(every=every), seed=int(epochs))
        return dataclasses.replace(paft, arm=name, name=name, trial=other, epochs=epochs)

    arms = load_study(study_path("paft"), files=False).arms
    made = [arm("paft", 4, 3.0)]
    for name in ("k1", "k2", "k8", "k1_t6"):
        assert arms[name].draw is not None
        made.append(arm(name, arms[name].draw.every, arms[name].epochs or 3.0))
    assert [(r["K"], r["T"]) for r in tables.k_t(made)] == [(1, 3.0), (1, 6.0), (2, 3.0), (4, 3.0), (8, 3.0)]


def test_densities_are_drawn_as_the_paper_draws_them(run: tuple[str, dict[str, t.Trial]]) -> None:
    values = np.random.default_rng(0).normal(80.0, 5.0, 50)
    curve = figures.density("x", values, [f"p{i}" for i in range(50)])
    assert np.trapezoid(curve.y, curve.x) == pytest.approx(1.0, abs=0.01)
    assert min(curve.x) < values.min() - 2
    assert curve.values == tuple(values)
    found = arm_results.results(RunFolder(Store.open(run[0])))
    spread = {
        name: dataclasses.replace(found[0], arm=name, name=name, by_seed=np.random.default_rng(i).random((1, 20, 30)))
        for i, name in enumerate(("base", "user", "paft", "zopo"))
    }
    study = RunFolder(Store.open(run[0])).study
    spread = {n: dataclasses.replace(r, prompts=tuple(f"p{i}" for i in range(20))) for n, r in spread.items()}
    drawn = [f for f in figures.figures(list(spread.values()), study, [], []) if "density" in f.name]
    assert [f.title for f in drawn] == [title for title, _ in figures.DENSITIES]
    assert "3 arms" in drawn[0].spec["description"]
    rows = [[row for rows in f.spec["datasets"].values() for row in rows] for f in drawn]
    assert {row["line"] for row in rows[0] if "name" in row} == {"base", "user", "paft"}
    assert {row["line"] for row in rows[1] if "name" in row} == {"user", "paft", "zopo"}
    assert sum("name" in row for row in rows[1]) == 3 * 20
    alike = dataclasses.replace(spread["base"], by_seed=np.ones((1, 20, 30)))
    few = figures.figures([alike, spread["user"]], study, [], [])
    assert [f.name for f in few] == ["arm-distribution"]


def test_the_part_says_first_which_findings_hold_and_shows_columns_in_words(
    run: tuple[str, dict[str, t.Trial]],
) -> None:
    rng = np.random.default_rng(0)
    one, many = fake(run, "user", grid(rng, 0.7, 0.25), 1), fake(run, "paft", grid(rng, 0.85, 0.02), 24)
    far = fake(run, "k8", grid(rng, 0.6, 0.02), 24, every=8)
    study, store = RunFolder(Store.open(run[0])).study, Store.open(run[0])
    made = tables.tables([one, many, far], study, store, Timing())
    said = report.answer(made, study)
    assert said[0].startswith("3 of 4 findings of the paper hold here: paft raises the mean against user (+1")
    assert said[1].startswith("1 of 4 findings of the paper does not hold here: K hardly matters")
    assert said[2].startswith("The arm with the best mean accuracy on the test prompts is paft, with 8")
    assert report.answer({}, study) == []
    shown = {table.title: table for table in report.shown(made, [one, many, far], study)}
    assert next(iter(shown)) == tables.TITLES["paft_claims"]
    main = shown[tables.TITLES["paft_main"]]
    assert main.head[:3] == ("arm", "trained on", "mean accuracy, %")
    assert "difference to paft, points (95 % interval)" in main.head
    assert [row[1] for row in main.rows] == [
        "1 prompt",
        "24 prompts, another one every 4 examples",
        "24 prompts, another one every 8 examples",
    ]
    assert not any("_" in head for table in shown.values() for head in table.head)
    drawn = figures.figures([one, many, far], study, made["paft_claims"], made["paft_prompts"])
    names = ["arm-findings", "arm-distribution", "arm-density-1", "arm-prompts-mean", "arm-prompts-std"]
    assert [f.name for f in drawn] == names
    points = [row for rows in drawn[0].spec["datasets"].values() for row in rows if "value" in row]
    assert [row["line"].rpartition(": ")[2] for row in points] == ["holds"] * 3 + ["does not hold"]
    assert points[0]["value"] == pytest.approx(100 * made["paft_claims"][0]["difference"], rel=1e-5)


def test_what_an_arm_was_trained_on_is_said_in_words(run: tuple[str, dict[str, t.Trial]]) -> None:
    said = {r.arm: report.arm_in_words(r) for r in arm_results.results(RunFolder(Store.open(run[0])))}
    assert said["base"] == "nothing: the base model"
    assert said["user"] == "1 prompt"
    assert said["paft"] == "2 prompts, another one every 4 examples"
    assert said["k1"] == "2 prompts, another one every example"
    assert said["load"] == "2 prompts, one for each row in every epoch"
    assert said["typos"].endswith("typos in 50 %")
    assert said["formats"].endswith("templates plain, other")
    assert said["agree"].endswith("2 wordings of a row at once")


def test_results_need_no_torch(run: tuple[str, dict[str, t.Trial]]) -> None:
    import subprocess
    import sys

    root = ROOT
    code = (
        "import sys; from sweeps.report.write import write_report; write_report(sys.argv[1]); "
        "assert not {'torch', 'ray', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, run[0]], cwd=root, check=True)


# statistics ---------------------------------------------------------------------------------------------------------


def fake(
    run: tuple[str, dict[str, t.Trial]], name: str, cells: np.ndarray[Any, Any], pool: int, every: int = 4
) -> Result:
    store = Store.open(run[0])
    like = next(r for r in arm_results.results(RunFolder(store)) if r.arm == "paft")
    return with_cells(like, name, cells, pool, every)


def with_cells(like: Result, name: str, cells: np.ndarray[Any, Any], pool: int, every: int = 4) -> Result:
    each = cells.mean(axis=1)
    stats = {"mean": float(each.mean()), "std": float(each.std(ddof=1)), "min": float(each.min()), "top": 0.0}
    prompts = tuple(f"p{i}" for i in range(len(cells)))
    data = dataclasses.replace(like.trial.data, train_prompts=name)
    trial = dataclasses.replace(like.trial, draw=t.Draw(every=every), data=data)
    return dataclasses.replace(
        like, name=name, arm=name, trial=trial, train_prompts=pool, prompts=prompts, by_seed=cells[None], stats=stats
    )


def grid(rng: np.random.Generator, level: float, spread: float) -> np.ndarray[Any, Any]:
    chance = np.clip(level + spread * np.linspace(-1, 1, 20), 0, 1)
    found: np.ndarray[Any, Any] = (rng.random((20, 400)) < chance[:, None]).astype(float)
    return found


def test_claims_follow_what_is_true(run: tuple[str, dict[str, t.Trial]]) -> None:
    rng = np.random.default_rng(0)
    one = fake(run, "user", grid(rng, 0.7, 0.25), 1)
    many = fake(run, "paft", grid(rng, 0.85, 0.02), 24)
    same = fake(run, "k1", np.where(rng.random((20, 400)) < 0.002, 1 - many.cells, many.cells), 24, every=1)
    verdicts = [r["verdict"] for r in claims([one, many, same])]
    assert verdicts == ["holds"] * 4
    swapped = [fake(run, "user", many.cells, 1), fake(run, "paft", one.cells, 24)]
    assert [r["verdict"] for r in claims(swapped)] == ["does not hold"] * 3
    equal = [fake(run, "user", grid(rng, 0.8, 0.1), 1), fake(run, "paft", grid(rng, 0.8, 0.1), 24)]
    assert [r["verdict"] for r in claims(equal)] == ["undecided"] * 3
    far = fake(run, "k8", grid(rng, 0.6, 0.02), 24, every=8)
    assert claims([many, far])[-1]["verdict"] == "does not hold"


def equal_arms(like: Result, rng: np.random.Generator, n: int, p: int, r: int, tails: float) -> list[Result]:
    """``n`` arms on one prompt and one on a pool, all equally good: prompt effects are a t distribution with ``tails``
    degrees of freedom, half of their variance shared."""
    both, row, arms = rng.standard_t(tails, (p, 1)), rng.standard_normal((1, r)), []
    for i in range(n + 1):
        prompt = 0.18 * (both + rng.standard_t(tails, (p, 1)))
        latent = 1 + prompt + row + 0.5 * rng.standard_normal((1, r)) + 1.05 * rng.standard_normal((p, r))
        arms.append(with_cells(like, f"a{i}", (latent > 0).astype(float), 1 if i else 24))
    return arms


def false_findings(like: Result, p: int, r: int, rivals: int, times: int, tails: float = 1e6) -> Any:
    """Shares of studies of equal arms in which some finding is decided, and in which one would be without Holm."""
    rng, hits = np.random.default_rng([p, r, times]), np.zeros(2)
    for _ in range(times):
        rows = claims(equal_arms(like, rng, rivals, p, r, tails))
        assert len(rows) == 3 * rivals
        hits += any(x["verdict"] != "undecided" for x in rows), any(x["p"] < 0.05 for x in rows)
    return hits / times


def test_equal_arms_make_no_findings_though_each_of_many_tests_may(run: tuple[str, dict[str, t.Trial]]) -> None:
    like = next(r for r in arm_results.results(RunFolder(Store.open(run[0]))) if r.arm == "paft")
    corrected, raw = false_findings(like, 10, 100, 4, 60)
    assert corrected <= 0.13  # of 0.06, in 60 studies
    assert raw > 0.13


@pytest.mark.long
@pytest.mark.parametrize(("p", "r", "tails"), [(10, 100, 1e6), (20, 200, 1e6), (20, 200, 5.0), (50, 200, 5.0)])
def test_familywise_error_of_the_findings(run: tuple[str, dict[str, t.Trial]], p: int, r: int, tails: float) -> None:
    like = next(r for r in arm_results.results(RunFolder(Store.open(run[0]))) if r.arm == "paft")
    corrected, raw = false_findings(like, p, r, 4, 800, tails)
    print(f"{p} prompts, {r} rows, t with {tails:g} df: {corrected:.3f} with Holm, {raw:.3f} without")
    assert corrected <= 0.06
    assert raw > 0.12


def test_heavy_tails_leave_findings_undecided(run: tuple[str, dict[str, t.Trial]]) -> None:
    """Pool training is better under all prompts and far better under one: that one decides nothing."""
    rng = np.random.default_rng(3)
    low, high = (np.full((20, 1), level) for level in (0.7, 0.85))
    steady = [(rng.random((20, 400)) < x).astype(float) for x in (low, high)]
    decided = {r["claim"]: r for r in claims([fake(run, "user", steady[0], 1), fake(run, "paft", steady[1], 24)])}
    assert decided["paft raises the mean against user"]["verdict"] == "holds"
    low[4] = 0.2
    one_bad = (rng.random((20, 400)) < low).astype(float)
    rows = claims([fake(run, "user", one_bad, 1), fake(run, "paft", steady[1], 24)])
    assert [r["verdict"] for r in rows] == ["undecided"] * 3
    assert all(r["heavy_tails"] for r in rows)
    said = " ".join(tables.notes([fake(run, "user", one_bad, 1)], RunFolder(Store.open(run[0])).study, Timing()))
    assert "heavy tails" in said
    assert "up to 15 % of such wordings can go unseen with 20 prompts" in said


def test_k_hardly_matters_only_where_no_pair_differs_by_more_than_the_margin(
    run: tuple[str, dict[str, t.Trial]],
) -> None:
    rng = np.random.default_rng(6)
    arms = [fake(run, f"k{k}", grid(rng, 0.8, 0.02), 24, every=k) for k in (1, 2, 4)]
    [row] = claims(arms)
    assert row["verdict"] == "holds"
    assert row["p"] == row["p_holm"] < 0.05
    [row] = claims([*arms, fake(run, "k8", grid(rng, 0.73, 0.02), 24, every=8)])
    assert row["verdict"] == "does not hold"
    [row] = claims([*arms, fake(run, "k8", grid(rng, 0.782, 0.02), 24, every=8)])
    assert row["verdict"] == "undecided"


def test_best_is_paired_against_the_second_best(run: tuple[str, dict[str, t.Trial]]) -> None:
    rng = np.random.default_rng(1)
    arms = [fake(run, n, grid(rng, level, 0.1), 1) for n, level in (("a", 0.6), ("b", 0.9), ("c", 0.8))]
    rows = tables.best(arms)
    assert [r["arm"] for r in rows] == ["b", "c", "improvement"]
    assert rows[2]["mean"] == pytest.approx(rows[0]["mean"] - rows[1]["mean"])
    assert rows[2]["std"] == pytest.approx(rows[0]["std"] - rows[1]["std"])
    assert rows[2]["mean_low"] < rows[2]["mean"] < rows[2]["mean_high"]
    assert rows[2]["p_mean"] < 0.001
    assert tables.best(arms[:1]) == []


def test_intervals_of_std_differences_cover_the_truth_about_as_often_as_they_say(
    run: tuple[str, dict[str, t.Trial]],
) -> None:
    """Prompts drawn anew each time: in 60 studies without a difference, 0 should lie outside in 3."""
    outside = 0
    for seed in range(60):
        rng = np.random.default_rng([9, seed])
        pair = []
        for _ in range(2):
            chance = np.clip(rng.normal(0.7, 0.08, 20), 0.02, 0.98)
            pair.append((rng.random((20, 200)) < chance[:, None]).astype(float))
        a, b = (fake(run, name, x, 1) for name, x in zip("ab", pair, strict=True))
        change = changes(a, b, ONE_SEED)["std"]
        outside += not change.low <= 0 <= change.high
    assert outside <= 9


def test_cells_of_tables_are_written_for_people() -> None:
    assert tables.cell("mean", 0.8746) == "87.46"
    assert tables.cell("p", 0.0001) == "< 0.001"
    assert tables.cell("tokens", 1234567.0) == "1234567"
    assert tables.cell("mean", math.nan) == tables.cell("mean", None) == "-"


# letters ------------------------------------------------------------------------------------------------------------


def test_a_row_shows_its_own_options_and_is_answered_with_a_letter(tmp_path: Path) -> None:
    """RACE and HellaSwag: the options are texts, the answer is their letter."""
    from small_tokenizers import word_level

    from trainer.data.render import Renderer
    from trainer.data.rows import load_rows
    from trainer.data.sources import RowSource
    from trainer.data.wording import Prompt

    record = {"text": "it", "choices": ["good", "bad"], "answer": "B"}
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps({**record, "answer": a}) for a in "BA"))
    source = RowSource(
        str(tmp_path / "rows.jsonl"), ("text",), "answer", labels={"A": "A", "B": "B"}, options="choices"
    )
    rows = load_rows(source, "train")
    assert [(r.label, r.options) for r in rows] == [("B", ("good", "bad")), ("A", ("good", "bad"))]
    tokenizer = word_level()
    renderer = Renderer(tokenizer, t.Template("plain"), t.Task(("A", "B"), max_length=40))
    prompt = Prompt("p", "{{ text }} A: {{ options[0] }} B: {{ options[1] }}")
    asked = renderer.request(prompt, rows[0])
    assert asked.label == "B"
    assert [renderer.token_texts(o)[-1:] for o in asked.options] == [
        renderer.token_texts(tokenizer(x, add_special_tokens=False).input_ids) for x in ("A", "B")
    ]
    assert "good B: bad" in renderer.texts.contexts([(prompt, rows[0])])[0].text
