"""Prompt and row to token ids: exact ids, kinds, and that batching and caching change nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from checkout import SHARED
from hypothesis import given, settings
from hypothesis import strategies as st
from small_tokenizers import CHAT, WORDS, byte_level, llama_like, word_level, wrapped
from tokenizers import Tokenizer, decoders, models, processors

from trainer.data.boundary import KNOWN_PATTERNS, Boundary
from trainer.data.render import Renderer
from trainer.data.rows import Row
from trainer.data.texts import PLAIN_MARKER, RenderError
from trainer.data.tokenizer import load_tokenizer
from trainer.data.wording import Prompt
from trainer.trial import Model, Task, Template

TASK = Task(labels=("no", "yes"), max_length=200)
PROMPT = Prompt("p1", "Is it {{ text }}?")
ROW = Row("r1", {"text": "good"}, "yes")
PLAIN = Template("plain", words=(("no", " no"), ("yes", " yes")))
LLAMA3 = next(p for p in KNOWN_PATTERNS if "{1,3}" in p)
QWEN = next(p for p in KNOWN_PATTERNS if "{1,3}" not in p)
TOKENIZERS = {
    "words": word_level,
    "gpt2": byte_level,
    "llama3": lambda: byte_level(LLAMA3, True),
    "qwen": lambda: byte_level(QWEN),
    "llama2": llama_like,
}


def ids(*words: str) -> list[int]:
    return [WORDS.index(w) for w in words]


# exact ids -------------------------------------------------------------------------------------------------------


def test_plain_ids_and_kinds_by_hand() -> None:
    example = Renderer(word_level(), PLAIN, TASK).example(PROMPT, ROW)
    assert example.ids.tolist() == ids("<s>", "Is", " ", "it", " ", "good", "?", "\n", "Answer", ":", " yes", "</s>")
    assert example.kinds.tolist() == [0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 2, 2]
    assert (example.ids.dtype, example.kinds.dtype) == (np.int32, np.int8)
    assert (example.row_id, example.prompt_id) == ("r1", "p1")


def test_plain_request_by_hand() -> None:
    request = Renderer(word_level(), PLAIN, TASK).request(PROMPT, ROW)
    assert request.context.tolist() == ids("<s>", "Is", " ", "it", " ", "good", "?", "\n", "Answer", ":")
    assert [o.tolist() for o in request.options] == [ids(" no"), ids(" yes")]
    assert (request.label, request.option_bytes) == ("yes", (2, 3))


def test_system_text_comes_first_in_plain() -> None:
    template = Template("plain", system="A B", words=PLAIN.words)
    example = Renderer(word_level(), template, TASK).example(PROMPT, ROW)
    assert example.ids[:8].tolist() == ids("<s>", "A", " ", "B", "\n", "\n", "Is", " ")
    assert example.kinds.tolist().index(1) == ids_index(example.ids.tolist(), "good")


def ids_index(found: list[int], word: str) -> int:
    return found.index(WORDS.index(word))


def test_chat_ids_and_kinds_by_hand() -> None:
    template = Template("chat", chat=True, system="A", words=(("no", "no"), ("yes", "yes")))
    renderer = Renderer(word_level(), template, TASK)
    example = renderer.example(PROMPT, ROW)
    head = [
        "<s>",
        "<|system|>",
        "\n",
        "A",
        "<|end|>",
        "\n",
        "<|user|>",
        "\n",
        "Is",
        " ",
        "it",
        " ",
        "good",
        "?",
        "<|end|>",
        "\n",
    ]
    assert example.ids.tolist() == ids(*head, "<|assistant|>", "\n", "yes", "<|end|>")  # one BOS: the template's
    assert example.kinds.tolist() == [0] * 12 + [1] + [0] * 5 + [2, 2]
    assert renderer.stop_id == WORDS.index("<|end|>")
    assert set(renderer.stop_ids) == {WORDS.index("<|end|>"), WORDS.index("</s>")}


def test_chat_finds_the_prompt_although_the_template_strips_it() -> None:
    renderer = Renderer(word_level(), Template("chat", chat=True), TASK)
    example = renderer.example(Prompt("p", "\n {{ text }} it "), ROW)
    kept = [(WORDS[i], k) for i, k in zip(example.ids.tolist(), example.kinds.tolist(), strict=True)]
    assert ("good", 1) in kept
    assert ("it", 0) in kept


def test_chat_marker_starts_the_answer() -> None:
    template = Template("chat", chat=True, marker="Answer:", words=PLAIN.words)
    request = Renderer(word_level(), template, TASK).request(PROMPT, ROW)
    assert request.context[-4:].tolist() == ids("<|assistant|>", "\n", "Answer", ":")
    default = Renderer(word_level(), Template("chat", chat=True, marker=PLAIN_MARKER), TASK).request(PROMPT, ROW)
    assert default.context[-2:].tolist() == ids("<|assistant|>", "\n")


def test_chat_template_that_changes_the_prompt_is_refused() -> None:
    tokenizer = word_level()
    tokenizer.chat_template = "{% for m in messages %}{{ m.content | upper }}{% endfor %}"
    with pytest.raises(RenderError, match="does not show"):
        Renderer(tokenizer, Template("chat", chat=True), TASK)
    tokenizer.chat_template = "{% for m in messages %}{{ m.content | replace('good', 'bad') }}{% endfor %}</s>"
    with pytest.raises(RenderError, match=r'template "chat", prompt "p1", row "r1".*changes the prompt'):
        Renderer(tokenizer, Template("chat", chat=True), TASK).example(PROMPT, ROW)


def test_a_refused_system_role_says_so() -> None:
    tokenizer = word_level()
    refusal = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    tokenizer.chat_template = refusal + "{{ messages[0].content }}</s>"
    Renderer(tokenizer, Template("chat", chat=True), TASK)
    with pytest.raises(RenderError, match="system_role: user"):
        Renderer(tokenizer, Template("chat", chat=True, system="A"), TASK)
    before_user = Renderer(tokenizer, Template("chat", chat=True, system="A", system_role="user"), TASK)
    assert before_user.texts.contexts([(PROMPT, ROW)])[0].text == "A\n\nIs it good?</s>"
    example = before_user.example(PROMPT, ROW)
    assert [WORDS[i] for i, k in zip(example.ids.tolist(), example.kinds.tolist(), strict=True) if k == 1] == ["good"]


def test_no_chat_template_says_so() -> None:
    tokenizer = word_level()
    tokenizer.chat_template = None
    with pytest.raises(RenderError, match=r"has no chat template\. Use chat: false"):
        Renderer(tokenizer, Template("chat", chat=True), TASK)


def test_options_of_the_row_get_one_space_in_plain_and_none_in_chat() -> None:
    row = Row("r", {"text": "good"}, "1", ("yes", " no"))
    task = Task(max_length=200)
    plain = Renderer(word_level(), Template("plain"), task)
    request = plain.request(PROMPT, row)
    assert [o.tolist() for o in request.options] == [ids(" yes"), ids(" no")]
    assert (request.label, request.option_bytes) == ("1", (3, 2))
    assert plain.example(PROMPT, row).ids[-2:].tolist() == ids(" no", "</s>")
    chat = Renderer(word_level(), Template("chat", chat=True), task)
    assert chat.texts.words(row) == ["yes", " no"]
    spaced = Renderer(word_level(), Template("plain", marker="\n"), task)
    assert spaced.texts.words(row) == ["yes", " no"]  # the marker ends with white space itself


def test_a_label_without_a_word_answers_as_itself() -> None:
    renderer = Renderer(word_level(), Template("plain", words=(("no", " not"),)), TASK)
    assert renderer.texts.words(ROW) == [" not", " yes"]


def test_options_can_be_shown_in_the_prompt_and_count_as_content() -> None:
    row = Row("r", {"text": "good"}, "1", ("A", "B"))
    example = Renderer(word_level(), Template("plain"), Task(max_length=99)).example(
        Prompt("p", "Is it {{ options|join(' ') }}"), row
    )
    assert example.ids[:8].tolist() == ids("<s>", "Is", " ", "it", " ", "A", " ", "B")
    assert example.kinds[:8].tolist() == [0, 0, 0, 0, 0, 1, 1, 1]


def test_a_token_is_content_where_half_of_it_came_from_the_row() -> None:
    tokenizer = byte_level()
    for text, expected in (("es", 1), ("s", 0)):  # " yes" is one token: 2 of 4 characters, then 1 of 4
        kept = " y" if text == "es" else " ye"
        example = Renderer(tokenizer, PLAIN, TASK).example(
            Prompt("p", "Answer:" + kept + "{{ text }}."), Row("r", {"text": text}, "no")
        )
        texts = Renderer(tokenizer, PLAIN, TASK).token_texts(example)
        assert example.kinds[texts.index(" yes")] == expected


def test_stop_token_is_trained_and_never_scored() -> None:
    for make in TOKENIZERS.values():
        renderer = Renderer(make(), PLAIN, TASK)
        example, request = renderer.example(PROMPT, ROW), renderer.request(PROMPT, ROW)
        assert example.ids[-1] == renderer.stop_id
        assert example.kinds[-1] == 2
        assert all(renderer.stop_id not in o for o in request.options)


def test_an_automatic_eos_is_left_out_of_the_context() -> None:
    tokenizer = word_level()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    example = Renderer(tokenizer, PLAIN, TASK).example(PROMPT, ROW)
    assert example.ids.tolist() == ids("<s>", "Is", " ", "it", " ", "good", "?", "\n", "Answer", ":", " yes", "</s>")


# refusals --------------------------------------------------------------------------------------------------------


def test_a_word_that_would_change_the_tokens_before_it_is_tokenised_on_its_own() -> None:
    """CASES M6: the question's tokens are those of the question alone; the answer follows and reads as its text."""
    template = Template("spaced", marker="\nAnswer: ", words=(("no", "no"), ("yes", "yes")))
    for make in (word_level, llama_like, byte_level):
        tokenizer = make()
        renderer = Renderer(tokenizer, template, TASK)
        request, example = renderer.request(PROMPT, ROW), renderer.example(PROMPT, ROW)
        assert request.context.tolist() == tokenizer("Is it good?\nAnswer: ").input_ids
        assert tokenizer("Is it good?\nAnswer: yes").input_ids[: len(request.context)] != request.context.tolist()
        assert [tokenizer.decode([*request.context, *o])[-4:] for o in request.options] == [": no", " yes"]
        assert example.ids.tolist() == [*request.context, *request.options[1], renderer.stop_id]
        assert renderer.anchored == ["no", "yes"]


