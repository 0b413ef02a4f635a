"""``verify`` against `transformers serve`, with the right set-up and with wrong ones, each of which it names."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import served_models
import tiny_run

from sweeps.cli import main
from sweeps.export.export import export
from sweeps.export.predict import predict
from sweeps.verify.setups import CHAT_TEMPLATES
from sweeps.verify.verify import ServerAddress, verify

CHAT_STOP = "<|end|>"


class Served(NamedTuple):
    """An export, the server's address, and the folders that it can serve."""

    export: str
    url: str
    merged: Path
    base: Path
    run: str


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with served_models.transformers_serve() as found:
        yield found


def made(name: str, stop: str, url: str, factory: pytest.TempPathFactory) -> Served:
    run, trials = tiny_run.made(name, factory)
    folder = factory.mktemp(f"served_{name}")
    out, base = export(run, trials[-1].id, str(folder / "out")), tiny_run.data(run, "model")
    merged = served_models.merged(out, base, folder / "merged", stop)
    return Served(out, url, merged, served_models.merged(out, base, folder / "base", stop, adapter=False), run)


@pytest.fixture(scope="module")
def chat(url: str, tmp_path_factory: pytest.TempPathFactory) -> Served:
    return made("served", CHAT_STOP, url, tmp_path_factory)


@pytest.fixture(scope="module")
def plain(url: str, tmp_path_factory: pytest.TempPathFactory) -> Served:
    return made("labels", "</s>", url, tmp_path_factory)


def verified(served: Served, folder: Path, url: str | None = None, **more: Any) -> tuple[int, str]:
    lines: list[str] = []
    code = verify(served.export, ServerAddress(url or served.url, str(folder)), tell=lines.append, **more)
    return code, "\n".join(lines)


# the right set-up -------------------------------------------------------------------------------------------------


def test_the_merged_weights_answer_as_predict_does(chat: Served, tmp_path: Path) -> None:
    code, said = verified(chat, chat.merged)
    assert code == 0, said
    assert "answers: 16 of 16 (100.0 %, 80.6 to 100.0) as predict gives them with the scorer generate" in said
    assert "question's tokens: 16 of 16 counts are the same\n" in said
    assert "the server gives no log-probabilities" in said
    assert said.endswith("verified: the server answers as the adapter was trained")
    # both labels are among the answers, so that equal answers say something
    predict(chat.export, tiny_run.data(chat.run, "test.jsonl"), str(tmp_path / "a.jsonl"))
    records = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert {r["label"] for r in records} == {"no", "yes"}


def test_an_export_of_merged_weights_is_verified_as_it_is_served(chat: Served, tmp_path: Path) -> None:
    trial = json.loads(Path(chat.export, "template.json").read_text())["trial_id"]
    folder = export(chat.run, trial, str(tmp_path / "model"), merge=True)
    served_model = chat._replace(export=folder)
    with served_models.serving(served_models.WithProbabilities(Path(folder))) as url:
        code, said = verified(served_model, Path("adapter"), url)
    assert code == 0, said
    assert "largest difference 0.0000" in said
    code, said = verified(served_model, chat.base)
    assert code == 1, said
    assert "verified: the server" not in said


def test_a_plain_template_is_asked_as_a_text_to_go_on_with(plain: Served) -> None:
    code, said = verified(plain, plain.merged)
    assert code == 0, said
    assert "question's tokens: 16 of 16 counts are the same" in said
    assert "labels: 16 of 16 (100.0 %, 80.6 to 100.0) as predict gives them, which compares the labels'" in said


def test_rows_of_a_file_are_asked_in_place_of_the_studys(chat: Served, tmp_path: Path) -> None:
    rows = tiny_run.write_rows(tmp_path / "own.jsonl", [{"text": "it good it"}, {"text": "bad it"}, {"text": "A good"}])
    code, said = verified(chat, chat.merged, data=rows, n_rows=2, prompt="t1")
    assert code == 0, said
    assert f'asked: 2 rows of {rows} under the prompt "t1"' in said


def test_the_export_names_the_test_rows_and_does_not_hold_them(chat: Served) -> None:
    text = Path(chat.export, "template.json").read_text()
    assert json.loads(text)["test_rows"]["path"] == tiny_run.data(chat.run, "test.jsonl")
    first = json.loads(Path(tiny_run.data(chat.run, "test.jsonl")).read_text().splitlines()[0])
    assert first["text"] not in text


