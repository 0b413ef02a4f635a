"""The quickstart's model, rows and pools are small, disjoint, reproducible, and usable without a network."""

from __future__ import annotations

import difflib
import itertools
import json
import re
from pathlib import Path

import pytest
import yaml

from sweeps.embedded import make_data
from sweeps.embedded.corpus import documents

FOLDER = Path(make_data.__file__).parent
SPLITS = ("train", "dev", "test")
PLACEHOLDER = "{{ text }}"
# Highest likeness of two wordings, over the words around the text; one sentence with slots filled gives 0.7 and more.
MAX_RATIO, MAX_JACCARD = 0.60, 0.42


def rows(split: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in (FOLDER / "data" / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()]


def pool(split: str) -> dict[str, str]:
    found: dict[str, str] = yaml.safe_load((FOLDER / "data" / "pools" / f"{split}.yaml").read_text(encoding="utf-8"))
    return found


def wordings() -> dict[str, str]:
    return {key: text for split in SPLITS for key, text in pool(split).items()}


def words(text: str) -> list[str]:
    return re.findall(r"[a-z]+", text.replace(PLACEHOLDER, " ").lower())


@pytest.mark.parametrize("split", SPLITS)
def test_rows_have_their_size_and_balance(split: str) -> None:
    found = rows(split)
    assert len(found) == make_data.SIZES[split]
    assert all(set(row) == {"id", "text", "label"} and row["label"] in (0, 1) for row in found)
    assert len({row["id"] for row in found}) == len(found)
    assert 0.40 <= sum(int(str(row["label"])) for row in found) / len(found) <= 0.50


def test_no_text_occurs_twice_in_any_split() -> None:
    texts = [str(row["text"]).lower() for split in SPLITS for row in rows(split)]
    assert len(set(texts)) == len(texts)


def test_the_generator_writes_the_committed_bytes() -> None:
    for name, messages in make_data.splits().items():
        assert make_data.jsonl(name, messages).encode() == (FOLDER / "data" / f"{name}.jsonl").read_bytes()


def test_the_same_clause_occurs_under_both_labels() -> None:
    """Denials, mended faults and other people's anger: the same clause occurs in messages of both labels."""
    train = rows("train")
    for clause in ("was burnt", "is broken again", "was delicious", "was so kind"):
        assert {row["label"] for row in train if clause in str(row["text"]).lower()} == {0, 1}, clause


def test_pools_have_their_sizes_and_share_nothing() -> None:
    pools = {split: pool(split) for split in SPLITS}
    assert len(pools["train"]) >= 40
    assert len(pools["dev"]) == 10
    assert len(pools["test"]) == 20
    assert len(wordings()) == sum(map(len, pools.values())), "an id occurs in two pools"
    assert len({" ".join(words(text)) for text in wordings().values()}) == len(wordings())


def test_every_wording_holds_the_text_once_and_nothing_else_to_fill() -> None:
    for key, text in wordings().items():
        assert text.count(PLACEHOLDER) == 1, key
        assert not re.search(r"\{\{|\}\}|\{%|\{#", text.replace(PLACEHOLDER, "")), key


def test_no_two_wordings_are_near_duplicates() -> None:
    for (a, first), (b, second) in itertools.combinations(wordings().items(), 2):
        x, y = words(first), words(second)
        jaccard = len(set(x) & set(y)) / len(set(x) | set(y))
        ratio = difflib.SequenceMatcher(None, " ".join(x), " ".join(y), autojunk=False).ratio()
        assert jaccard <= MAX_JACCARD, (a, b, jaccard)
        assert ratio <= MAX_RATIO, (a, b, ratio)


def test_both_orders_and_several_formats_occur_in_each_pool() -> None:
    for split in SPLITS:
        texts = list(pool(split).values())
        assert any(t.startswith(PLACEHOLDER) for t in texts)
        assert any(t.endswith(PLACEHOLDER) for t in texts)
        assert any("\n" in t for t in texts)
        assert any('"' in t for t in texts)


def test_pretraining_never_sees_a_dev_or_test_wording() -> None:
    """No five consecutive words of such a prompt occur in the corpus, and no row does."""

    def runs(text: str) -> set[tuple[str, ...]]:
        return {tuple(part[i : i + 5]) for part in map(words, text.split(PLACEHOLDER)) for i in range(len(part) - 4)}

    wanted = {run for split in ("dev", "test") for text in pool(split).values() for run in runs(text)}
    corpus = list(documents(6000))
    assert not wanted & {run for document in corpus for run in runs(document)}
    texts = {str(row["text"]) for split in SPLITS for row in rows(split)}
    assert not texts & set(corpus)


def test_the_model_loads_offline_knows_its_language_and_answers_yes_or_no(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    assert (FOLDER / "model" / "model.safetensors").stat().st_size <= 5e6
    tokenizer = transformers.AutoTokenizer.from_pretrained(FOLDER / "model")
    model = transformers.AutoModelForCausalLM.from_pretrained(FOLDER / "model").eval()
    assert len({tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id}) == 3
    answers = [tokenizer(word, add_special_tokens=False)["input_ids"] for word in (" yes", " no", "yes", "no")]
    assert all(len(a) == 1 for a in answers), "each answer is one token"
    nats, tokens = 0.0, 0
    for row in rows("dev")[:60]:  # no row was in the corpus
        ids = tokenizer(str(row["text"]), return_tensors="pt")["input_ids"]
        with torch.no_grad():
            nats += float(model(input_ids=ids, labels=ids).loss) * (ids.shape[1] - 1)
        tokens += ids.shape[1] - 1
    assert nats / tokens < 1.6, "nats per token on unseen messages"
    asked = tokenizer("The soup was cold.\nIs there a question mark?\nAnswer:", return_tensors="pt")
    with torch.no_grad():
        chances = model(**asked).logits[0, -1].softmax(-1)
    assert sum(float(chances[a[0]]) for a in answers[:2]) > 0.9, "where an answer is due, it is yes or no"


def test_the_chat_template_takes_all_three_roles_and_extends_its_prompt() -> None:
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(FOLDER / "model")
    asked = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Is it late?"}]
    prompt = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_dict=False)
    whole = tokenizer.apply_chat_template([*asked, {"role": "assistant", "content": "yes"}], return_dict=False)
    assert tokenizer.decode(whole) == "<s><|system|>Be brief.<|user|>Is it late?<|assistant|>yes</s>"
    assert whole[: len(prompt)] == prompt
    assert len(whole) == len(prompt) + 2
    assert whole.count(tokenizer.bos_token_id) == 1
    assert tokenizer("Is it late?")["input_ids"].count(tokenizer.bos_token_id) == 1