def test_an_answer_whose_tokens_cannot_read_as_its_text_is_refused() -> None:
    template = Template("unknown", marker="\nAnswer: ", words=(("no", "no"), ("yes", "yes")))
    tokenizer = word_level()
    tokenizer.backend_tokenizer.decoder = decoders.WordPiece()  # puts spaces between words: no answer reads as it is
    with pytest.raises(RenderError) as caught:
        Renderer(tokenizer, template, TASK).request(PROMPT, ROW)
    assert 'template "unknown", prompt "p1", row "r1"' in str(caught.value)
    assert "End the marker without a space, and begin the label word with one" in str(caught.value)


def test_an_answer_is_written_as_the_chat_template_writes_one() -> None:
    tokenizer = word_level()
    tokenizer.chat_template = CHAT.replace(
        "<|{{ m.role }}|>\n", "<|{{ m.role }}|>{{ ' ' if m.role != 'user' }}"
    ).replace("<|assistant|>\n", "<|assistant|>")
    words = Template("chat", chat=True, words=(("no", "no"), ("yes", " yes ")))  # which the template strips
    renderer = Renderer(tokenizer, words, TASK)
    request = renderer.request(PROMPT, ROW)
    messages = [{"role": "user", "content": "Is it good?"}, {"role": "assistant", "content": " yes "}]
    asked = tokenizer.apply_chat_template(messages[:1], add_generation_prompt=True)["input_ids"]
    whole = tokenizer.apply_chat_template(messages)["input_ids"]
    assert request.context.tolist() == asked
    assert renderer.example(PROMPT, ROW).ids.tolist() == whole[:-1]  # without the line break after the turn
    assert [o.tolist() for o in request.options] == [ids(" no"), ids(" yes")]


