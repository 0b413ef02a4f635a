"""tables/effects and tables/variance of run folders with known answers."""

import itertools

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from made_scores import LABEL, SETTINGS, P, R, answers, folder

from sweeps.run_folder.reading import RunFolder
from sweeps.tables import effects
from sweeps.tables import robustness as tables

RIGHT = {"plain": 0.0, "chat": 0.08, 0.0: 0.0, 0.1: -0.03, 4: 0.0, 8: 0.02, 16: 0.01}
DESIGN = list(itertools.product(("plain", "chat"), (0.0, 0.1), (4, 8, 16)))


def study(path, seeds=(0,), ends=None, luck=0.0):
    """A run of the full design. ``ends``: configuration -> (status, share of right answers)."""
    trials, more = {}, {}
    for i, (template, plw, r) in enumerate(DESIGN):
        status, right = (ends or {}).get(i, ("finished", 0.7 + RIGHT[template] + RIGHT[plw] + RIGHT[r]))
        for seed in seeds:
            name = f"t{i:02}s{seed}"
            rung = 40 if status == "finished" else 10
            own = luck * np.random.default_rng([i, seed]).normal()
            trials[name] = (status, rung, answers(right, i), answers(right + own, 100 * seed + i), template, plw)
            more[name] = {"r": r, "seed": seed, "configuration": f"c{i:02}"}
    return RunFolder(folder(path / "run", trials, more)), trials


def mattered(run):
    rows = tables.make_tables(run, SETTINGS).robustness.to_pylist()
    return effects.mattered(run, rows, SETTINGS.metric)


def means(trials):
    return {name: float((t[3] == LABEL).mean()) for name, t in trials.items()}


def test_effects_are_the_coefficients_of_statsmodels(tmp_path):
    run, trials = study(tmp_path)
    found = mattered(run)
    assert found.of == (12, 12)
    frame = pd.DataFrame(DESIGN, columns=["template", "plw", "r"]).assign(y=list(means(trials).values()))
    fit = smf.ols("y ~ C(template, Treatment('plain')) + C(plw) + C(r)", frame).fit()
    rows = {(r["axis"], r["value"]): r for r in found.effects.to_pylist()}
    assert set(rows) == {("template", "chat"), ("plw", "0.1"), ("r", "8"), ("r", "16")}
    for (axis, value), row in rows.items():
        coefficient = next(v for n, v in fit.params.items() if n.startswith(f"C({axis}") and n.endswith(f"[T.{value}]"))
        assert row["diff"] == pytest.approx(coefficient, abs=1e-12)
        assert row["diff_low"] < row["diff"] < row["diff_high"]
        assert row["n_pairs"] == {"template": 6, "plw": 6, "r": 4}[axis]
    assert rows["template", "chat"]["p_holm"] < 0.01
    assert "template chat is" in effects.sentence(found, "accuracy")
    table = effects.effect_table(found, "accuracy")
    compared = ("axis", "value", "against", "difference, points (95 % interval)")
    assert table.head == (*compared, "p", "p, corrected (Holm)", "pairs")
    assert table.rows[0][:3] == ("template", "chat", "plain")
    low, high = (100 * rows["template", "chat"][f"diff_{end}"] for end in ("low", "high"))
    assert table.rows[0][3].endswith(f"({low:+.1f} to {high:+.1f})")


def test_stopped_and_degenerate_configurations_are_never_mixed_in(tmp_path):
    """Three that were stopped or give one label, all of them chat and far worse; they would turn the effect around."""
    ends = {6: ("stopped", 0.3), 9: ("stopped", 0.3), 11: ("stopped", 0.2)}
    run, trials = study(tmp_path, ends=ends)
    found = mattered(run)
    assert found.of == (9, 12)
    assert found.cut
    mean = list(means(trials).values())
    row = next(r for r in found.effects.to_pylist() if r["axis"] == "template")
    assert row["n_pairs"] == 3
    assert row["diff"] == pytest.approx(np.mean([mean[i + 6] - mean[i] for i in (1, 2, 4)]))
    assert any("scheduler.name=none" in note for note in effects.notes(found, "accuracy"))


def test_shares_sum_to_one_and_name_what_the_study_was_made_of(tmp_path):
    run, _ = study(tmp_path, seeds=(0, 1))
    found = mattered(run)
    shares = {row["source"]: row["share"] for row in found.variance.to_pylist()}
    assert sum(shares.values()) == pytest.approx(1.0)
    assert min(shares.values()) >= 0.0
    assert shares["template"] == max(shares[axis] for axis in ("template", "plw", "r"))
    assert {effects.SEEDS, effects.PROMPTS, effects.ROWS} < set(shares)


def test_the_luck_of_the_seed_makes_intervals_longer(tmp_path):
    """Three seeds each; where they differ much, the same effect is much less sure."""
    calm = mattered(study(tmp_path / "a", seeds=(0, 1, 2), luck=0.0)[0]).effects.to_pylist()
    wild = mattered(study(tmp_path / "b", seeds=(0, 1, 2), luck=0.1)[0]).effects.to_pylist()
    width = [next(r["diff_high"] - r["diff_low"] for r in rows if r["axis"] == "template") for rows in (calm, wild)]
    assert width[1] > 1.5 * width[0]
    assert next(r for r in calm if r["axis"] == "template")["diff"] == pytest.approx(0.08, abs=0.02)


def test_with_one_seed_it_speaks_of_fine_tunes_and_not_of_settings(tmp_path):
    one, two = (mattered(study(tmp_path / str(len(seeds)), seeds=seeds)[0]) for seeds in ((0,), (0, 1)))
    for found, said in ((one, True), (two, False)):
        assert ("of these fine-tunes" in effects.sentence(found, "accuracy")) is said
        assert any("not of their settings" in note for note in effects.notes(found, "accuracy")) is said


def test_without_two_sound_configurations_there_is_nothing_to_say(tmp_path):
    ends = dict.fromkeys(range(1, len(DESIGN)), ("stopped", 0.5))
    found = mattered(study(tmp_path, ends=ends)[0])
    assert (found.effects.num_rows, found.variance.num_rows, found.of) == (0, 0, (1, 12))
    assert effects.sentence(found, "accuracy") == ""


def test_an_axis_without_pairs_is_named(tmp_path):
    keep = {0, 7}  # differ in everything
    ends = {i: ("stopped", 0.5) for i in range(len(DESIGN)) if i not in keep}
    found = mattered(study(tmp_path, ends=ends)[0])
    assert found.effects.num_rows == 0
    assert set(found.unpaired) == {"template", "r"}
    assert effects.unpaired_note(found) in (
        "No two finished configurations are equal but for template, r: no difference is known.",
        "No two finished configurations are equal but for r, template: no difference is known.",
    )
    assert (P, R) == (6, 80)
