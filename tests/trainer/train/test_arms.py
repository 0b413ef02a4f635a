"""Training arms: choices, weights and losses against hand computations; the same alone, packed, resumed and moved."""

# ruff: noqa: F811  (fixtures of another file are taken by their names)
from __future__ import annotations

import collections
import dataclasses
import difflib
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from engine_steps import LORA, PLAN, make_batch
from runner_trials import ASSETS, RUNGS, Start, finish, model, scores, start, trial  # noqa: F401  (two fixtures)
from tiny_llama import make_llama

from trainer import trial as t
from trainer.data.kinds import COMPLETION
from trainer.data.typos import misspelt, slip
from trainer.data.wording import Prompt, fill
from trainer.setup import Setup
from trainer.store import Store, checkpoint_name
from trainer.train import arms
from trainer.train.arms import MEMORY_TENSOR, PromptMemory, competence, distinct, easiest_first, open_prompts
from trainer.train.batches import ExampleOrder, Sample, collate, families, micro_batches
from trainer.train.engine import Engine
from trainer.train.loss import divergence
from trainer.train.resident import Resident
from trainer.trial import Arm, Draw, Loss, Optimization
from trainer.work import TrainOnly

STEPS = Optimization(steps=100, batch_size=4, accumulation=2)


def order(arm: Arm, draw: Draw | None = None, n_rows: int = 40, n_prompts: int = 10, **more: Any) -> ExampleOrder:
    return ExampleOrder(0, n_rows, n_prompts, draw or Draw(), STEPS, arm, **more)


# choices --------------------------------------------------------------------------------------------------------


def test_a_plain_arm_draws_as_without_one() -> None:
    plain, without = order(Arm("named")), ExampleOrder(0, 40, 10, Draw(), STEPS)
    assert [plain.batch(s) for s in range(20)] == [without.batch(s) for s in range(20)]


def test_competence_follows_the_square_root_and_ends_at_the_whole_pool() -> None:
    assert competence(0.0) == pytest.approx(0.1)
    assert competence(0.25) == pytest.approx(math.sqrt(0.5 * 0.99 + 0.01))
    assert competence(0.5) == competence(1.0) == 1.0
    assert [open_prompts(10, p) for p in (0.0, 0.25, 0.5, 0.9)] == [1, 8, 10, 10]
    assert open_prompts(3, 0.0) == 1


def test_a_curriculum_begins_with_the_shortest_wordings_and_ends_with_all() -> None:
    pool = [Prompt("long", "one two three four {{ a_long_name_of_a_field }}"), Prompt("short", "{{ text }} good?")]
    assert easiest_first([*pool, Prompt("also short", "good? {{ text }}")]) == (1, 2, 0)
    ranked = [7, 3, 1, 0, 2, 4, 5, 6, 8, 9]
    o = order(Arm(choice="curriculum"), by_difficulty=ranked)
    assert {p.prompt for p in o.batch(0)} == {7}
    half = {p.prompt for s in range(5) for p in o.batch(s)}
    assert half <= set(ranked[: open_prompts(10, 0.05)])
    assert {p.prompt for s in range(50, 100) for p in o.batch(s)} == set(ranked)
    assert [o.batch(s) for s in (60, 3)] == [o.batch(60), order(o.arm, by_difficulty=ranked).batch(3)]


def test_importance_prefers_high_losses_as_computed_by_hand() -> None:
    memory = PromptMemory(Arm(choice="importance", temperature=0.5), 3)
    assert memory.probabilities().tolist() == [1 / 3] * 3
    memory.learn({0: 1.0, 1: 0.5})
    # prompt 2 was not met: it counts as the mean, 0.75
    soft = [math.exp(1.0 / 0.5), math.exp(0.5 / 0.5), math.exp(0.75 / 0.5)]
    assert memory.probabilities() == pytest.approx([0.8 * x / sum(soft) + 0.2 / 3 for x in soft])
    memory.learn({0: 2.0, 2: math.nan})
    assert memory.values[0] == pytest.approx(0.9 * 1.0 + 0.1 * 2.0)
    assert math.isnan(memory.values[2])


def test_importance_draws_have_their_probabilities_and_keep_to_blocks() -> None:
    memory = PromptMemory(Arm(choice="importance"), 10)
    memory.learn({i: 0.1 * i for i in range(10)})
    o = order(memory.arm, Draw(every=4), n_rows=10**6)
    picks = [o.pick(i, memory) for i in range(16000)]
    assert all(len({p.prompt for p in picks[k : k + 4]}) == 1 for k in range(0, 16000, 4))
    counts = collections.Counter(p.prompt for p in picks[::4])
    expected = memory.probabilities() * 4000
    for prompt in range(10):
        assert abs(counts[prompt] - expected[prompt]) < 5 * math.sqrt(expected[prompt])
    with pytest.raises(ValueError, match="what was learnt"):
        o.pick(0)


