"""What is wording and what is content in chat data."""

import pytest

from sweeps.init.chats import Chat, chat_of, common_ends, escaped, wording_of
from trainer.data.wording import Prompt, fill
from trainer.errors import UserError

TURN = {"role": "user", "content": "q"}


def turns(*pairs):
    return [{"role": role, "content": content} for role, content in pairs]


def test_the_last_assistant_turn_is_the_answer_and_earlier_turns_are_content():
    chat = chat_of(
        turns(("system", "S"), ("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", " yes ")), "x"
    )
    assert chat == Chat("S", "user: a\nassistant: b", "c", "yes")


def test_sharegpt_names_are_read():
    cell = [{"from": "human", "value": "c"}, {"from": "gpt", "value": "no"}]
    assert chat_of(cell, "x") == Chat("", "", "c", "no")


@pytest.mark.parametrize(
    "cell",
    [turns(("user", "a")), turns(("assistant", "a")), [], None, [TURN, "x"], [{"role": "user", "content": None}]],
)
def test_rows_without_a_last_answer_are_refused(cell):
    with pytest.raises(UserError, match="row 7"):
        chat_of(cell, "row 7")


@pytest.mark.parametrize(
    ("texts", "ends"),
    [
        (["Spam? call me. Yes or no", "Spam? come by. Yes or no"], ("Spam? ", " Yes or no")),
        (["ab cd", "ab ce"], ("ab ", "")),
        (["same", "same"], ("", "")),
        (["Q: a", "Q: a b"], ("Q: a", "")),
        (["one two", "six"], ("", "")),
    ],
)
def test_common_ends_are_whole_words(texts, ends):
    assert common_ends(texts) == ends


def test_wording_and_fields_give_back_every_turn():
    said = ["Is {{ this }} spam?\ncall 0800\n#end", "Is {{ this }} spam?\nsee you\n#end"]
    wording, fields = wording_of([Chat("Filter.", "", text, "no") for text in said])
    assert wording.system == "Filter."
    assert [fill(Prompt("w", wording.user), f).text for f in fields] == said


def test_turns_and_systems_that_differ_become_fields():
    chats = [Chat("A", "user: x", "so: p", "no"), Chat("B", "", "so: q", "no")]
    wording, fields = wording_of(chats)
    assert wording.system == ""
    assert fields[0] == {"system": "A", "conversation": "user: x", "text": "p"}
    assert fields[1]["conversation"] == "-"
    assert fill(Prompt("w", wording.user), fields[0]).text == "A\nuser: x\nso: p"


def test_what_jinja_would_read_stays_text():
    text = "{{ a }} {% if %} {# c #}"
    assert fill(Prompt("w", escaped(text) + "{{ t }}"), {"t": "!"}).text == text + "!"