def test_an_answer_without_tokens_is_refused() -> None:
    with pytest.raises(RenderError, match="gives no tokens"):
        Renderer(word_level(), Template("t", words=(("no", ""), ("yes", " yes"))), TASK).request(PROMPT, ROW)


def test_too_long_rows_are_counted_and_never_cut() -> None:
    renderer = Renderer(word_level(), PLAIN, Task(("no", "yes"), max_length=12))
    rows = [ROW, Row("r2", {"text": "good good"}, "no"), Row("r3", {"text": "good good good"}, "no")]
    assert len(renderer.example(PROMPT, ROW).ids) == 12  # exactly at the limit
    for render in (renderer.examples, renderer.requests):
        with pytest.raises(
            RenderError, match=r'2 of 3 sequences.*has 16 tokens \(prompt "p1", row "r3"\).*task.max_length=16'
        ):
            render([(PROMPT, r) for r in rows])
    assert renderer.lengths([(PROMPT, r) for r in rows]) == [12, 14, 16]


def test_an_unknown_label_names_the_nearest() -> None:
    with pytest.raises(RenderError, match=r'label "yess" is no label.*Did you mean "yes"'):
        Renderer(word_level(), PLAIN, TASK).example(PROMPT, Row("r", {"text": "good"}, "yess"))


