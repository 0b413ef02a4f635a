"""A study in stages: its section, the guard of meaning, choices with intervals, and the whole protocol without Ray."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import scipy.stats
from score_rows import read_score_files
from staged_study import run_in_process, write_study

from sweeps.checks.meaning import meaning_findings
from sweeps.driver.continuing import staged_points
from sweeps.report.write import write_report
from sweeps.run import decisions_of_stages
from sweeps.schedule.asha import Rungs
from sweeps.search.points import encode, grid_points
from sweeps.staged import answer, compare
from sweeps.staged.compare import DevScores, RatedCandidate, as_row, choose_candidate, gap, pseudo_values
from sweeps.staged.points import Candidate, CurrentChoice, part_study
from sweeps.staged.protocol import Staged
from sweeps.study.data_schema import Meaning
from sweeps.study.load import load_study
from sweeps.study.overlay import StudyError
from sweeps.study.shipped import study_path
from sweeps.study.terms import mentions, words_of
from sweeps.trials.from_points import axes_of
from sweeps.trials.load_content import content_of
from trainer.data.wording import Prompt
from trainer.errors import UserError
from trainer.measure import metrics
from trainer.store import Store
from trainer.trial import Template, Trial

Floats = np.ndarray[Any, np.dtype[np.float64]]
MEANING = {"about": "Is it unhappy?", "other": {"anger": ["fury"]}}

# the section ------------------------------------------------------------------------------------------------------


def refused(*overrides: str) -> str:
    given = ["axes.seed=[0, 1]", "stages={}", f"task.meaning={json.dumps(MEANING)}", *overrides]
    with pytest.raises(StudyError) as error:
        load_study(study_path("quickstart"), given)
    return str(error.value)


def test_a_staged_study_loads_and_a_plain_one_has_no_stages() -> None:
    plain = load_study(study_path("quickstart"))
    assert plain.stages is None
    given = ["axes.seed=[0, 1]", "stages={}", f"task.meaning={json.dumps(MEANING)}"]
    staged = load_study(study_path("quickstart"), given).stages
    assert staged is not None
    assert staged.heads == ("labels", "classifier", "generate")
    assert staged.order == (("lr", "steps", "epochs"), ("target_modules",), ("r",), ("alpha",), ("dropout",))


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["stages.heads=[label]"], ['"label" is not known', 'Did you mean "labels"']),
        (["stages.order=[[lr], [rr]]"], ['"rr" is not known', 'Did you mean "r"']),
        (["stages.order=[r, r]"], ["is tuned twice"]),
        (["stages.order=[lr]"], ["leaves out axes.lora.r"]),
        (["stages.kep=1"], ["stages.kep", 'Did you mean "stages.keep"']),
        (["axes.seed=0"], ["is a single seed", "[0, 1, 2]"]),
        (["stages.seeds=3"], ["is more than the 2 of axes.seed"]),
        (["axes.template=[plain]"], ["must hold two templates or more"]),
        (["search.method=tpe", "search.trials=4"], ["cannot be combined with stages", "stages=null"]),
        (["model.head=classifier"], ["model.head", "chosen by stages.heads"]),
        (["scoring.decision=pmi"], ["scoring.decision", "heads: [labels]"]),
        (["axes.lora.r=8"], ["stage 4 has nothing to tune"]),
        (["task.meaning.other={}"], ["task.meaning.terms", "is missing, and so is `other`"]),
        (["task.meaning=null"], ["task.meaning", "is missing: stage 1"]),
        (["task.meaning={terms: [sad]}"], ["task.meaning.about is missing"]),
        (["task.meaning.about=''"], ["task.meaning.about", "is empty"]),
        (["task.meaning.terms=[unhappy]", "task.meaning.other={mood: [unhap]}"], ["every prompt of the task"]),
        ([f"stages.meaning={json.dumps(MEANING)}"], ["is not a known key here", '"task.meaning"']),
    ],
)
def test_mistakes_in_the_section_are_told_with_the_nearest_name(overrides: list[str], words: list[str]) -> None:
    text = refused(*overrides)
    assert [w for w in words if w not in text] == []


def test_where_all_are_to_be_compared_no_trial_is_cut() -> None:
    """At every rung, whatever the objectives; the study's own early stopping would cut half."""
    study = load_study(study_path("quickstart"))
    for to_the_end, ends in ((True, {"finished"}), (False, {"finished", "stopped"})):
        part = part_study(study, "labels", to_the_end)
        rungs = Rungs(4, part.scheduler.eta, len(part.scheduler.rungs))
        for at in range(2):
            for i, trial in enumerate("abcd"):
                if at == 0 or rungs.decide(trial).action == "continue":
                    rungs.report(trial, at, 0.1 * i, step=at)
        assert {d.status for d in rungs.decisions().values()} == ends


