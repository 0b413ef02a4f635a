"""What ``verify`` says of a server, an export or rows that it cannot use: one line, before work is lost."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import served_models
import tiny_run

from sweeps.cli import main
from sweeps.export.export import export
from sweeps.verify.verify import ServerAddress, verify
from trainer.errors import UserError

Body = dict[str, Any]
Says = Callable[..., str]


@pytest.fixture
def made(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Callable[[str], str]:
    """An export, which a test may change, of the last trial of the run with this name."""

    def make(name: str) -> str:
        run, trials = tiny_run.made(name, tmp_path_factory)
        return export(run, trials[-1].id, str(tmp_path / "out"))

    return make


def answers_yes(path: str, body: Body) -> tuple[int, Body]:
    if path.endswith("/models"):
        return 200, {"data": [{"id": "base"}, {"id": "adapter"}]}
    return 200, {"choices": [{"text": " yes"}]}


def refused(folder: str, answer: Callable[[str, Body], tuple[int, Body]] = answers_yes, **more: Any) -> str:
    server = {"model": more.pop("model", "adapter"), "api_key_env": more.pop("api_key_env", None)}
    with served_models.serving(answer) as url, pytest.raises(UserError) as error:
        verify(folder, ServerAddress(more.pop("url", url), **server), tell=lambda line: None, **more)
    assert "\n" not in str(error.value)
    return str(error.value)


def change(folder: str, **values: Any) -> None:
    at = Path(folder, "template.json")
    Path(folder, "SHA256SUMS").unlink()
    at.write_text(json.dumps(json.loads(at.read_text()) | values))


# the server -------------------------------------------------------------------------------------------------------


def test_which_model_is_the_adapter_has_to_be_said_where_there_are_several(made: Callable[[str], str]) -> None:
    said = refused(made("labels"), model=None)
    assert said.endswith("the server serves base, adapter. Say which one is the adapter: --model NAME")


def test_a_server_without_a_list_of_models(made: Callable[[str], str]) -> None:
    said = refused(made("labels"), lambda path, body: (200, {"data": []}), model=None)
    assert said.endswith("the server lists no models. Say which one is the adapter: --model NAME")


def test_an_address_without_its_path(made: Callable[[str], str]) -> None:
    folder, none = made("labels"), {"detail": "Not Found"}
    with served_models.serving(lambda path, body: (404, none)) as url:
        said = refused(folder, url=url.removesuffix("/v1"))
    assert said.endswith(
        "knows no such model or address (status 404). It says: Not Found. Does the address lack its /v1?"
    )


def test_a_password_in_the_address(made: Callable[[str], str]) -> None:
    said = refused(made("labels"), url="http://me:secret@127.0.0.1:8000/v1")
    assert said.startswith('--url = "adapter@http://…@127.0.0.1:8000/v1": has a password in it')
    assert said.endswith("Use --api-key-env NAME")


def test_a_rank_above_the_servers_limit_is_thought_of(made: Callable[[str], str]) -> None:
    """vLLM does not list an adapter that it could not load."""

    def without_it(path: str, body: Body) -> tuple[int, Body]:
        if path.endswith("/models"):
            return 200, {"data": [{"id": "base"}]}
        return 404, {"error": {"message": "The model `adapter` does not exist."}}

    folder = made("labels")
    assert "rank" not in refused(folder, without_it)
    about = json.loads(Path(folder, "template.json").read_text())
    about["trial"]["lora"]["r"] = 32
    change(folder, trial=about["trial"])
    said = refused(folder, without_it)
    assert (
        "The server lists other models: base. This adapter has rank 32: vLLM loads none above 16 unless it is" in said
    )
    assert said.endswith("started with --max-lora-rank 32. Give the adapter's name there: --model NAME")


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (400, "refuses with status 400. It says: LoRA rank 32 is greater than max_lora_rank 16"),
        (401, "it wants a key: --api-key-env NAME, an environment variable"),
        (500, "gave no answer in 6 attempts; the last: status 500"),
    ],
)
def test_an_error_of_the_server_is_told(
    made: Callable[[str], str], monkeypatch: pytest.MonkeyPatch, status: int, words: str
) -> None:
    from sweeps.prompts.endpoints import RetryLimits

    monkeypatch.setattr("sweeps.verify.verify.PATIENCE", RetryLimits(attempts=6, first_pause=0.01, longest_pause=0.02))
    error = {"error": {"message": "LoRA rank 32 is greater than max_lora_rank 16."}}
    assert words in refused(made("labels"), lambda path, body: (status, error))


def test_a_key_is_read_from_the_environment(made: Callable[[str], str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SERVER_KEY", raising=False)
    folder = made("labels")
    unset = "--api-key-env: the environment variable that it names is not set. Give a variable's name, not the key"
    assert refused(folder, api_key_env="SERVER_KEY") == unset
    monkeypatch.setenv("SERVER_KEY", "sk-secret-12345")
    wrong = {"error": {"message": "wrong: sk-secret-12345"}}
    said = refused(folder, lambda path, body: (401, wrong), api_key_env="SERVER_KEY")
    assert "the key is not accepted. It says: wrong: …" in said


def test_an_address_that_is_none(made: Callable[[str], str]) -> None:
    assert "is no http address. Give one such as http://127.0.0.1:8000/v1" in refused(made("labels"), url="ftp://x/v1")


@pytest.mark.parametrize("status", [400, 500])
def test_a_server_that_refuses_log_probabilities_is_asked_without_them(made: Callable[[str], str], status: int) -> None:
    asked: list[Body] = []

    def answer(path: str, body: Body) -> tuple[int, Body]:
        asked.append(body)
        if "logprobs" in body:
            return status, {"error": {"message": "logprobs is not supported for this model"}}
        return 200, {"choices": [{"text": " yes"}]}

    lines: list[str] = []
    with served_models.serving(answer) as url:
        verify(made("labels"), ServerAddress(url, "x"), n_rows=3, tell=lines.append)
    assert "probabilities: the server gives no log-probabilities" in lines
    assert ["logprobs" in body for body in asked[:4]] == [True, False, False, False]
    assert all(body["temperature"] == 0 and body["max_tokens"] == 8 for body in asked)


def test_a_server_that_takes_no_temperature_cannot_be_verified(made: Callable[[str], str]) -> None:
    error = {"error": {"message": "Unsupported parameter: temperature"}}
    assert "refuses with status 400. It says: Unsupported parameter: temperature" in refused(
        made("labels"), lambda path, body: (400, error)
    )


# the export and the rows ------------------------------------------------------------------------------------------


def test_an_export_of_another_version(made: Callable[[str], str]) -> None:
    folder = made("labels")
    change(folder, format=99)
    assert "format = 99 is not known, this version reads 1. Export the trial again" in refused(folder)


def test_a_base_model_that_is_gone(made: Callable[[str], str], tmp_path: Path) -> None:
    said = refused(made("labels"), base=str(tmp_path / "gone"))
    assert "The base model may have moved: give it with --base DIR" in said


def test_a_classifier_writes_no_text(made: Callable[[str], str]) -> None:
    assert "a classifier writes no text, so no server of completions can answer for it" in refused(made("classifier"))


def test_an_export_of_before_does_not_know_where_the_rows_are(made: Callable[[str], str]) -> None:
    folder = made("labels")
    change(folder, test_rows=None)
    assert "did not note where the study's rows are. Give rows with --data FILE, or export" in refused(folder)


def test_rows_that_are_gone_and_rows_that_have_changed(
    made: Callable[[str], str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = made("labels")
    source = json.loads(Path(folder, "template.json").read_text())["test_rows"]
    other = tiny_run.write_rows(tmp_path / "other.jsonl", tiny_run.rows(4))
    change(folder, test_rows={**source, "path": str(tmp_path / "gone.jsonl")})
    said = refused(folder)
    assert said.startswith("the study's test rows: path = ")
    assert said.endswith("Give rows with --data FILE")
    Path(folder, "SHA256SUMS").touch()
    change(folder, test_rows={**source, "path": other})
    with served_models.serving(answers_yes) as url:
        verify(folder, ServerAddress(url, "adapter"), tell=lambda line: None)
    assert f"{other} has changed since the study: these are not its test rows any more" in caplog.text


def test_rows_that_are_all_too_long(made: Callable[[str], str], tmp_path: Path) -> None:
    rows = tiny_run.write_rows(tmp_path / "long.jsonl", [{"text": "it good " * 40}])
    assert "all are longer than the 40 tokens that the adapter was trained with" in refused(made("labels"), data=rows)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nowhere", "--url", "http://127.0.0.1:1/v1"), 'DIR = "nowhere" does not exist'),
        ((".", "--url", "http://127.0.0.1:1/v1", "--data", "no.jsonl"), '--data = "no.jsonl" does not exist'),
        ((".",), "Missing option '--url'"),
        ((".", "--url", "x", "--rows", "0"), "Invalid value for '--rows'"),
    ],
)
def test_a_mistake_on_the_command_line(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], words: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["verify", *arguments])
    assert ended.value.code == 2
    assert words in capsys.readouterr().err