def with_template(served: Served, to: Path, **values: Any) -> Served:
    """The export with its template changed: the same weights, asked in another way."""
    shutil.copytree(served.export, to)
    (to / "SHA256SUMS").unlink()
    about = json.loads((to / "template.json").read_text())
    about["trial"]["template"] |= values
    (to / "template.json").write_text(json.dumps(about))
    return served._replace(export=str(to))


def test_a_chat_whose_answer_is_begun_is_asked_as_a_text(chat: Served, tmp_path: Path) -> None:
    """Messages cannot say how an answer begins. The bos, which the server's tokenizer adds, is not sent."""
    begun = with_template(chat, tmp_path / "begun", marker="A ")
    with served_models.serving(served_models.WithProbabilities(chat.merged)) as url:
        code, said = verified(begun, Path("adapter"), url)
    assert code == 0, said
    assert "question's tokens: 16 of 16 counts are the same" in said
    assert "largest difference 0.0000" in said


def test_options_of_the_chat_template_are_sent_and_missed(chat: Served, tmp_path: Path) -> None:
    def loud(tokenizer: Any) -> None:
        tokenizer.chat_template = "{% if loud %}good {% endif %}" + tokenizer.chat_template

    base = served_models.with_tokenizer(Path(tiny_run.data(chat.run, "model")), tmp_path / "base", loud)
    folder = served_models.with_tokenizer(chat.merged, tmp_path / "served", loud)
    asked = with_template(chat, tmp_path / "loud", options=[["loud", True]])
    code, said = verified(asked, folder, base=str(base))
    assert code == 0, said
    with served_models.gateway(
        chat.url, lambda body: {k: v for k, v in body.items() if k != "chat_template_kwargs"}
    ) as url:
        code, said = verified(asked, folder, url, base=str(base))
    assert code == 1
    assert "not verified: the options of the chat template (loud) do not reach it. That set-up gives" in said


# wrong ones -------------------------------------------------------------------------------------------------------


def chat_template(change: Callable[[str], str]) -> Callable[[Any], None]:
    return lambda tokenizer: setattr(tokenizer, "chat_template", change(tokenizer.chat_template))


OTHER_TOKENIZERS: dict[str, tuple[Callable[[Any], None], str]] = {
    "other template": (
        chat_template(lambda _: CHAT_TEMPLATES["ChatML"]),
        "its chat template is another one, like ChatML's",
    ),
    "other template, with bos": (
        chat_template(lambda _: "{{ bos_token }}" + CHAT_TEMPLATES["ChatML"]),
        "its chat template is another one, like ChatML's. That set-up gives the server's answers here.",
    ),
    "unknown template": (
        chat_template(lambda text: text.replace("<|assistant|>", "good good <|assistant|>")),
        "its chat template is another one: it makes other numbers of tokens of 16 of 16 questions",
    ),
    "no system text": (
        chat_template(lambda text: text.replace("in messages", "in messages if m.role != 'system'")),
        "the system text is missing.",
    ),
    "two bos": (
        chat_template(lambda text: "{{ bos_token }}" + text),
        "it puts one more beginning-of-sequence token (bos) before each question.",
    ),
    "no bos": (
        chat_template(lambda text: text.replace("{{ bos_token }}", "")),
        "it leaves out the beginning-of-sequence token (bos) before each question.",
    ),
}


@pytest.mark.parametrize("name", OTHER_TOKENIZERS)
def test_another_template_is_named(chat: Served, tmp_path: Path, name: str) -> None:
    change, words = OTHER_TOKENIZERS[name]
    code, said = verified(chat, served_models.with_tokenizer(chat.merged, tmp_path / "served", change))
    assert code == 1
    assert f"not verified: {words}" in said


def test_faults_that_give_the_same_are_all_named(chat: Served, tmp_path: Path) -> None:
    """On these rows a closed turn gives the same number of tokens, and the same answers, as a moved system text."""
    change = chat_template(lambda text: text.replace("add_generation_prompt", "false"))
    code, said = verified(chat, served_models.with_tokenizer(chat.merged, tmp_path / "served", change))
    assert code == 1
    assert (
        "the system text stands in the user message; or its chat template does not open the assistant's turn. E" in said
    )


def test_a_missing_adapter_is_named(chat: Served, plain: Served) -> None:
    for served in (chat, plain):
        code, said = verified(served, served.base)
        assert code == 1
        assert "not verified: the adapter is not loaded: the base model answers. That set-up gives" in said