# the guard --------------------------------------------------------------------------------------------------------

SEXISM = Meaning.model_validate(
    {"about": "Is the post sexist?", "terms": ["sexis"], "other": {"misogyny": ["misogyn"], "hate": ["hate", "hatred"]}}
)
LABELS = ("no", "yes")


def errors(templates: Sequence[Template] = (), **prompts: str) -> list[str]:
    pools = {"train.many": [Prompt(k, v) for k, v in prompts.items()]}
    found = meaning_findings(SEXISM, templates, pools, LABELS)
    return [str(f) for f in found if f.level == "error"]


def template(system: str = "", marker: str = "\nAnswer:", **words: str) -> Template:
    return Template("x", False, system, marker, tuple((words or {"no": " no", "yes": " yes"}).items()))


def test_wordings_of_the_same_task_pass() -> None:
    assert errors(a="Is this sexist? {{ text }}", b="{{ text }} #Sexism?", c="bool contains_sexism({{ text }})") == []
    assert errors([template("You find sexist posts.", "\nVerdict:"), template()]) == []
    assert (
        errors([template(no=" not sexist", yes=" sexist"), template(no="0", yes="1"), template(no="B", yes="A")]) == []
    )


def test_a_wording_that_narrows_the_task_is_refused_and_told_where_it_belongs() -> None:
    [text] = errors(m="Is this sexist, that is, misogynistic? {{ text }}")
    assert 'pools.train.many: prompt "m"' in text
    assert '"misogynistic", which asks for misogyny' in text
    assert "a study with its own labels" in text
    both = errors(m="Is this misogyny? {{ text }}", a="Sexist? {{ text }}")
    assert len(both) == 2, "it names another task, and none of this one's terms"
    assert "names none of the task's terms" in errors(m="Is this rude? {{ text }}", a="Sexist? {{ text }}")[0]


def test_what_a_placeholder_is_called_says_nothing_of_the_task() -> None:
    assert len(errors(m="Well? {{ sexist_text }}", a="Sexist? {{ text }}")) == 1


def test_a_term_that_no_prompt_says_is_told_once() -> None:
    [text] = errors(a="Is it rude? {{ text }}", b="Rude? {{ text }}")
    assert text.startswith('task.meaning.terms: no prompt has a word that begins with "sexis". Mend the term')
    two = SEXISM.model_copy(update={"terms": ("sexis", "chauvin")})
    found = list(meaning_findings(two, [], {"dev": [Prompt("a", "Sexist? {{ text }}")]}, LABELS))
    assert [(f.level, f.what) for f in found] == [("warning", 'no prompt has a word that begins with "chauvin"')]


def test_templates_are_guarded_as_prompts_are() -> None:
    [text] = errors([template("You detect misogyny and sexism.")])
    assert "templates.x.system" in text
    [text] = errors([template(marker="\nHateful or sexist:")])
    assert "templates.x.marker" in text
    assert "asks for hate" in text


def test_label_words_that_mean_something_else_are_refused() -> None:
    found = errors([template(no=" fine", yes=" misogynistic")])
    assert len(found) == 2
    assert 'templates.x.words.no: answers "no" with "fine"' in found[0]
    assert "asks for misogyny" in found[1]


def test_a_tone_without_the_tasks_words_is_a_warning() -> None:
    [found] = meaning_findings(SEXISM, [template("You are a careful reader.")], {}, LABELS)
    assert found.level == "warning"


def test_words_are_compared_by_their_beginning() -> None:
    assert mentions("Is it SEXISM?", "sexis")
    assert mentions("labelled_sexist", "sexis")
    assert not mentions("asexist", "sexis")
    assert words_of("sexist, or is it Sexism?", "sexis") == ["sexist", "Sexism"]


