"""Decision rules against hand-made numbers."""

from __future__ import annotations

import numpy as np
import pytest

from trainer.score.decide import RULES, decide


def test_raw_takes_the_largest_the_first_of_ties_and_nothing_of_a_nan() -> None:
    logprobs = np.array([[-1.0, -2.0], [-2.0, -1.0], [-1.0, -1.0], [np.nan, -1.0], [-np.inf, -np.inf]])
    assert decide("raw", logprobs).tolist() == [0, 1, 0, -1, -1]


def test_a_nan_in_what_a_rule_compares_with_gives_no_label() -> None:
    """CASES B7."""
    nan = np.array([[np.nan, -1.0]])
    assert decide("pmi", np.array([[-1.0, -2.0]]), baseline=nan).tolist() == [-1]
    assert decide("contextual", np.array([[-1.0, -2.0]]), baseline=nan[None]).tolist() == [-1]
    assert decide("per_token", np.array([[-np.inf, -np.inf]]), n_tokens=np.array([[1, 2]])).tolist() == [-1]


def test_rows_may_bring_different_numbers_of_options() -> None:
    assert decide("raw", [np.array([-3.0, -1.0]), np.array([-5.0, -4.0, -1.0])]).tolist() == [1, 2]
    assert decide(
        "per_token", [np.array([-3.0, -4.0]), np.array([-5.0, -4.0, -9.0])], [[1, 2], [1, 1, 9]]
    ).tolist() == [1, 2]


def test_lengths_normalise() -> None:
    logprobs = np.array([[-3.0, -4.0]])
    assert decide("raw", logprobs).tolist() == [0]
    assert decide("per_token", logprobs, n_tokens=np.array([[1, 2]])).tolist() == [1]
    assert decide("per_byte", logprobs, n_bytes=[(2, 8)]).tolist() == [1]
    assert decide("per_byte", logprobs, n_tokens=np.array([[1, 2]]), n_bytes=[(8, 2)]).tolist() == [0]


def test_pmi_subtracts_what_the_label_has_without_the_question() -> None:
    assert decide("pmi", np.array([[-1.0, -2.0]]), baseline=np.array([[-0.5, -4.0]])).tolist() == [1]


def test_contextual_divides_by_the_mean_of_renormalised_probabilities() -> None:
    # Content-free shares .9/.1 and .7/.3 have mean .8/.2; log(.75/.8) < log(.25/.2).
    free = np.log(np.array([[[0.9, 0.1], [0.7, 0.3]]])) - np.array([[[5.0], [1.0]]])  # scale per input does not matter
    assert decide("contextual", np.log([[0.75, 0.25]]), baseline=free).tolist() == [1]
    assert decide("contextual", np.log([[0.81, 0.19]]), baseline=free).tolist() == [0]


def test_batch_centres_every_prompt_on_its_own() -> None:
    logprobs = np.array([[-1.0, -2.0], [-1.0, -4.0], [-5.0, -1.0], [-3.0, -1.0]])
    assert decide("batch", logprobs, prompts=["a", "a", "b", "b"]).tolist() == [1, 0, 1, 0]
    assert decide("batch", logprobs).tolist() == [0, 0, 1, 1]


def test_batch_with_a_prior_keeps_an_imbalanced_class_apart() -> None:
    rng = np.random.default_rng(0)
    truth = np.arange(200) < 180  # nine in ten are label 0
    logprobs = np.stack([np.where(truth, 1.0, -1.0) * 0.5, np.zeros(200)], axis=1) + rng.normal(0, 0.5, (200, 2))
    plain = (decide("batch", logprobs) == 0) == truth
    corrected = (decide("batch", logprobs, prior=[0.9, 0.1]) == 0) == truth
    assert corrected.mean() > 0.9 > plain.mean() + 0.1


def test_batch_does_not_change_when_rows_are_renormalised_and_leaves_nan_rows_out() -> None:
    rng = np.random.default_rng(1)
    logprobs = rng.normal(size=(20, 3))
    normalised = logprobs - np.log(np.exp(logprobs).sum(axis=1, keepdims=True))
    expected = decide("batch", logprobs)
    assert decide("batch", normalised).tolist() == expected.tolist()
    with_nan = np.concatenate([logprobs, [[np.nan, 0.0, 0.0]]])
    assert decide("batch", with_nan).tolist() == [*expected.tolist(), -1]


def test_missing_inputs_and_unknown_names_are_said() -> None:
    one = np.array([[-1.0, -2.0]])
    with pytest.raises(ValueError, match=r'"per_bite" is not known\. Did you mean "per_byte"'):
        decide("per_bite", one)
    for rule, missing in (
        ("per_token", "n_tokens"),
        ("per_byte", "n_bytes"),
        ("pmi", "baseline"),
        ("contextual", "baseline"),
    ):
        with pytest.raises(ValueError, match=missing):
            decide(rule, one)
    with pytest.raises(ValueError, match="same labels"):
        decide("batch", [np.zeros(2), np.zeros(3)])
    with pytest.raises(ValueError, match="one share per label"):
        decide("batch", one, prior=[1.0])
    with pytest.raises(ValueError, match="at least 1"):
        decide("per_byte", one, n_bytes=[(0, 1)])
    assert set(RULES) == {"raw", "per_token", "per_byte", "pmi", "contextual", "batch"}
    assert all(len(decide(rule, [], [], [], baseline=[])) == 0 for rule in RULES)