def test_a_tokenizer_without_a_stop_token_is_refused() -> None:
    tokenizer = wrapped(Tokenizer(models.WordLevel({"<unk>": 0}, unk_token="<unk>")))
    tokenizer.eos_token = None
    with pytest.raises(RenderError, match="no end-of-sequence token"):
        Renderer(tokenizer, PLAIN, TASK)


# equal to the plain way --------------------------------------------------------------------------------------------


def plain_way(
    tokenizer: object, context: str, words: list[str], chat: bool
) -> tuple[list[int], list[list[int]]] | None:
    """tokenize(context + word) by the public call, once per word; None where the context is no prefix of it."""
    call = lambda text: tokenizer(text, add_special_tokens=not chat).input_ids  # type: ignore[operator]  # noqa: E731
    front = call(context)
    full = [call(context + w) for w in words]
    if any(f[: len(front)] != front or len(f) == len(front) for f in full):
        return None
    return front, [f[len(front) :] for f in full]


def check_unusual(renderer: Renderer, contexts: list[str], pairs: list[tuple[Prompt, Row]]) -> None:
    """Where question + word does not begin with the question's tokens: these, then a word that reads as its text."""
    try:
        requests = renderer.requests(pairs)
    except RenderError:
        return
    for context, (_, row), request in zip(contexts, pairs, requests, strict=True):
        code = renderer.tokenizer.backend_tokenizer
        front = [*renderer.prefix, *code.encode(context, add_special_tokens=False).ids]
        assert request.context.tolist() == front
        for option, answer in zip(request.options, renderer.texts.answers(row), strict=True):
            full = [*renderer.prefix, *code.encode(context + answer, add_special_tokens=False).ids]
            last = front[-1:]
            read = code.decode([*last, *option], skip_special_tokens=False)
            assert full == [*front, *option] or read == code.decode(last, skip_special_tokens=False) + answer


PIECES = [
    "\r\n",
    "\n",
    "  ",
    " ",
    "\t",
    "😀",
    "👩‍👩‍👧",
    "é",
    "é",
    "ﬀ",
    "中文",
    "'",
    "'re",
    "n't",
    "</s>",
    "<|end|>",
    "<s",
    "<0x0A>",
    "▁",
    "Ġ",
    "123",
    "4567",
    "Answer:",
    "yes",
    "no",
    "A",
    ".",
    "?!",
    "​",
    "\x00",
    "\ue0f0",
]
TEXTS = st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=4)), max_size=8).map("".join)


@pytest.mark.parametrize("name", list(TOKENIZERS))
@pytest.mark.parametrize("chat", [False, True])
@settings(max_examples=60, deadline=None)
@given(
    texts=st.lists(TEXTS, min_size=1, max_size=3),
    marker=st.sampled_from(["\nAnswer:", "", " ", "\nSay:", ":", "\nAnswer: ", "\r\nA:"]),
    words=st.tuples(TEXTS, TEXTS),
    last=TEXTS,
)
def test_batches_equal_the_plain_way(
    name: str, chat: bool, texts: list[str], marker: str, words: tuple[str, str], last: str
) -> None:
    tokenizer = TOKENIZERS[name]()
    template = Template("t", chat=chat, marker=marker, words=(("no", words[0]), ("yes", words[1])))
    renderer = Renderer(tokenizer, template, Task(("no", "yes"), max_length=10**6))
    prompts = [Prompt("a", "Is {{ text }} so?"), Prompt("b", "{{ text }}")]
    pairs = [(p, Row(str(i), {"text": t + last}, "yes")) for p in prompts for i, t in enumerate([*texts, "x"])]
    if any(not (p.text + r.fields["text"]).replace("{{ text }}", "").strip() for p, r in pairs):
        return  # an empty prompt: nothing stands in the chat
    contexts = [c.text for c in renderer.texts.contexts(pairs)]
    answers = renderer.texts.answers(pairs[0][1])  # a chat template may strip the word
    expected = [plain_way(tokenizer, c, answers, chat) if c else None for c in contexts]
    if any(e is None for e in expected):
        check_unusual(renderer, contexts, pairs)
        return
    for (prompt, row), request, example, wanted in zip(
        pairs, renderer.requests(pairs), renderer.examples(pairs), expected, strict=True
    ):
        assert wanted is not None
        assert request.context.tolist() == wanted[0]
        assert [o.tolist() for o in request.options] == wanted[1]
        assert example.ids.tolist() == [*wanted[0], *wanted[1][1], renderer.stop_id]
        assert example.ids.tolist() == renderer.example(prompt, row).ids.tolist()
        assert example.kinds.tolist() == renderer.example(prompt, row).kinds.tolist()