# comparing --------------------------------------------------------------------------------------------------------


def grid(
    rng: np.random.Generator, prompts: int = 8, rows: int = 100, level: float = 0.7, row: Floats | None = None
) -> Floats:
    """Correct or not, with prompts that differ by .05 and rows that are hard or easy."""
    row = rng.normal(0, 0.15, rows) if row is None else row
    p = np.clip(level + rng.normal(0, 0.05, (prompts, 1)) + row, 0, 1)
    found: Floats = (rng.random((prompts, rows)) < p).astype(np.float64)
    return found


def scored_of(cells: Floats, weight: float = 1.0, degenerate: bool = False) -> DevScores:
    each = cells.mean(axis=1)
    value, std = float(each.mean() - weight * metrics.spread(each)), metrics.spread(each)
    found = metrics.Objective(
        value, 0.0, float(each.mean()), std, float(each.min()), *cells.shape, degenerate, 0.5, 0.0
    )
    return DevScores(pseudo_values(cells, weight), found, "12345678", "accuracy")


def test_pseudo_values_average_to_the_objective() -> None:
    cells = grid(np.random.default_rng(0))
    each = cells.mean(axis=1)
    for weight in (0.0, 1.0, 2.0):
        assert pseudo_values(cells, weight).mean() == pytest.approx(each.mean() - weight * each.std(ddof=1), abs=1e-12)
    assert np.array_equal(pseudo_values(cells, 0.0), cells)


@pytest.mark.parametrize("weight", [0.0, 1.0, 2.0])
def test_pseudo_values_are_the_influence_of_rows_and_prompts(weight: float) -> None:
    """The jackknife over rows and over prompts, which leaves each out in turn, gives the same variances."""
    cells = grid(np.random.default_rng(1), prompts=30, rows=200)
    values = pseudo_values(cells, weight)

    def value(x: Floats) -> float:
        each = x.mean(axis=1)
        return float(each.mean() - weight * each.std(ddof=1))

    for axis, n in ((1, 200), (0, 30)):
        left_out = np.array([value(np.delete(cells, i, axis=axis)) for i in range(n)])
        jackknife = (n - 1) / n * ((left_out - left_out.mean()) ** 2).sum()
        ours = values.mean(axis=1 - axis).var(ddof=1) / n
        assert ours == pytest.approx(jackknife, rel=0.12 if weight < 2 else 0.3), "to first order"


def false_alarms(n: int, weight: float) -> float:
    """How often the interval of two equally good candidates leaves out 0."""
    rng = np.random.default_rng(7)
    found = 0
    for _ in range(n):
        row = rng.normal(0, 0.15, 100)
        a, b = (scored_of(grid(rng, row=row), weight) for _ in range(2))
        between = gap([a], [b])
        found += not between.low <= 0 <= between.high
    return found / n


def test_two_equal_candidates_are_rarely_told_apart() -> None:
    assert false_alarms(600, 1.0) <= 0.07
    assert 0.02 <= false_alarms(600, 0.0) <= 0.07


@pytest.mark.long
@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_false_alarms_of_the_paired_interval(weight: float) -> None:
    assert 0.02 <= false_alarms(10_000, weight) <= 0.06


def rated(name: str, cells: Sequence[Floats], cost: float = 0.0, degenerate: bool = False) -> RatedCandidate:
    found = Candidate(name, "labels", (), (("training", cost),), {"steps": cost})
    return RatedCandidate(found, (), tuple(scored_of(c, degenerate=degenerate) for c in cells))


def test_a_clear_lead_is_taken_whatever_it_costs() -> None:
    rng = np.random.default_rng(3)
    choice = choose_candidate([rated("cheap", [grid(rng, level=0.5)], 1), rated("dear", [grid(rng, level=0.8)], 9)])
    assert choice.taken == choice.leader == "dear"
    assert choice.gaps["cheap"].low > 0
    assert "All differences are clear" in choice.reason


def nearly_equal() -> tuple[Floats, Floats]:
    """A candidate's cells, and the same with two answers more right."""
    cells = grid(np.random.default_rng(3))
    better = cells.copy()
    better[0, :2] = 1
    return cells, better