def with_generation(folder: Path, to: Path, **settings: Any) -> Path:
    """The weights of ``folder``, with settings of its generation_config.json changed."""
    shutil.copytree(folder, to)
    at = to / "generation_config.json"
    at.write_text(json.dumps(json.loads(at.read_text()) | settings))
    return to


def test_sampling_is_named(chat: Served, tmp_path: Path) -> None:
    """A gateway drops the temperature, so that the model's own generation_config.json decides. It is low there, as all
    tokens of so small a model are about as probable."""
    folder = with_generation(chat.merged, tmp_path / "served", do_sample=True, temperature=0.2)
    assert verified(chat, folder)[0] == 0
    with served_models.gateway(chat.url, lambda body: {k: v for k, v in body.items() if k != "temperature"}) as url:
        code, said = verified(chat, folder, url)
    assert code == 1
    assert "not verified: sampling is on: " in said
    assert "questions got another answer when they were asked again" in said


def test_a_gateway_that_drops_the_system_text_is_named(chat: Served) -> None:
    def without_system(body: dict[str, Any]) -> dict[str, Any]:
        return {**body, "messages": [m for m in body["messages"] if m["role"] != "system"]}

    with served_models.gateway(chat.url, without_system) as url:
        code, said = verified(chat, chat.merged, url)
    assert code == 1
    assert "not verified: the system text is missing. That set-up gives" in said


def test_two_faults_are_named_together(chat: Served, tmp_path: Path) -> None:
    change, _ = OTHER_TOKENIZERS["two bos"]
    code, said = verified(chat, served_models.with_tokenizer(chat.base, tmp_path / "served", change))
    assert code == 1
    assert "not verified: the adapter is not loaded: the base model answers, and it puts one more beginning-of" in said


def test_a_missing_stop_token_is_named(chat: Served, tmp_path: Path) -> None:
    """Without the system text the model goes on after its answer, where nothing ends it."""
    change, _ = OTHER_TOKENIZERS["no system text"]
    folder = served_models.with_tokenizer(chat.merged, tmp_path / "tokenizer", change)
    code, said = verified(chat, with_generation(folder, tmp_path / "served", eos_token_id=2))
    assert code == 1
    assert (
        "not verified: it does not end answers at the token at which the adapter was trained to end them, and" in said
    )
    assert "the system text is missing" in said


# log-probabilities ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("counts", [True, False], ids=["with counts", "without counts"])
def test_probabilities_are_compared_where_they_are_given(chat: Served, plain: Served, counts: bool) -> None:
    for served in (chat, plain):
        with served_models.serving(served_models.WithProbabilities(served.merged, counts)) as url:
            lines: list[str] = []
            assert verify(served.export, ServerAddress(url), tell=lines.append) == 0, lines
        said = "\n".join(lines)
        assert "probabilities of the first token, over 16 rows: largest difference 0.0000 (row " in said
        assert ("the server does not count them" in said) != counts


def test_probabilities_tell_what_answers_and_counts_do_not(chat: Served, tmp_path: Path) -> None:
    """With one bos more, the trained model still gives the same answers."""
    change, words = OTHER_TOKENIZERS["two bos"]
    folder = served_models.with_tokenizer(chat.merged, tmp_path / "served", change)
    with served_models.serving(served_models.WithProbabilities(folder, counts=False)) as url:
        lines: list[str] = []
        found = verify(chat.export, ServerAddress(url), tolerance=0.0001, tell=lines.append)
    assert found == 1
    assert f"not verified: {words}" in "\n".join(lines)


# bad input --------------------------------------------------------------------------------------------------------


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as ended:
        main(["verify", *arguments])
    found = capsys.readouterr()
    assert ended.value.code == 2, found
    [line] = [line for line in found.err.splitlines() if line.startswith("error: ")]
    return line


def test_a_server_that_is_not_there(chat: Served, capsys: pytest.CaptureFixture[str]) -> None:
    with served_models.serving(lambda path, body: (200, {})) as url:
        pass
    said = refused(capsys, chat.export, "--url", url, "--model", "x")
    assert "gave no answer in 6 attempts; the last: the connection failed" in said
    assert "gave no list of its models: the connection failed" in refused(capsys, chat.export, "--url", url)


def test_a_model_that_is_not_served(chat: Served, capsys: pytest.CaptureFixture[str]) -> None:
    with served_models.serving(served_models.WithProbabilities(chat.merged)) as url:
        said = refused(capsys, chat.export, "--url", url, "--model", "adaptr")
    assert "The model `adaptr` does not exist. The server lists other models: adapter. Give the adapter's name" in said