def test_group_dro_multiplies_the_weights_as_in_its_algorithm() -> None:
    memory = PromptMemory(Arm(choice="group_dro", step_size=0.5), 3)
    assert [memory.weight(i) for i in range(3)] == pytest.approx([1.0, 1.0, 1.0])
    memory.learn({0: 2.0, 2: 1.0})
    q = np.array([math.exp(0.5 * 2.0), 1.0, math.exp(0.5 * 1.0)])
    q = q / q.sum()
    assert [memory.weight(i) for i in range(3)] == pytest.approx((3 * q).tolist())
    memory.learn({1: 4.0})
    q = q * [1.0, math.exp(2.0), 1.0]
    assert [memory.weight(i) for i in range(3)] == pytest.approx((3 * q / q.sum()).tolist())


def test_memory_of_another_pool_is_refused() -> None:
    with pytest.raises(ValueError, match="holds 3 prompts, the pool 4"):
        PromptMemory(Arm(choice="group_dro"), 4).restore(np.zeros(3))


def test_distinct_uses_every_place_once_before_any_twice() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        n, k = int(rng.integers(1, 7)), int(rng.integers(1, 15))
        found = distinct(n, [int(x) for x in rng.integers(0, 10**9, k)])
        assert all(sorted(found[i : i + n]) == list(range(n)) for i in range(0, k - n + 1, n))
        assert all(0 <= f < n for f in found)
    first = collections.Counter(tuple(distinct(3, [int(a), int(b)])) for a, b in rng.integers(0, 10**9, (6000, 2)))
    assert len(first) == 6
    assert all(abs(c - 1000) < 5 * math.sqrt(1000) for c in first.values()), "all pairs are as likely"


def test_views_are_other_wordings_of_the_same_row_and_a_step_stays_as_large() -> None:
    o, plain = order(Arm(views=2)), order(Arm())
    batch = o.batch(3)
    assert len(batch) == len(plain.batch(3)) == 8
    for a, b in zip(batch[::2], batch[1::2], strict=True):
        assert (a.row, a.family, a.format) == (b.row, b.family, b.format)
        assert a.prompt != b.prompt
    assert len({p.family for p in batch}) == 4
    rows = [p.row for s in range(10) for p in o.batch(s)][::2]
    assert sorted(rows) == list(range(40)), "an epoch of rows takes twice the steps"
    with pytest.raises(ValueError, match="does not divide"):
        order(Arm(views=3))


def test_formats_are_drawn_evenly_and_apart_from_the_wording() -> None:
    forms = tuple(t.Template(n) for n in "ab")
    o = order(Arm(formats=forms), Draw(every=1), n_rows=10**6, n_prompts=2)
    counts = collections.Counter((p.format, p.prompt) for p in (o.pick(i) for i in range(8000)))
    assert len(counts) == 4
    assert all(abs(c - 2000) < 5 * math.sqrt(2000) for c in counts.values())


# typos ----------------------------------------------------------------------------------------------------------


def test_typos_change_the_share_of_words_and_nothing_of_the_row() -> None:
    text = "Please decide whether {{ text }} sounds unhappy{% if text %} or rather cheerful{% endif %}, nothing else."
    prompt = Prompt("p", text)
    for seed in range(200):
        changed = misspelt(prompt, 0.25, seed)
        assert changed == misspelt(prompt, 0.25, seed)
        row = fill(changed, {"text": "Whether cheerful"})
        assert [row.text[a:b] for a, b in row.spans] == ["Whether cheerful"]
        before, after = fill(prompt, {"text": ""}).text.split(), fill(changed, {"text": ""}).text.split()
        hit = sum(a != b for a, b in zip(before, after, strict=True))
        assert hit <= 2  # a quarter of eight words
    assert len({misspelt(prompt, 0.25, s).text for s in range(50)}) > 30
    assert misspelt(Prompt("p", "is {{ text }} so?"), 0.5, 0).text == "is {{ text }} so?"
    assert misspelt(prompt, 0.0, 0) == prompt


