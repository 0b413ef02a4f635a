"""Scores equal one full forward per option, whatever is shared, batched or resident beside it."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from slot_scores import LORAS, peft_alone, request, slotted, some_requests
from tiny_llama import make_llama

import trainer.score.logprobs as scoring
from trainer.data.render import Renderer, Request
from trainer.data.rows import Row
from trainer.data.wording import Prompt
from trainer.model.slots import SlotModel
from trainer.score.calibration import baseline_for
from trainer.score.logprobs import class_logprobs, option_logprobs, sharing_is_exact
from trainer.score.prefill import SHORTEST_HEAD, best_groups, heads_of, lines_of, padded_tokens, tokens_of, waves
from trainer.trial import Lora, Task, Template


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


KINDS = ("one token", "several tokens", "shared first tokens", "very different lengths")


@torch.no_grad()
def brute_force(model: Any, requests: Sequence[Request]) -> list[np.ndarray]:
    """One full forward per option through an ordinary transformers (or peft) model."""
    found = []
    for r in requests:
        sums = []
        for option in r.options:
            ids = torch.tensor([[*r.context.tolist(), *option.tolist()]])
            logprobs = model(input_ids=ids).logits[0].double().log_softmax(-1)
            sums.append(float(logprobs[len(r.context) - 1 : -1].gather(1, ids[0, len(r.context) :, None]).sum()))
        found.append(np.array(sums))
    return found


def assert_close(got: Sequence[np.ndarray], expected: Sequence[np.ndarray], tolerance: float) -> None:
    assert [len(a) for a in got] == [len(b) for b in expected]
    np.testing.assert_allclose(np.concatenate(list(got)), np.concatenate(list(expected)), atol=tolerance, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_scores_equal_one_forward_per_option(kind: str) -> None:
    requests = some_requests(kind)
    model = slotted(make_llama(), [Lora(r=2)])
    with torch.no_grad():
        for layer in model.layers.values():
            layer.B.zero_()
    scores = option_logprobs(model, requests, [0] * len(requests), token_budget=300)
    assert sharing_is_exact(model, requests, [0] * len(requests)), "the fast way was not taken"
    assert_close(scores, brute_force(make_llama(), requests), 1e-4)


def test_every_slot_scores_as_its_adapter_alone_in_peft() -> None:
    model = slotted(make_llama())
    requests = [*some_requests("shared first tokens", 9), *some_requests("one token", 6)]
    slots = [slot for slot in range(3) for _ in requests]
    order = np.random.default_rng(0).permutation(len(slots))  # slots come mixed
    mixed = [(requests * 3)[i] for i in order]
    scores = option_logprobs(model, mixed, [slots[i] for i in order])
    got = dict(zip(order.tolist(), scores, strict=True))
    expected = [x for slot, lora in enumerate(LORAS) for x in brute_force(peft_alone(model, slot, lora), requests)]
    assert_close([got[i] for i in range(len(slots))], expected, 1e-4)
    assert np.abs(np.concatenate(expected[:15]) - np.concatenate(expected[15:30])).max() > 0.01, (
        "the adapters do not differ"
    )


@pytest.mark.parametrize("kind", KINDS)
def test_budget_and_sharing_do_not_change_the_scores(kind: str) -> None:
    model, requests = slotted(make_llama()), some_requests(kind)
    slots = [i % 3 for i in range(len(requests))]
    reference = option_logprobs(model, requests, slots, token_budget=4096, share=False)
    for budget in (1, 100, 1000, 100_000):
        assert_close(option_logprobs(model, requests, slots, token_budget=budget), reference, 1e-5)


@pytest.mark.parametrize("share", [False, None])
def test_how_much_is_done_is_told_batch_by_batch(share: bool | None) -> None:
    model, requests, told = slotted(make_llama()), some_requests("several tokens"), list[float]()
    silent = option_logprobs(model, requests, [0] * len(requests), token_budget=60, share=share)
    telling = option_logprobs(model, requests, [0] * len(requests), token_budget=60, share=share, tell=told.append)
    assert_close(telling, silent, 0.0)
    assert len(told) > 2
    assert told == sorted(told)
    assert (told[0] < 0.5, told[-1]) == (True, 1.0)


def test_eager_attention_gives_the_same() -> None:
    requests, base = some_requests("several tokens"), make_llama()
    base.set_attn_implementation("eager")
    model = slotted(base)
    assert sharing_is_exact(model, requests, [0] * len(requests))
    reference = option_logprobs(slotted(make_llama()), requests, [1] * len(requests))
    assert_close(option_logprobs(model, requests, [1] * len(requests)), reference, 1e-5)


def test_a_model_with_a_sliding_window_is_scored_the_plain_way_and_exactly() -> None:
    from transformers import MistralConfig, MistralForCausalLM

    torch.manual_seed(0)
    sizes = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    }
    base = MistralForCausalLM(MistralConfig(vocab_size=256, sliding_window=8, **sizes)).eval()
    requests = some_requests("several tokens", 8)
    expected = brute_force(copy.deepcopy(base), requests)
    model = SlotModel(base, 1, 2, ["all-linear"]).eval()
    scores = option_logprobs(model, requests, [0] * len(requests))
    assert not sharing_is_exact(model, requests, [0] * len(requests))
    assert_close(scores, expected, 1e-4)


@pytest.mark.parametrize("family", ["gpt2", "bloom", "gpt_neox", "qwen2"])
def test_other_architectures_are_exact_too(family: str) -> None:
    """Learned positions, ALiBi (made from the mask, so nothing can be shared), partial rotary, biases."""
    from transformers import AutoModelForCausalLM, BloomConfig, GPT2Config, GPTNeoXConfig, Qwen2Config

    torch.manual_seed(0)
    common = {
        "vocab_size": 256,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
    }
    config: Any = {
        "gpt2": lambda: GPT2Config(vocab_size=256, n_embd=32, n_layer=2, n_head=4, n_positions=128),
        "bloom": lambda: BloomConfig(vocab_size=256, hidden_size=32, n_layer=2, n_head=4),
        "gpt_neox": lambda: GPTNeoXConfig(**common),
        "qwen2": lambda: Qwen2Config(**common, num_key_value_heads=2),
    }[family]()
    base = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in base.parameters():
            parameter.mul_(3)  # far from uniform, so that a wrong mask or position shows
    requests = some_requests("shared first tokens", 6)
    expected = brute_force(copy.deepcopy(base), requests)
    model = SlotModel(base, 1, 2, []).eval()
    assert_close(option_logprobs(model, requests, [0] * len(requests)), expected, 1e-3)


@pytest.mark.parametrize("family", ["gpt2", "opt"])
@pytest.mark.parametrize("first", ["short", "tight"])
def test_no_position_is_beyond_those_that_the_model_has(family: str, first: str) -> None:
    """Learned positions, 64; every sequence has at most 62 tokens, but options side by side and heads before other
    tails have more. Whether it is the tight ones on which sharing is tried, or short ones before."""
    from transformers import AutoModelForCausalLM, GPT2Config, OPTConfig

    torch.manual_seed(0)
    common = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "ffn_dim": 64}
    config: Any = {
        "gpt2": lambda: GPT2Config(vocab_size=256, n_embd=32, n_layer=2, n_head=4, n_positions=64),
        "opt": lambda: OPTConfig(vocab_size=256, max_position_embeddings=64, word_embed_proj_dim=32, **common),
    }[family]()
    base = AutoModelForCausalLM.from_config(config).eval()
    rng = np.random.default_rng(0)

    def some(n: int) -> list[int]:
        return rng.integers(3, 250, n).tolist()

    head, short = some(44), some(20)
    tight = [
        *(request(rng, some(n), [some(8) for _ in range(4)]) for n in (50, 48)),
        *(request(rng, some(n), [some(k) for _ in range(5)]) for n, k in ((40, 7), (44, 6))),
        *(request(rng, head + some(n), [some(1), some(1)]) for n in (2, 3)),
        *(request(rng, short + some(n), [some(1), some(1)]) for n in (40, 38)),
    ]
    expected = brute_force(copy.deepcopy(base), tight)
    model = SlotModel(base, 1, 2, []).eval()
    if first == "short":
        option_logprobs(model, [request(rng, some(10), [some(1), some(1)])], [0])
    assert_close(option_logprobs(model, tight, [0] * len(tight)), expected, 1e-4)
    assert sharing_is_exact(model, tight, [0] * len(tight))


@pytest.mark.parametrize("mask", ["right", "wrong"])
def test_bfloat16_rounding_of_large_logits_is_told_from_a_wrong_mask(
    mask: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    real = scoring._tree_mask
    if mask == "wrong":  # an option sees those beside it
        monkeypatch.setattr(scoring, "_tree_mask", lambda branch, *rest: real(torch.zeros_like(branch), *rest))
    sizes = {"intermediate_size": 256, "num_hidden_layers": 6, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = LlamaConfig(vocab_size=256, hidden_size=128, initializer_range=0.08, **sizes)
    requests = some_requests("several tokens")
    context = torch.from_numpy(requests[0].context.astype(np.int64))[None]
    for seed, largest in enumerate((8, 16, 24, 32)):
        torch.manual_seed(seed)
        base = LlamaForCausalLM(config)
        with torch.no_grad():
            base.lm_head.weight.mul_(largest / float(base(context).logits.abs().amax(-1).median()))
        model = SlotModel(base.bfloat16().eval(), 1, 2, []).eval()
        assert sharing_is_exact(model, requests, [0] * len(requests)) == (mask == "right"), f"logits up to {largest}"


def test_scores_equal_lm_eval(shared: Path) -> None:
    import transformers

    # lm-eval 0.4.9 names a class that transformers 5 has renamed.
    transformers.AutoModelForVision2Seq = transformers.AutoModelForImageTextToText  # type: ignore[attr-defined]
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    folder = shared / "models" / "stories260K"
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    base = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    texts = [
        "Tom saw a cat.",
        "Lily was sad because she lost her doll in the park.",
        "The sun was hot",
        'Mom said: "Let\'s go home!"',
    ]
    prompts = [
        Prompt("a", "{{ text }}\nIs this a happy story?"),
        Prompt("b", "Tell me whether the child in this story is happy.\n{{ text }}"),
    ]
    words = (("yes", " yes"), ("no", " no, not at all"), ("perhaps", " nobody can tell"))
    renderer = Renderer(tokenizer, Template("plain", words=words), Task(labels=("yes", "no", "perhaps")))
    pairs = [(p, Row(str(i), {"text": t}, "yes")) for p in prompts for i, t in enumerate(texts)]
    requests = renderer.requests(pairs)
    peer = HFLM(pretrained=copy.deepcopy(base), tokenizer=tokenizer, device="cpu", batch_size=4, add_bos_token=True)
    asked = [
        Instance("loglikelihood", {}, (c.text, word), 0) for c in renderer.texts.contexts(pairs) for _, word in words
    ]
    expected = np.array([x[0] for x in peer.loglikelihood(asked, disable_tqdm=True)]).reshape(-1, 3)
    model = SlotModel(base, 1, 4, ["all-linear"]).eval()
    assert_close(option_logprobs(model, requests, [0] * len(requests)), list(expected), 1e-4)


def test_classification_heads_of_all_slots() -> None:
    model, requests = slotted(make_llama(), n_labels=3), some_requests("one token", 8)
    got = class_logprobs(model, requests * 3, [slot for slot in range(3) for _ in requests], token_budget=200)
    assert got.shape == (24, 3)
    with torch.no_grad():
        for slot in range(3):
            alone = slotted(make_llama())
            for i, r in enumerate(requests):
                alone.routing.slots, alone.routing.only = torch.tensor([slot]), None
                alone.routing.length = len(r.context)
                hidden = alone.base.model(input_ids=torch.tensor(r.context[None].astype(np.int64))).last_hidden_state[
                    0, -1
                ]  # type: ignore[union-attr]
                expected = (model.head[slot] @ hidden).log_softmax(-1)
                np.testing.assert_allclose(got[slot * 8 + i], expected.numpy(), atol=1e-4)


def test_memory_that_does_not_suffice_halves_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    model, requests = slotted(make_llama()), some_requests("several tokens")
    slots = [i % 3 for i in range(len(requests))]
    reference = option_logprobs(model, requests, slots)
    forward, sizes = SlotModel.forward, []

    def limited(self: SlotModel, batch: Any, cache: Any = None) -> Any:
        if batch.input_ids.numel() > 150:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB")
        sizes.append(batch.input_ids.numel())
        return forward(self, batch, cache)

    monkeypatch.setattr(SlotModel, "forward", limited)
    assert_close(option_logprobs(model, requests, slots), reference, 1e-5)
    assert len(sizes) > 3

    def hopeless(self: SlotModel, batch: Any, cache: Any = None) -> Any:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(SlotModel, "forward", hopeless)
    with pytest.raises(RuntimeError, match="DefaultCPUAllocator"):
        option_logprobs(model, requests, slots)


def test_other_errors_are_not_taken_for_exhausted_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    model, requests = slotted(make_llama()), some_requests("one token", 3)
    option_logprobs(model, requests, [0, 1, 2])

    def broken(self: SlotModel, batch: Any, cache: Any = None) -> Any:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(SlotModel, "forward", broken)
    with pytest.raises(RuntimeError, match="shapes"):
        option_logprobs(model, requests, [0, 1, 2])


def test_weights_that_are_nan_give_nan_not_an_error() -> None:
    model, requests = slotted(make_llama()), some_requests("several tokens", 6)
    with torch.no_grad():
        next(iter(model.layers.values())).B[1] = torch.nan
    scores = option_logprobs(model, requests * 2, [0] * 6 + [1] * 6)
    assert np.isfinite(np.concatenate(scores[:6])).all()
    assert np.isnan(np.concatenate(scores[6:])).all()


def test_nothing_to_score_and_requests_that_cannot_be_scored() -> None:
    model = slotted(make_llama())
    assert option_logprobs(model, [], []) == []
    rng = np.random.default_rng(0)
    for context, options in (([], [[3]]), ([1, 2], []), ([1, 2], [[3], []])):
        with pytest.raises(ValueError, match="row r, prompt p"):
            option_logprobs(model, [request(rng, context, options)], [0], share=True)


def test_scoring_twice_gives_the_same_bits() -> None:
    model, requests = slotted(make_llama()), some_requests("shared first tokens")
    slots = [i % 3 for i in range(len(requests))]
    first, second = (np.concatenate(option_logprobs(model, requests, slots)) for _ in range(2))
    assert (first == second).all()


# What is shared ------------------------------------------------------------------------------------------------------


def test_labels_of_one_token_cost_one_position_and_options_share_their_context() -> None:
    rng = np.random.default_rng(0)
    (line,) = lines_of([request(rng, range(5, 25), [[1], [2], [3]])], [0])
    assert (len(line.ids), line.wanted) == (20, 1)
    (line,) = lines_of([request(rng, range(5, 25), [[1, 2, 3], [4, 5]])], [0])
    assert line.ids.tolist() == [*range(5, 25), 1, 2, 4]
    assert line.wanted == 4
    apart = lines_of([request(rng, range(5, 25), [[1, 2, 3], [4, 5]])], [0], share=False)
    assert [x.ids.tolist() for x in apart] == [[*range(5, 25), 1, 2], [*range(5, 25), 4]]


def test_best_groups_save_the_most_tokens() -> None:
    # Items 0-2 have 20 tokens in common; 0 and 1, 30. Three with 20 save 40, two with 30 save 30.
    assert best_groups([0, 30, 20, 0, 16]) == [([0, 1, 2], 20), ([3, 4], 16)]
    # Three with 20 save 40, two with 50 save 50.
    assert best_groups([0, 50, 20]) == [([0, 1], 50)]
    # What a longer head leaves over has a head of its own, on both sides of it.
    assert best_groups([0, 20, 90, 20]) == [([0, 3], 20), ([1, 2], 90)]
    assert best_groups([0, 0, 0]) == []
    assert best_groups([]) == best_groups([0]) == []


def test_best_groups_against_all_divisions_into_runs() -> None:
    def best(lengths: Sequence[int]) -> int:
        value = [0] * (len(lengths) + 1)
        for stop in range(1, len(lengths) + 1):
            value[stop] = max(value[a] + (stop - a - 1) * min(lengths[a + 1 : stop], default=0) for a in range(stop))
        return value[-1]

    rng = np.random.default_rng(0)
    for _ in range(300):
        lengths = [0, *(int(x) for x in rng.choice([0, 16, 17, 20, 35, 90], size=int(rng.integers(0, 12))))]
        groups = best_groups(lengths)
        items = [i for members, _ in groups for i in members]
        assert len(items) == len(set(items))
        assert all(min(lengths[members[0] + 1 : members[-1] + 1]) >= n for members, n in groups)
        assert sum((len(members) - 1) * n for members, n in groups) >= 0.9 * best(lengths)


def test_heads_are_per_slot_long_enough_and_leave_the_last_token() -> None:
    rng = np.random.default_rng(0)
    long = list(range(3, 3 + SHORTEST_HEAD + 4))
    requests = [request(rng, c, [[1]]) for c in (long, long, [*long, 9], long[:5], long[:5])]
    heads = heads_of(requests, [0] * 5)
    assert sorted(heads) == [0, 1, 2]
    assert {len(h.ids) for h in heads.values()} == {len(long) - 1}
    assert not heads_of(requests[:2], [0, 1]), "two slots have different keys and values for the same tokens"


def test_waves_hold_every_line_once_within_the_budget() -> None:
    requests = some_requests("several tokens", 60)
    lines = lines_of(requests, [i % 2 for i in range(60)])
    seen = []
    for wave in waves(lines, 200, 40):
        longest = max((len(h.ids) for h in wave.heads), default=0)
        assert len(wave.heads) * longest <= 200
        for batch in wave.batches:
            assert len(batch) * (longest + max(len(x.ids) for x in batch)) <= 200 or len(batch) == 1
            assert sum(x.wanted for x in batch) <= 40 or len(batch) == 1
            assert {x.slot for x in batch} == {wave.slot}
            seen += [id(x) for x in batch]
    assert sorted(seen) == sorted(id(x) for x in lines)


def test_tokens_with_padding_are_at_least_those_of_the_lines() -> None:
    def asked(context: list[int], options: list[list[int]]) -> Request:
        return request(np.random.default_rng(0), context, options)

    alike = [asked([5] * 8, [[1]]) for _ in range(6)]
    uneven = [asked([5] * n, [[1]]) for n in (3, 8, 13)]
    one, other = lines_of(alike, [0] * 6, share=False), lines_of(uneven, [0] * 3, share=False)
    assert padded_tokens(one, 1000, 1000) == tokens_of(one) == 6 * 8
    assert (padded_tokens(other, 1000, 1000), tokens_of(other)) == (3 * 13, 3 + 8 + 13)
    shared = lines_of([asked([5] * 20 + [k], [[1]]) for k in range(4)], [0] * 4)
    assert padded_tokens(shared, 1000, 1000) == tokens_of(shared) == 20 + 4


# What the decision rules compare against -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def renderer(tmp_path_factory: pytest.TempPathFactory) -> Renderer:
    return Renderer(word_tokenizer(), Template("plain"), Task(labels=("yes", "no")))


def word_tokenizer() -> Any:
    """Bytes as tokens: every text has ids, and they can be read."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({**{"<s>": 0, "</s>": 1}, **{c: i + 2 for i, c in enumerate(alphabet)}}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")


