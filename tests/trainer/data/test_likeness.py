"""Near duplicates: what counts as one, and that groups do not touch."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.data.likeness import Likeness, clusters, near, normal_form, similarity
from trainer.data.pools import split_pool
from trainer.data.wording import Prompt

CHINESE = "\u8fd9\u6761\u6d88\u606f\u662f\u5426\u5728\u62b1\u6028"
CUTS = [(6, 2, 2), (1, 1, 1), (90, 5, 5), (1, 0, 9)]
Texts = st.lists(st.sampled_from(["a", "b", "c", "{{ text }}", "d"]), max_size=12).map(" ".join)


def alike(a: str, b: str) -> bool:
    return near(Likeness.of(a), Likeness.of(b))


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("Is this a complaint? {{ text }}", "is this a COMPLAINT:\n{{text}}"),
        ("Is the writer of it unhappy? {{ text }}", "Is the author of it unhappy? {{ text }}"),
        ("Is it {{ text }} sad", "Is it {{ text }} sad now"),  # five tokens, then six: one edit in six
        ("Read it. Say yes if they are sad, else no. {{ t }}", "{{ t }} Read it. Say yes if they are sad, else no."),
        (
            f"{CHINESE} {{{{ text }}}}",
            f"{CHINESE}\u5417 {{{{ text }}}}",
        ),  # a character more, in a script without spaces
        ("", ""),
    ],
)
def test_near_duplicates(a: str, b: str) -> None:
    assert alike(a, b)
    assert alike(b, a)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("Is this a complaint? {{ text }}", "Is this sexist? {{ text }}"),
        ("Is it good? {{ text }}", "Is it good? {{ title }}"),
        ("Would you call the writer upset? {{ text }}", "{{ text }}\nSomebody complains here, am I right?"),
        (CHINESE, "\u4f5c\u8005\u4e0d\u9ad8\u5174\u5417"),
        ("a", ""),
    ],
)
def test_different_wordings(a: str, b: str) -> None:
    assert not alike(a, b)


def test_similarity_by_hand() -> None:
    a, b = Likeness.of("one two three four five"), Likeness.of("one two THREE, four six!")
    assert similarity(a, b) == pytest.approx(0.8)  # one of five tokens; pairs share 3 of 5
    assert similarity(a, Likeness.of("five")) == pytest.approx(0.2)
    turned = Likeness.of("four five one two three")
    assert similarity(a, turned) == pytest.approx(3 / 5)  # pairs: 12 23 45 of 12 23 34 45 51
    assert similarity(Likeness.of(""), Likeness.of("")) == 1.0
    assert normal_form("{{a}}?") == "{{a}}"


def levenshtein(a: tuple[str, ...], b: tuple[str, ...]) -> int:
    if not a or not b:
        return len(a) + len(b)
    return min(
        levenshtein(a[1:], b) + 1, levenshtein(a, b[1:]) + 1, levenshtein(a[1:], b[1:]) + (a[0] != b[0])
    )  # fmt: skip


@given(st.tuples(*[st.lists(st.sampled_from("abc"), max_size=5).map(" ".join)] * 2))
def test_similarity_against_the_definition(texts: tuple[str, str]) -> None:
    a, b = map(Likeness.of, texts)
    longest = max(len(a.tokens), len(b.tokens))
    edit = 1 - levenshtein(a.tokens, b.tokens) / longest if longest else 1.0
    either = a.pairs | b.pairs
    jaccard = len(a.pairs & b.pairs) / len(either) if either else 0.0
    assert similarity(a, b) == pytest.approx(max(edit, jaccard))


@given(st.lists(Texts, max_size=8))
def test_groups_hold_every_text_once_and_do_not_touch(texts: list[str]) -> None:
    groups = clusters(texts)
    assert sorted(i for g in groups for i in g) == list(range(len(texts)))
    assert [g[0] for g in groups] == sorted(g[0] for g in groups)
    for n, group in enumerate(groups):
        assert group == sorted(group)
        for other in groups[n + 1 :]:
            assert not any(alike(texts[i], texts[j]) for i in group for j in other)
        reached = {group[0]}  # a group hangs together
        for _ in group:
            reached |= {j for j in group if any(alike(texts[i], texts[j]) for i in reached)}
        assert reached == set(group)


@given(st.lists(Texts, min_size=1, max_size=14), st.integers(0, 5), st.sampled_from(CUTS))
def test_a_split_leaves_no_near_duplicates_across_and_no_pool_empty(
    texts: list[str], seed: int, cut: tuple[int, ...]
) -> None:
    prompts = [Prompt(f"p{i:02d}", text) for i, text in enumerate(texts)]
    shares = dict(zip(("train", "dev", "test"), map(float, cut), strict=True))
    wanted = [n for n, s in shares.items() if s]
    if len(clusters(texts)) < len(wanted):
        return
    dealt = split_pool(prompts, shares, seed)
    assert sorted(p.id for pool in dealt.values() for p in pool) == [p.id for p in prompts]
    assert all(bool(dealt[n]) == (n in wanted) for n in dealt)
    for n, pool in dealt.items():
        others = [p for m, other in dealt.items() if m != n for p in other]
        assert not any(alike(p.text, o.text) for p in pool for o in others)
    assert split_pool(prompts[::-1], shares, seed) == {n: pool[::-1] for n, pool in dealt.items()}


def test_shares_are_kept_where_groups_allow_it() -> None:
    """A group of 4 of 20 goes where there is most room; the sizes are those of single prompts all the same."""
    same = [Prompt(f"s{i}", f"Is the writer of this unhappy today{'!' * i} {{{{ text }}}}") for i in range(4)]
    words = ("alpha beta gamma", "delta epsilon zeta", "eta theta iota", "kappa lambda mu")
    single = [Prompt(f"u{i}{j}", f"{a} {b} {i}{j}") for i, a in enumerate(words) for j, b in enumerate(words)]
    for seed in range(6):
        dealt = split_pool(same + single, {"train": 0.6, "dev": 0.2, "test": 0.2}, seed)
        assert {n: len(p) for n, p in dealt.items()} == {"train": 12, "dev": 4, "test": 4}