def test_a_slip_is_one_edit_inside_the_word() -> None:
    rng = random.Random(1)
    kinds = set()
    for _ in range(400):
        word = slip("Whether", rng)
        assert (word[0], word[-1]) == ("W", "r")
        kinds.add(len(word) - 7)
        same = sum(m.size for m in difflib.SequenceMatcher(None, "Whether", word, autojunk=False).get_matching_blocks())
        assert same >= 6
    assert kinds == {-1, 0, 1}


# losses ---------------------------------------------------------------------------------------------------------


def test_divergence_is_the_entropy_of_the_mean_less_the_mean_entropy() -> None:
    p = np.array([[[0.7, 0.2, 0.1]], [[0.1, 0.2, 0.7]]])

    def entropy(x: Any) -> float:
        return float(-(x * np.log(x)).sum())

    by_hand = entropy(p.mean(axis=0)) - (entropy(p[0]) + entropy(p[1])) / 2
    assert float(divergence(torch.from_numpy(p).log())) == pytest.approx(by_hand, rel=1e-6)
    assert float(divergence(torch.tensor([[[0.3, 1.0]], [[0.3, 1.0]]]))) == pytest.approx(0.0, abs=1e-7)
    apart = torch.eye(4)[:, None] * 80.0  # V one-hot distributions
    assert float(divergence(apart)) == pytest.approx(math.log(4), rel=1e-5)


def views(consistency: float, slot: int = 0) -> list[Sample]:
    """Two rows under two wordings of different length; the answers of a row are the same tokens."""
    found = []
    for row in range(2):
        for view in range(2):
            base = make_batch(10 * row + view, 1, Loss())[0]
            ids = np.concatenate([base.ids[:-3], np.array([5 + row, 9, 2], np.int32)])
            found.append(
                dataclasses.replace(
                    base, slot=slot, ids=ids, normalizer=12.0, family=row, consistency=consistency, prompt=view
                )
            )
    return found


def test_collate_finds_the_answers_of_a_rows_views() -> None:
    work = collate(views(0.5), 0)
    assert [w for w, _ in work.families] == [0.5, 0.5]
    for _, places in work.families:
        assert places.shape == (2, 3)
        assert (work.targets[places[0]] == work.targets[places[1]]).all()
        assert work.completion[places].all()
        assert len(set(work.batch.rows[places[:, 0]].tolist())) == 2


def test_views_stay_in_one_pass_whatever_the_budget() -> None:
    samples = [*views(0.5), *views(0.5, slot=1), *make_batch(5, 6, Loss(), slot=2)]
    for budget in (1, 40, 80, 10**6):
        groups = list(micro_batches(samples, budget))
        assert sorted(id(s) for g in groups for s in g) == sorted(map(id, samples))
        for part in families(samples):
            assert sum(any(s is part[0] for s in g) and all(any(s is m for s in g) for m in part) for g in groups) == 1


@pytest.mark.parametrize("consistency", [0.0, 2.0])
def test_the_gradient_of_a_step_is_that_of_cross_entropy_and_divergence(consistency: float) -> None:
    """Against autograd on the plain model with the same adapter, each view on its own."""
    samples = views(consistency)
    engine = Engine(make_llama(), Setup(max_r=4, target_modules=LORA.target_modules))
    try:
        engine.place(0, LORA, dataclasses.replace(PLAN, clip=0.0), seed=7)
        trained = [p for _, p in engine.slot_model.slot_parameters()]
        with torch.no_grad():
            for p in trained:
                p += 0.02 * torch.randn(p.shape, generator=torch.Generator().manual_seed(3))
        losses: Any = 0.0
        by_row: dict[int, list[torch.Tensor]] = {}
        for s in samples:
            logits = engine.slot_model(collate([s], 0).batch)
            losses = losses + torch.nn.functional.cross_entropy(
                logits, torch.tensor(s.ids[-3:]).long(), reduction="sum"
            )
            by_row.setdefault(s.family, []).append(logits.log_softmax(-1))
        losses = losses / 12.0
        for pair in by_row.values():
            logs = torch.stack(pair)
            mean = logs.exp().mean(0)
            parts = -(mean * mean.log()).sum(-1) + (logs.exp() * logs).sum(-1).mean(0)
            losses = losses + consistency * parts.mean()
        wanted = torch.autograd.grad(losses, trained, allow_unused=True)
        norm = math.sqrt(sum(float((g**2).sum()) for g in wanted if g is not None))
        log = engine.tick(samples)[0]
        assert log.grad_norm == pytest.approx(norm, rel=1e-4)
        assert log.by_prompt.keys() == {0, 1}
        assert np.mean(list(log.by_prompt.values())) == pytest.approx(log.completion_loss, rel=1e-6)
    finally:
        engine.close()


