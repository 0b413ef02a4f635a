"""Local models as writers: a real instruct model through its chat template, sampling, limits, and what is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from chat_server import ChatServer, distinct_wordings
from checkout import ROOT
from prompt_tasks import steadytune, task_file
from tiny_writer import AT_ONCE, WORDINGS, make_writer

from sweeps.prompts.brief import FEW_SHOT, STRATEGIES, ZERO_SHOT, Brief, messages, read_brief
from sweeps.prompts.local_writer import LocalModel, LocalModelError
from trainer.data.pools import load_pool

EMBEDDED = ROOT / "sweeps" / "embedded" / "model"


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> str:
    return task_file(tmp_path_factory.mktemp("task"))


@pytest.fixture(scope="module")
def brief(task: str) -> Brief:
    return read_brief(task, "pool.yaml")


@pytest.fixture(scope="module")
def writer(tmp_path_factory: pytest.TempPathFactory, brief: Brief) -> str:
    return make_writer(tmp_path_factory.mktemp("writer"), brief)


def test_a_model_answers_through_its_chat_template(writer: str, brief: Brief) -> None:
    model = LocalModel(writer, 200, 0.0)
    for strategy in STRATEGIES:
        got = model.write(messages(brief, strategy, 0, AT_ONCE, 0), 0)
        assert json.loads(got.text) == WORDINGS[strategy]
        assert not got.cut
        assert got.prompt_tokens is not None
        assert got.completion_tokens is not None
        assert got.prompt_tokens > got.completion_tokens > 10
    model.close()
    assert model._loaded is None


def test_sampling_is_by_seed_and_leaves_the_global_state_alone(writer: str, brief: Brief) -> None:
    import torch

    asked = messages(brief, ZERO_SHOT, 0, AT_ONCE, 0)
    model = LocalModel(writer, 60, 2.0)
    state = torch.random.get_rng_state()
    texts = [model.write(asked, seed).text for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]
    assert torch.equal(state, torch.random.get_rng_state())


def test_the_token_limit_cuts(writer: str, brief: Brief) -> None:
    got = LocalModel(writer, 12, 0.0).write(messages(brief, FEW_SHOT, 0, AT_ONCE, 0), 0)
    assert (got.cut, got.completion_tokens) == (True, 12)
    assert json.dumps(WORDINGS[FEW_SHOT]).startswith(got.text)


def test_the_command_with_a_local_model_and_an_endpoint(
    tmp_path: Path, task: str, writer: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "pool.yaml"
    words = ["prompts", "generate", task, "--model", writer, "--out", str(out), "--number", "2", "--at-once", "2"]
    assert steadytune(*words, "--temperature", "0") == 0
    assert [p.text for p in load_pool(str(out))] == [t for s in STRATEGIES for t in WORDINGS[s]]
    with ChatServer(distinct_wordings()) as server:
        assert steadytune(*words, "--temperature", "0", "--model", server.spec()) == 0
        assert capsys.readouterr().err.count(f"{writer}, few-shot: 2 of 2 taken, 2 of 2 so far; kept from before") == 1
    pool = [p.text for p in load_pool(str(out))]
    assert len(pool) == 8
    assert set(pool) > {t for s in STRATEGIES for t in WORDINGS[s]}
    page = (tmp_path / "pool.usage.md").read_text()
    assert f"| {writer} |" in page
    assert f"| {server.spec()} |" in page


def test_answers_in_the_journal_need_no_torch(tmp_path: Path, task: str, writer: str) -> None:
    words = ["prompts", "generate", task, "--model", writer, "--out", str(tmp_path / "pool.yaml"), "--number", "2"]
    words += ["--at-once", "2", "--temperature", "0"]
    assert steadytune(*words) == 0
    code = f"""
import sys
from sweeps.cli import main
try:
    main({words!r})
finally:
    print(sorted({{"torch", "transformers", "ray"}} & set(sys.modules)))
"""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"


# what cannot be -------------------------------------------------------------------------------------------------


def test_a_context_that_is_too_short_is_told(brief: Brief) -> None:
    model = LocalModel(str(EMBEDDED), 100, 1.0)
    with pytest.raises(LocalModelError, match=r"reads 256 tokens at most, and the request alone has \d+"):
        model.write(messages(brief, ZERO_SHOT, 0, 10, 0), 0)


def test_a_short_request_to_the_embedded_model_is_answered() -> None:
    got = LocalModel(str(EMBEDDED), 8, 1.0).write([{"role": "user", "content": "i wrote: the tea is cold."}], 3)
    assert got.completion_tokens is not None
    assert 1 <= got.completion_tokens <= 8


def test_a_model_without_a_chat_template_gets_plain_text(tmp_path: Path, brief: Brief, writer: str) -> None:
    import shutil

    bare = shutil.copytree(writer, tmp_path / "bare")
    for file in ("chat_template.jinja", "tokenizer_config.json"):
        if (bare / file).exists() and file.endswith(".jinja"):
            (bare / file).unlink()
    config = json.loads((bare / "tokenizer_config.json").read_text())
    config.pop("chat_template", None)
    (bare / "tokenizer_config.json").write_text(json.dumps(config))
    got = LocalModel(str(bare), 5, 0.0).write([{"role": "system", "content": "a"}, {"role": "user", "content": "b"}], 0)
    assert got.prompt_tokens == 1 + len("a\n\nb\n\n")


def test_a_template_without_a_system_role_gets_both_texts_as_the_users(tmp_path: Path, writer: str) -> None:
    import shutil

    strict = shutil.copytree(writer, tmp_path / "strict")
    own = (strict / "chat_template.jinja").read_text()
    refuse = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    chat = [{"role": "system", "content": "a"}, {"role": "user", "content": "b"}]
    (strict / "chat_template.jinja").write_text(refuse + own)
    got = LocalModel(str(strict), 5, 0.0).write(chat, 0)
    merged = LocalModel(writer, 5, 0.0).write([{"role": "user", "content": "a\n\nb"}], 0)
    assert (got.text, got.prompt_tokens) == (merged.text, merged.prompt_tokens)
    (strict / "chat_template.jinja").write_text("{{ raise_exception('never') }}")
    with pytest.raises(LocalModelError, match=r"its chat template fails \(never\)"):
        LocalModel(str(strict), 5, 0.0).write(chat, 0)


def test_folders_that_are_no_models(tmp_path: Path) -> None:
    with pytest.raises(LocalModelError, match=r"--model = .* is no folder"):
        LocalModel(str(tmp_path / "gone"), 5, 1.0).fingerprint()
    with pytest.raises(LocalModelError, match=r"--model = .* has no weights"):
        LocalModel(str(tmp_path), 5, 1.0).fingerprint()
    assert LocalModel("org/some-model", 5, 1.0).fingerprint() == "org/some-model"
    with pytest.raises(LocalModelError, match='--model = "org/some-model"'):
        LocalModel("org/some-model", 5, 1.0).write([{"role": "user", "content": "a"}], 0)