def test_of_the_tied_the_cheaper_is_taken_and_the_reason_says_so() -> None:
    cells, better = nearly_equal()
    choice = choose_candidate([rated("long", [better], 300), rated("short", [cells], 150)])
    assert choice.leader == "long"
    assert choice.taken == "short"
    assert choice.tied == ("short",)
    assert "after Holm's correction: took the cheaper, “short” (training: 150 for 300)" in choice.reason


def test_of_the_tied_at_the_same_cost_the_leader_stays() -> None:
    cells, better = nearly_equal()
    choice = choose_candidate([rated("a", [cells], 1), rated("b", [better], 1)])
    assert choice.taken == "b"
    assert "none of them is cheaper" in choice.reason


def test_p_values_are_those_of_students_t_and_of_the_interval() -> None:
    rng = np.random.default_rng(6)
    a, b = (scored_of(grid(rng, level=x)) for x in (0.7, 0.75))
    found, fit = gap([a], [b]), metrics.two_way(a.pseudo - b.pseudo)
    assert found.p == pytest.approx(2 * scipy.stats.t.sf(abs(found.value) / np.sqrt(fit.var_mean), 7), rel=1e-9)
    for seed in range(30):
        rng = np.random.default_rng([seed, 1])
        pairs = [[scored_of(grid(rng, level=x)) for _ in range(3)] for x in (0.7, 0.72)]
        for seeds in (1, 3):
            found = gap(*pairs, seeds=seeds)
            assert (found.p < 0.05) == (found.low > 0 or found.high < 0)
    assert gap([a], [a]).p == 1.0


def stage_errors(n: int, candidates: int, prompts: int = 16) -> tuple[float, float]:
    """Of stages with equally good candidates: in how many the leader is called clearly better than one of them, and in
    how many an interval leaves out 0."""
    rng, hits = np.random.default_rng([n, candidates]), np.zeros(2)
    for _ in range(n):
        row = rng.normal(0, 0.15, 100)
        choice = choose_candidate([rated(str(i), [grid(rng, prompts, row=row)]) for i in range(candidates)])
        hits += len(choice.tied) < candidates - 1, any(g.low > 0 for g in choice.gaps.values())
    return float(hits[0] / n), float(hits[1] / n)


def test_of_many_equal_candidates_none_is_called_worse_though_the_leader_is_the_luckiest() -> None:
    corrected, alone = stage_errors(60, 6)
    assert corrected <= 0.13  # of 0.05, in 60 stages
    assert alone > 0.13


@pytest.mark.long
@pytest.mark.parametrize("candidates", [3, 8])
def test_familywise_error_of_a_stage(candidates: int) -> None:
    corrected, alone = stage_errors(1500, candidates)
    print(f"{candidates} candidates: {corrected:.3f} after Holm, {alone:.3f} by intervals alone")
    assert corrected <= 0.06
    assert alone > 0.08


def test_a_lead_that_lies_in_one_prompt_is_undecided() -> None:
    rng = np.random.default_rng(8)
    even, bad = grid(rng, 30, 200, 0.8), grid(rng, 30, 200, 0.72)
    bad[4] = 0
    choice = choose_candidate([rated("even", [even], 9), rated("bad", [bad], 1)])
    assert choice.tied == ("bad",)
    assert "lies in a few prompts, so it is undecided" in choice.reason
    row = as_row(rated("bad", [bad], 1), choice)
    assert row["heavy_tails"]
    assert row["tied"]


def test_what_answers_with_one_label_or_was_cut_takes_no_part() -> None:
    rng = np.random.default_rng(4)
    constant, cut = (
        rated("constant", [np.ones((8, 100))], degenerate=True),
        RatedCandidate(Candidate("cut", "", ()), (), (None,)),
    )
    choice = choose_candidate([constant, cut, rated("sound", [grid(rng)])])
    assert choice.taken == "sound"
    assert "one label nearly always: “constant”" in choice.reason
    assert "Cut early or failed, so not compared: “cut”" in choice.reason
    none = choose_candidate([constant, cut])
    assert none.taken == "constant"
    assert "None can be compared" in none.reason