@pytest.mark.parametrize(
    ("name", "proven"), [("gpt2", True), ("llama3", True), ("qwen", True), ("llama2", True), ("words", False)]
)
def test_the_shortcut_is_taken_where_it_is_proven_and_only_there(name: str, proven: bool) -> None:
    backend = TOKENIZERS[name]().backend_tokenizer
    boundary = Boundary(backend)
    context = "Is it good?\nAnswer:"
    cut = boundary.cut(context, backend.encode(context, add_special_tokens=False).ids[-1])
    assert (cut is not None) == proven
    if cut is not None:
        added = boundary.added(context, cut, " yes")
        full = backend.encode(context + " yes", add_special_tokens=False).ids
        assert added == tuple(full[len(backend.encode(context, add_special_tokens=False).ids) :])


def test_a_word_may_be_a_special_token() -> None:
    tokenizer = llama_like()
    template = Template("t", words=(("no", " no"), ("yes", "</s>")))
    assert Renderer(tokenizer, template, TASK).request(PROMPT, ROW).options[1].tolist() == [tokenizer.eos_token_id]


def test_the_shortcut_sees_that_a_word_completes_a_special_token() -> None:
    tokenizer = llama_like()
    template = Template("t", marker="\nAnswer:<", words=(("no", "/s>"), ("yes", "s>")))
    request = Renderer(tokenizer, template, TASK).request(PROMPT, ROW)
    assert tokenizer.eos_token_id in tokenizer("Is it good?\nAnswer:</s>").input_ids
    assert tokenizer.eos_token_id not in request.options[0].tolist()  # the text was written, not the token
    assert tokenizer.decode(request.options[0]) == "/s>"


# display and loading ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(TOKENIZERS))
def test_token_texts_join_to_the_sequence(name: str) -> None:
    renderer = Renderer(TOKENIZERS[name](), PLAIN, TASK)
    example = renderer.example(Prompt("p", "Is it {{ text }}?"), Row("r", {"text": "good"}, "yes"))
    joined = "".join(renderer.token_texts(example))
    assert joined.replace("<s>", "").strip() == "Is it good?\nAnswer: yes</s>"


def test_load_tokenizer_pads_with_eos_and_explains_failures(tmp_path: Path) -> None:
    tokenizer = word_level()
    tokenizer.pad_token = None
    tokenizer.save_pretrained(tmp_path)
    loaded = load_tokenizer(Model(str(tmp_path), "f"))
    assert loaded.pad_token == "</s>"
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(RenderError, match=r"model\.path = .*no tokenizer can be loaded"):
        load_tokenizer(Model(str(empty), "f"))


@pytest.mark.skipif(not (SHARED / "models" / "stories260K").is_dir(), reason="shared/models is not there")
def test_a_pretrained_sentencepiece_model_equals_the_plain_way() -> None:
    tokenizer = load_tokenizer(Model(str(SHARED / "models" / "stories260K"), "f"))
    renderer = Renderer(tokenizer, PLAIN, Task(("no", "yes"), max_length=500))
    rows = [
        Row(str(i), {"text": t}, "no")
        for i, t in enumerate(["Once upon a time", "ünï 😀\r\n", "a" * 60, "  spaces  ", "tab\there"])
    ]
    for row, request in zip(rows, renderer.requests([(PROMPT, r) for r in rows]), strict=True):
        context = f"Is it {row.fields['text']}?\nAnswer:"
        assert plain_way(tokenizer, context, [" no", " yes"], False) == (
            request.context.tolist(),
            [o.tolist() for o in request.options],
        )