def test_unconditional_is_the_bare_marker_once(renderer: Renderer) -> None:
    pairs = [
        (Prompt(p, "{{ text }} " + p), Row(str(i), {"text": f"row {i}"}, "yes")) for p in ("a", "b") for i in range(3)
    ]
    baseline = baseline_for("pmi", renderer, pairs)
    assert baseline is not None
    assert [renderer.tokenizer.decode(r.context.tolist()) for r in baseline.requests] == ["\nAnswer:"]
    assert [x.tolist() for x in baseline.expand([np.array([-1.0, -2.0])])] == [[-1.0, -2.0]] * 6


def test_unconditional_asks_once_per_set_of_options() -> None:
    renderer = Renderer(word_tokenizer(), Template("plain"), Task())
    rows = [
        Row("0", {"text": "x"}, "0", ("a", "b")),
        Row("1", {"text": "y"}, "0", ("c", "d", "e")),
        Row("2", {"text": "z"}, "1", ("a", "b")),
    ]
    baseline = baseline_for("pmi", renderer, [(Prompt("p", "{{ text }}"), row) for row in rows])
    assert baseline is not None
    assert [len(r.options) for r in baseline.requests] == [2, 3]
    assert baseline.index.tolist() == [0, 1, 0]


def test_content_free_replaces_the_fields_of_every_prompt(renderer: Renderer) -> None:
    pairs = [
        (Prompt(p, p + " {{ text }}?"), Row(str(i), {"text": f"row {i}"}, "yes")) for p in ("a", "b") for i in range(3)
    ]
    baseline = baseline_for("contextual", renderer, pairs)
    assert baseline is not None
    texts = [renderer.tokenizer.decode(r.context.tolist()) for r in baseline.requests]
    assert texts == [f"{p} {x}?\nAnswer:" for p in ("a", "b") for x in ("N/A", "", "[MASK]")]
    expanded = baseline.expand([np.array([float(i), 0.0]) for i in range(6)])
    assert [x[:, 0].tolist() for x in expanded] == [[0, 1, 2]] * 3 + [[3, 4, 5]] * 3


def test_the_plain_way_is_the_fallback_of_a_model_that_ignores_position_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    model, requests = slotted(make_llama()), some_requests("several tokens", 6)
    rotary = model.base.model.rotary_emb  # type: ignore[union-attr]
    forward = rotary.forward
    monkeypatch.setattr(rotary, "forward", lambda x, position_ids: forward(x, torch.arange(x.shape[1])[None]))
    assert not sharing_is_exact(model, requests, [0] * 6)
    assert_close(option_logprobs(model, requests, [0] * 6), option_logprobs(model, requests, [0] * 6, share=False), 0)
    assert model in scoring._SHARING