def test_losses_by_prompt_are_of_each_slot_and_of_the_answer_alone() -> None:
    engine = Engine(make_llama(), Setup(slots=2, max_r=4, target_modules=LORA.target_modules, token_budget=40))
    try:
        for slot in (0, 1):
            engine.place(slot, LORA, PLAN, seed=slot)
        plain = [dataclasses.replace(s, weights=np.ones_like(s.weights)) for s in make_batch(1, 4, Loss(), slot=0)]
        samples = [dataclasses.replace(s, prompt=i % 2) for i, s in enumerate(plain)] + make_batch(2, 2, Loss(), slot=1)
        expected = []
        for s in samples[:4]:
            work = collate([s], 0)
            with torch.no_grad():
                each = torch.nn.functional.cross_entropy(engine.slot_model(work.batch), work.targets, reduction="none")
            expected.append(float(each[work.completion].mean()))
            assert int(work.completion.sum()) == int((s.kinds == COMPLETION).sum()) == 3
        logs = engine.tick(samples)
        assert logs[1].by_prompt == {}
        assert logs[0].by_prompt == pytest.approx(
            {0: (expected[0] + expected[2]) / 2, 1: (expected[1] + expected[3]) / 2}, rel=1e-5
        )
    finally:
        engine.close()


# whole trials -----------------------------------------------------------------------------------------------------

FORMATS = (t.Template("plain", words=(("no", " no"), ("yes", " yes"))), t.Template("other", marker=" it:"))
ARMS = {
    "curriculum": Arm("curriculum", choice="curriculum"),
    "importance": Arm("importance", choice="importance", temperature=0.05),
    "group_dro": Arm("group_dro", choice="group_dro", step_size=1.0),
    "adversarial": Arm(
        "adversarial",
        choice="adversarial",
        typos=0.5,
        formats=FORMATS,
        search_every=2,
        search_candidates=3,
        search_rows=2,
        search_worst=2,
        search_share=0.7,
    ),
    "typos": Arm("typos", typos=0.5),
    "formats": Arm("formats", formats=FORMATS),
    "consistency": Arm("consistency", views=2, consistency=1.0),
}
TRIALS = [trial(seed=4, arm=arm) for arm in (Arm(), *ARMS.values())]


def logprobs(folder: Path, which: t.Trial, rung: int = RUNGS[-1]) -> np.ndarray[Any, Any]:
    table, _ = scores(folder, which, rung)
    return np.array(table["label_logprobs"].to_pylist())