def test_several_seeds_widen_the_interval_by_their_luck() -> None:
    rng = np.random.default_rng(5)
    base = [grid(rng) for _ in range(2)]
    lucky, unlucky = np.clip(base[0] + 0.0, 0, 1), np.zeros_like(base[1])
    ours, theirs = [scored_of(x) for x in base], [scored_of(lucky), scored_of(unlucky)]
    one, two = gap(ours, theirs), gap(ours, theirs, seeds=2)
    assert one.value == two.value
    assert two.low < one.low
    assert two.high > one.high


# the answer -------------------------------------------------------------------------------------------------------


def crossed(interaction: float, seeds: int = 3, noise: float = 0.01) -> dict[str, Any]:
    rng = np.random.default_rng(1)
    sign = np.array([[1.0, -1.0], [-1.0, 1.0]])
    rows = [
        {
            "template": f"t{i}", "lora": f"L{j + 1}", "plw": "0", "pool": "many", "seed": str(s), "trial": f"{i}{j}{s}",
            "objective": 0.7 + 0.02 * i + interaction * sign[i, j] + noise * rng.standard_normal(), "mean": 0.8,
            "degenerate": False,
        }
        for i in range(2) for j in range(2) for s in range(seeds)
    ]  # fmt: skip
    return answer.interaction_record(rows, {"L1": "r = 2", "L2": "r = 4"}, "key")


def concluded(made: dict[str, Any], chosen: str = "t0") -> dict[str, Any]:
    study = load_study(study_path("quickstart"))
    at = CurrentChoice("labels", (chosen,), {"r": 2})
    return answer.final_answer(made, [made], at, study, "runs/x")


def test_without_an_interaction_staged_was_enough() -> None:
    found = concluded(crossed(0.0))
    assert found["kind"] == "staged"
    assert found["sentence"].startswith("Staged was enough: no dependence")
    assert "F(1, 6)" in found["sentence"]
    assert found["command"] is None


def test_an_interaction_that_is_neither_shown_nor_excluded_leaves_the_question_open() -> None:
    found = concluded(crossed(0.002, seeds=2, noise=0.004))
    assert found["kind"] == "unknown"
    assert "cannot be said" in found["sentence"]
    assert "are not excluded" in found["sentence"]
    assert "add seeds" in found["sentence"]


def test_with_a_crossing_of_ranks_the_answer_is_to_search_jointly_and_how() -> None:
    found = concluded(crossed(0.05))
    assert found["kind"] == "joint"
    assert found["sentence"].startswith("Search jointly")
    assert found["command"] == "steadytune run runs/x/study.yaml stages=null --out runs/x"
    assert "the best combination in stage 5 is t1 with L2" in found["sentence"]


def test_an_interaction_that_changes_no_rank_does_not_ask_for_a_joint_search() -> None:
    made = crossed(0.0, noise=0.001)
    for row in made["rows"]:  # L2 helps both templates, one more than the other
        row["objective"] += (row["lora"] == "L2") * (0.05 if row["template"] == "t1" else 0.02)
    found = concluded(answer.interaction_record(made["rows"], made["settings"], "key"))
    assert found["kind"] == "staged"
    assert "do interact" in found["sentence"]


def test_without_results_nothing_is_claimed() -> None:
    made = crossed(0.0)
    for row in made["rows"]:
        row["objective"] = None
    found = concluded(answer.interaction_record(made["rows"], made["settings"], "key"))
    assert found["kind"] == "unknown"
    assert "cannot be said" in found["sentence"]


def test_earlier_leads_within_the_luck_of_the_seed_are_told() -> None:
    stage = {
        "stage": 3,
        "title": "templates",
        "seeds": 1,
        "candidates": [{"candidate": "a", "gap": None}, {"candidate": "b", "gap": 0.02}],
    }
    assert len(answer.within_luck([stage], 0.01)) == 1, "2 points, where two trials differ by 2.8 in one of 20 cases"
    assert answer.within_luck([stage], 0.005) == []


# the protocol -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def staged(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, list[str]]:
    """(study file, what ran, ids of the trials that were trained); the run folder is ``run`` beside the file."""
    folder = tmp_path_factory.mktemp("staged")
    path = write_study(folder)
    ran, trained = run_in_process(path, folder / "run")
    write_report(str(folder / "run"))
    return path, ran, trained


