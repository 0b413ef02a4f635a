"""The starter wordings: how many, how different, and that each shows the row and names the labels."""

import re
from importlib.resources import files
from itertools import combinations

import pytest
import yaml

from sweeps.init.wordings import starter_pools, with_own
from trainer.data.likeness import Likeness, similarity
from trainer.data.wording import Prompt, fill
from trainer.errors import UserError

LABELS = ["spam", "ham"]


@pytest.mark.parametrize(("kind", "least"), [("classify", 60), ("choose", 40)])
def test_starters_are_many_and_truly_different(kind, least):
    pools = yaml.safe_load((files("sweeps.init") / "starters" / f"{kind}.yaml").read_text("utf-8"))
    texts = {name: text for pool in pools.values() for name, text in pool.items()}
    assert list(pools) == ["train", "dev", "test"]
    assert len(texts) == sum(map(len, pools.values())) >= least
    bare = [Likeness.of(re.sub(r"<(\w+)>", r" \1 ", text)) for text in texts.values()]
    assert max(similarity(a, b) for a, b in combinations(bare, 2)) <= 0.6


def test_each_classifying_starter_shows_the_text_and_both_labels():
    for pool in starter_pools(["text"], LABELS, 0).values():
        for prompt in pool:
            text = fill(prompt, {"text": "XYZ"}).text
            assert "XYZ" in text
            assert "spam" in text
            assert text.replace("spam", "").count("ham") >= 1, prompt.id
            assert "<" not in text.replace("<xml>", "").replace("<body>", "").split("XYZ")[0] or prompt.id == "d07"


def test_each_choosing_starter_shows_the_question_and_every_option():
    for pool in starter_pools(["context", "question"], [], 3).values():
        for prompt in pool:
            text = fill(prompt, {"context": "CCC", "question": "QQQ"}, ("one", "two", "three")).text
            assert all(part in text for part in ("Context: CCC", "Question: QQQ", "one", "two", "three")), prompt.id


def test_labels_with_commas_stay_apart_and_braces_stay_as_they_are():
    pools = starter_pools(["text"], ["threats, plans", "{{ none }}"], 0)
    texts = [fill(p, {"text": "x"}).text for pool in pools.values() for p in pool]
    assert any("threats, plans; {{ none }}" in text for text in texts)
    assert not any("threats, plans, {{ none }}" in text for text in texts)


def test_starters_begin_with_the_question():
    pools = starter_pools(["text"], ["yes", "no"], 0, "Is it spam?")
    assert all(p.text.startswith("Is it spam?\n") for pool in pools.values() for p in pool)


def test_own_wordings_come_first_and_push_out_starters_that_are_nearly_the_same():
    starters = starter_pools(["text"], LABELS, 0)
    copied = starters["test"][0].text
    own = [Prompt("mine", "I keep a list. Is what follows unwanted advertising? {{ text }}"), Prompt("copied", copied)]
    pools = with_own(own, starters, ["text"])
    assert [p.id for p in pools["train"][:2]] == ["mine", "copied"]
    assert copied not in [p.text for p in pools["test"]]
    assert len(pools["test"]) == len(starters["test"]) - 1


def test_with_long_labels_no_two_pools_share_nearly_the_same_wording():
    labels = ["animosity", "derogation", "none", "prejudiced discussions", "threats, plans to harm and incitement"]
    pools = with_own([], starter_pools(["text"], labels, 0), ["text"])
    assert all(len(pool) >= 8 for pool in pools.values())
    for a, b in combinations(pools, 2):
        pairs = [(Likeness.of(x.text), Likeness.of(y.text)) for x in pools[a] for y in pools[b]]
        assert max(similarity(x, y) for x, y in pairs) < 0.8


@pytest.mark.parametrize(
    ("text", "says"), [("Is it spam?", "shows nothing of the row"), ("Spam? {{ txt }}", 'Did you mean "text"')]
)
def test_an_own_wording_without_the_text_is_refused(text, says):
    with pytest.raises(UserError, match=says):
        with_own([Prompt("mine", text)], starter_pools(["text"], LABELS, 0), ["text"])