@pytest.fixture(scope="module")
def together(model: t.Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All arms packed, without a pause."""
    from trainer.runner import Runner

    folder = tmp_path_factory.mktemp("packed")
    runner = Runner(model, Setup(slots=len(TRIALS), max_r=4, threads=1), ASSETS, Store.open(folder))
    try:
        finish(runner, TRIALS)
    finally:
        runner.close()
    return folder


def test_every_arm_trains_something_else(together: Path) -> None:
    found = [logprobs(together, x) for x in TRIALS]
    for i, a in enumerate(found):
        assert np.isfinite(a).all()
        for j, b in enumerate(found[:i]):
            assert abs(a - b).max() > 1e-4, (TRIALS[i].arm.name, TRIALS[j].arm.name)


def test_arms_cost_the_same_sequences(together: Path) -> None:
    tokens = {x.arm.name: sum(scores(together, x, r)[1]["tokens"] for r in RUNGS) for x in TRIALS}
    assert max(tokens.values()) < 1.35 * min(tokens.values()), "only the lengths of wordings differ"


@pytest.mark.parametrize("name", ARMS)
def test_alone_moved_and_resumed_it_is_what_it_is_packed(
    start: Start, tmp_path: Path, together: Path, name: str
) -> None:
    """Each rung in a process of its own, with its slot given up between: what an arm remembers is in the checkpoint."""
    one = trial(seed=4, arm=ARMS[name])
    for rung in RUNGS:
        runner = start(tmp_path)
        finish(runner, [one], rungs=(rung,))
        runner.close()
        assert logprobs(tmp_path, one, rung) == pytest.approx(logprobs(together, one, rung), abs=2e-4)


def test_what_searches_cost_is_told_by_whoever_takes_the_trial_over(start: Start, tmp_path: Path) -> None:
    """A process that died after its checkpoint and before its scores; only arms that search have the entry."""
    for name, searches in (("adversarial", True), ("curriculum", False)):
        one = trial(seed=4, arm=ARMS[name])
        told = [start(tmp_path).submit(TrainOnly(one, 4, "dev")).result(timeout=60) for _ in range(2)]
        assert told[0] == told[1]
        assert (b"log_search_tokens" in Store.open(tmp_path).read(checkpoint_name(one.id, 4))) == searches


def test_what_is_remembered_is_in_the_checkpoint_and_in_no_adapter(together: Path) -> None:
    from safetensors.torch import load

    store = Store.open(together)
    for x in TRIALS:
        kept = load(store.read(checkpoint_name(x.id, RUNGS[-1])))
        assert (MEMORY_TENSOR in kept) == (x.arm.choice in ("importance", "group_dro", "adversarial"))
        assert not any(MEMORY_TENSOR in n for n in load(store.read(f"adapters/{x.id}/adapter_model.safetensors")))
        if x.arm.choice == "group_dro":
            assert float(kept[MEMORY_TENSOR].exp().sum()) == pytest.approx(1.0)
            assert float(kept[MEMORY_TENSOR].std()) > 0
        if x.arm.choice == "adversarial":
            assert int(kept[MEMORY_TENSOR].isfinite().sum()) == 2, "the worst of the last search"


def test_dynamic_prompts_change_between_epochs_and_load_ones_do_not_in_what_is_trained(model: t.Model) -> None:
    """Issue 5, "Done when" 4, on the token ids of whole trials; slot and start make no difference to them."""
    from trainer.data.render import Renderer
    from trainer.data.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(model)

    def epochs(mode: Any, slot: int, first: int) -> list[list[list[int]]]:
        one = trial(seed=1, draw=Draw(mode, every=2), optimization=Optimization(steps=6, batch_size=4))
        r = Resident(one, ASSETS, Renderer(tokenizer, one.template, one.task), slot, first, 6)
        steps = []
        for step in range(first, 6):  # 12 rows: an epoch is three steps
            r.step = step
            steps.append([s.ids.tolist() for s in r.samples()])
        return steps

    dynamic, load = epochs("dynamic", 0, 0), epochs("load", 0, 0)
    first, second = (sorted(i for step in load[a : a + 3] for i in step) for a in (0, 3))
    assert first == second
    first, second = (sorted(i for step in dynamic[a : a + 3] for i in step) for a in (0, 3))
    assert first != second
    assert epochs("dynamic", 5, 3) == dynamic[3:]
    assert epochs("load", 5, 2) == load[2:]


def test_a_typo_that_would_make_a_row_too_long_is_left_out(model: t.Model) -> None:
    from trainer.data.render import Renderer
    from trainer.data.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(model)
    assets = dataclasses.replace(ASSETS, train_pools={"many": (Prompt("t", "good good good good {{ text }}"),)})
    one = trial(arm=Arm(typos=0.3))
    exact = max(
        len(e.ids)
        for e in Renderer(tokenizer, one.template, one.task).examples(
            [(assets.train_pools["many"][0], r) for r in assets.rows["train"]]
        )
    )
    one = dataclasses.replace(one, task=dataclasses.replace(one.task, max_length=exact))
    r = Resident(one, assets, Renderer(tokenizer, one.template, one.task), 0, 0, 6)
    assert all(len(s.ids) <= exact for s in r.samples())


def test_the_names_of_choices_are_all_explained() -> None:
    for name in ("uniform", "curriculum", "importance", "group_dro", "adversarial"):
        assert f"``{name}``" in (arms.__doc__ or "")


@pytest.mark.parametrize("world", [2, 3])
def test_workers_share_out_whole_families_and_run_as_many_passes(world: int) -> None:
    from types import SimpleNamespace

    samples = [*views(0.5), *make_batch(5, 5, Loss())]
    shares: list[list[list[Sample]]] = []
    for rank in range(world):
        worker: Any = SimpleNamespace(world=world, rank=rank, token_budget=50)
        shares.append(Engine._share(worker, samples))
    assert len({len(s) for s in shares}) == 1, "ZeRO 2 and 3 wait for each other in every pass"
    of = {id(s): rank for rank, share in enumerate(shares) for group in share for s in group}
    assert {id(s) for s in samples} <= set(of)
    assert all(len({of[id(s)] for s in part}) == 1 for part in families(samples))
    idle = [s for share in shares for group in share for s in group if all(s is not x for x in samples)]
    assert all(not s.weights.any() and s.family == s.prompt == -1 for s in idle)