def test_all_stages_run_and_each_says_what_it_took_and_why(staged: tuple[Path, Any, list[str]]) -> None:
    path, ran, _ = staged
    content = json.loads((path.parent / "run" / "stages.json").read_text())
    stages = content["stages"]
    assert [s["title"] for s in stages if s["title"] != "stopping"] == [
        "format",
        "head",
        "templates",
        "lr",
        "r",
        "interaction",
    ]
    assert [s["stage"] for s in stages] == sorted(s["stage"] for s in stages)
    assert all(s["reason"] for s in stages)
    assert {c["candidate"] for c in stages[1]["candidates"]} == {"labels", "classifier", "generate"}
    assert {c["candidate"] for c in stages[2]["candidates"]} == {"plain", "long", "bare"}
    for stage in stages[1:-1]:
        assert [c["candidate"] for c in stage["candidates"] if c["taken"]] == [stage["taken"]]
    assert content["answer"]["kind"] in ("staged", "joint", "unknown")
    assert list(decisions_of_stages(ran.records))[-1] == f"answer: {content['answer']['sentence']}"


def test_every_stage_reuses_the_trials_of_the_one_before(staged: tuple[Path, Any, list[str]]) -> None:
    _, ran, trained = staged
    assert len(trained) == len(set(trained)), "no trial is trained twice"
    asked = [{i for c in s.get("candidates", ()) for i in c["trials"]} for s in ran.records.stages[1:]]
    asked[-1] = {r["trial"] for r in ran.records.stages[-1]["rows"]}
    for i, trials in enumerate(asked[1:], start=1):
        assert trials & set().union(*asked[:i]), (
            f"{ran.records.stages[i + 1]['title']} shares no trial with those before"
        )
    assert set(trained) == set().union(*asked)


def test_heads_are_compared_on_the_same_rows_and_prompts(staged: tuple[Path, Any, list[str]]) -> None:
    path, ran, _ = staged
    store, grids = Store.open(str(path.parent / "run")), []
    for candidate in ran.records.stages[1]["candidates"]:
        [(_, _, rows, record)] = [f for f in read_score_files(store, "test") if f[0] in candidate["trials"]]
        trial = Trial.from_json(record["trial"])
        assert {"labels": ("lm", "labels"), "classifier": ("classifier", "labels"), "generate": ("lm", "generate")}[
            candidate["candidate"]
        ] == (trial.model.head, trial.scoring.scorer)
        grids.append(sorted(zip(rows["prompt_id"].to_pylist(), rows["row_id"].to_pylist(), strict=True)))
    assert grids[0] == grids[1] == grids[2]


def test_a_second_start_trains_nothing_and_decides_the_same(staged: tuple[Path, Any, list[str]]) -> None:
    path, ran, _ = staged
    before = (path.parent / "run" / "stages.json").read_bytes()
    again, trained = run_in_process(path, path.parent / "run")
    assert trained == []
    assert again.records.stages == ran.records.stages
    assert (path.parent / "run" / "stages.json").read_bytes() == before


def test_a_recorded_decision_is_replayed_not_made_anew(staged: tuple[Path, Any, list[str]]) -> None:
    path, _, _ = staged
    file = path.parent / "run" / "stages.json"
    before = file.read_text()
    content = {k: v for k, v in json.loads(before).items() if not k.startswith("steadytune_")}  # its checksum
    content["stages"][1]["reason"] = "as it was recorded"
    file.write_text(json.dumps(content))
    try:
        again, _ = run_in_process(path, path.parent / "run")
        assert again.records.stages[1]["reason"] == "as it was recorded"
    finally:
        file.write_text(before)


def test_a_changed_study_decides_anew_from_the_trials_that_are_there(
    staged: tuple[Path, Any, list[str]], tmp_path: Path
) -> None:
    path, ran, _ = staged
    shutil.copytree(path.parent / "run", tmp_path / "run")
    again, trained = run_in_process(path, tmp_path / "run", "axes.template=[plain, long]")
    assert [c["candidate"] for c in again.records.stages[2]["candidates"]] == ["plain", "long"]
    assert again.records.stages[1] == ran.records.stages[1], "the same heads, the same question"
    known = {i for s in ran.records.stages for c in s.get("candidates", ()) for i in c["trials"]}
    assert known & {i for c in again.records.stages[2]["candidates"] for i in c["trials"]}
    assert not set(trained) & known


def test_warnings_about_settings_are_those_of_the_settings_of_this_start(
    staged: tuple[Path, Any, list[str]], tmp_path: Path
) -> None:
    path, ran, _ = staged
    store = Store.open(shutil.copytree(path.parent / "run", tmp_path / "run"))

    def warnings(*overrides: str) -> list[str]:
        study = load_study(path, overrides)
        one = Staged(study, store, content_of(study), lambda *_: None)
        one.check_format()
        return list(one.records.stages[0]["warnings"])

    ours = warnings()
    assert ours == ran.records.stages[0]["warnings"]
    assert [w for w in warnings("axes.lr=[9]") if w not in ours and "axes.lr = [9.0]: every rate" in w]
    assert warnings() == ours


def test_a_wording_of_another_task_stops_the_study_before_anything_is_written(tmp_path: Path) -> None:
    path = write_study(tmp_path)
    text = (tmp_path / "dev.yaml").read_text()
    (tmp_path / "dev.yaml").write_text(text + 'd9: "Is {{ text }} good, I mean tasty?"\n')
    with pytest.raises(UserError, match=r'pools\.dev: prompt "d9": contains "tasty", which asks for taste'):
        run_in_process(path, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_tables_and_report_come_from_the_run_folder(staged: tuple[Path, Any, list[str]]) -> None:
    path, ran, _ = staged
    run = path.parent / "run"
    for name in (
        "staged_choices",
        "staged_candidates",
        "staged_variance",
        "staged_interaction",
        "staged_cells",
    ):
        for ending in ("md", "csv", "tex", "parquet"):
            assert (run / "tables" / f"{name}.{ending}").stat().st_size > 0, name
    shares = pq.read_table(run / "tables" / "staged_variance.parquet").to_pydict()
    assert {"template", "lora", "interaction", "seed"} == set(shares["part"])
    assert sum(shares["share"]) == pytest.approx(1.0)
    page = (run / "report.html").read_text()
    assert "Stage by stage" in page
    assert page.count('data-chart="stages-variance"') == page.count('"stages-variance":') == 1
    assert "leader&#39;s lead, points (95 % interval)" in page
    assert "gap_low" not in page
    for stage in ran.records.stages:
        assert stage["title"] in page
    two = pq.read_table(run / "tables" / "binary.parquet").to_pylist()
    assert all(0 <= r["roc_auc"] <= 1 for r in two if r["roc_auc"] is not None)
    listed = {r["trial_id"] for r in pq.read_table(run / "trials.parquet").to_pylist()}
    assert {r["trial_id"] for r in two} <= listed


def test_a_joint_search_begins_with_the_points_of_the_stages(staged: tuple[Path, Any, list[str]]) -> None:
    path, ran, _ = staged
    steps = sorted({8, ran.current.settings["steps"]})  # a training that was stopped sooner is on no axis yet
    command = answer.continuation(ran.study, ran.current, "x", 16)
    assert len(steps) == 1 or f"axes.steps=[8,{steps[0]}]" in command
    study = load_study(path, ["stages=null", f"axes.steps={steps}"])
    axes = axes_of(study)
    store = Store.open(str(path.parent / "run"))

    def at(config: Any) -> Trial:
        from sweeps.search.points import decode

        return ran._trial(decode(config, axes), ran.current.head)  # type: ignore[no-any-return]

    found = staged_points(store, axes, at)
    ids = {at(encode(p)).id for p in found}
    crossing = {r["trial"] for r in ran.records.stages[-1]["rows"]}
    assert crossing <= ids
    assert ids <= {at(encode(p)).id for p in grid_points(axes)}
    assert len(found) >= 3


def test_compare_rates_only_what_is_whole(staged: tuple[Path, Any, list[str]]) -> None:
    path, ran, _ = staged
    store = Store.open(str(path.parent / "run"))
    [trial] = ran._trials_of(ran_candidate(ran))
    assert compare.dev_scores(store, trial, trial.optimization.steps, 1.0) is not None
    assert compare.dev_scores(store, trial, 1, 1.0) is None


def ran_candidate(ran: Any) -> Candidate:
    from sweeps.staged import points

    return points.head_candidates(ran.study, points.baseline(ran.study))[0]
