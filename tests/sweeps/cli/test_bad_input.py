# ruff: noqa: E501  (messages are written out as they are shown)
"""What a user's mistakes look like from outside: one line that names what, where and the remedy, code 2, no traceback,
and nothing begun. The readers' own tests (test_study, test_rows, test_pools, test_preflight) hold the finer cases."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from checkout import ROOT
from small_tokenizers import WORDS, word_level
from tiny_llama import make_llama
from transformers import GPT2Config, GPT2LMHeadModel

from sweeps.cli.app import app
from sweeps.cli.exit_codes import guarded
from trainer.data.tokenizer import load_tokenizer
from trainer.errors import UserError
from trainer.model.architecture import check_architecture
from trainer.trial import Model

STUDY = """
name: wrong
model: {path: ./model}
task:
  rows: {train: rows.jsonl, dev: dev.jsonl, test: test.jsonl}
  fields: [text]
  label: y
  labels: {0: "no", 1: "yes"}
  max_length: 64
templates:
  plain: {}
  chat: {chat: true}
pools: {train: {many: train.yaml}, dev: dev.yaml, test: test.yaml}
axes: {plw: [0, 0.1], steps: 8, lr: 1.0e-2}
resources: {slots: 2, cpus: 1}
"""
TEXTS = {  # no text is in two splits
    "rows": ["good it", "it", "bad it", "A", "B it", "C"],
    "dev": ["it good", "Is", "it bad", "B", "it B", "bad"],
    "test": ["A it", "it A", "C it", "it C", "Is it", "it Is"],
}
RECORDS = [{"text": text, "y": i % 2} for i, text in enumerate(TEXTS["rows"])]
POOLS = {
    "train": {"t1": "Is it {{ text }}?", "t2": "A: {{ text }}"},
    "dev": {"d1": "B: {{ text }}", "d2": "Is {{ text }} good?"},
    "test": {"e1": "C: {{ text }}"},
}


@pytest.fixture(scope="session")
def sound_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sound")
    make_llama(hidden=32, vocab=len(WORDS)).save_pretrained(folder)
    word_level().save_pretrained(folder)
    return folder


@pytest.fixture
def place(tmp_path: Path, sound_model: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a sound study and all it names; the working directory."""
    shutil.copytree(sound_model, tmp_path / "model")
    for name, texts in TEXTS.items():
        records = [{"text": text, "y": i % 2} for i, text in enumerate(texts)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    for name, prompts in POOLS.items():
        (tmp_path / f"{name}.yaml").write_text(json.dumps(prompts))
    (tmp_path / "s.yaml").write_text(STUDY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("STEADYTUNE_DEBUG", raising=False)
    return tmp_path


Go = Callable[..., tuple[int, str]]


@pytest.fixture
def go(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Go:
    """The command in this process: exit code, and what it said (``run`` on the error stream, ``check`` on the screen,
    which is made wide). Whatever a ``run`` is refused for, it is refused before Ray is asked."""
    monkeypatch.setenv("COLUMNS", "500")

    def never(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("Ray was asked although the study is wrong")

    monkeypatch.setattr("cluster.connect.connected", never)

    def of(*arguments: str) -> tuple[int, str]:
        capsys.readouterr()
        code = guarded(lambda: app(args=list(arguments), prog_name="steadytune", standalone_mode=False))
        output = capsys.readouterr()
        assert "Traceback" not in output.out + output.err
        return code, output.out if arguments[0] == "check" else output.err

    return of


def prompts(place: Path, pool: str, texts: dict[str, str]) -> None:
    (place / f"{pool}.yaml").write_text(json.dumps(texts))


def test_the_sound_study_is_sound(place: Path, go: Go) -> None:
    """So that each refusal below has the one cause that its test gives it."""
    code, output = go("check", "s.yaml")
    assert (code, output.splitlines()[-1]) == (0, "0 errors, 0 warnings")


# the study ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["check", "run", "plan"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("axes.plww=0", 'command line: axes.plww=0 is not a known key. Did you mean "axes.plw"? Known: '),
        ("axes.steps=many", "command line: axes.steps=many must be "),
        ("axes.plw=[]", "command line: axes.plw=[] is empty. Give a value"),
        ("axes.plw=[0.5,0.50]", "command line: axes.plw[1]=0.5 is listed twice. Keep one"),
        ("pools.dev=dve.yaml", 'does not exist. Did you mean "dev.yaml"?'),
        ("model.path=./modle", 'does not exist. Did you mean "model"?'),
    ],
)  # fmt: skip
def test_a_mistake_in_the_study_is_the_same_for_every_command(
    place: Path, go: Go, capsys: pytest.CaptureFixture[str], command: str, change: str, message: str
) -> None:
    capsys.readouterr()
    code = guarded(lambda: app(args=[command, "s.yaml", change], prog_name="steadytune", standalone_mode=False))
    output = capsys.readouterr()
    assert (code, output.out) == (2, "[0:00] reading the study s.yaml\n" if command == "run" else "")
    assert output.err.startswith("error: ")
    assert message in output.err
    assert not (place / "runs").exists()


def test_trials_that_are_one_under_two_names_are_refused(place: Path, go: Go) -> None:
    (place / "s.yaml").write_text(STUDY.replace("many: train.yaml", "many: train.yaml, same: train.yaml"))
    code, output = go("run", "s.yaml", "axes.pool=[many,same]")
    assert code == 2
    assert output.count("are one trial: they differ only in name or spelling. Remove one") == 4
    assert "error: axes: the points pool = many and pool = same" in output


# what the study reads ----------------------------------------------------------------------------------------------


def in_both(go: Go, *overrides: str) -> str:
    """What ``run`` says, after ``check`` has said the same: 1 is check's "no", 2 a command that could not be done."""
    code, shown = go("check", "s.yaml", *overrides)
    assert code == 1
    assert re.search(r"^error ", shown, re.MULTILINE)
    code, output = go("run", "s.yaml", *overrides)
    assert code == 2
    lines = output.splitlines()
    assert lines
    assert all(line.startswith("error: ") for line in lines)
    for line in lines:
        assert line.removeprefix("error: ") in shown
    return output


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        (["task.fields=[txt]"], ['task.rows.train: fields = "txt" is no column of', 'Did you mean "text"? Known: text, y']),
        (["task.label=lable"], ['task.rows.dev: label = "lable" is no column of', "Known: text, y"]),
        (['task.labels={0: "no", 1: "yes", 2: "maybe"}'], ['task.labels: label "maybe" occurs in no row (found: no, yes). Take it out of `labels`']),
        (['task.labels={0: "no", 3: "yes"}'], ['rows.jsonl, row 2 (id "train-1"): y = "1" is not in `labels`. Known: 0, 3', "Add it there, or leave such rows out with `where`"]),
        (["task.max_length=13"], ['templates.plain, pools.train.many: the longest sequence has 14 tokens (prompt "t1", row "train-0"), task.max_length is 13', "Set task.max_length=14"]),
    ],
)  # fmt: skip
def test_rows_that_do_not_fit_the_study(place: Path, go: Go, overrides: list[str], parts: list[str]) -> None:
    output = in_both(go, *overrides)
    for part in parts:
        assert part in output


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"text": "it", "y": 0}\n{"text": "caf\xe9", "y": 1}\n', "dev.jsonl is not UTF-8 text (line 2: byte 0xe9). Save it as UTF-8"),
        (b'{"text": "it \\ud800", "y": 0}\n', 'dev.jsonl, row 1 (id "dev-0"): column "text" holds half a character'),
        (b'{"text": "it", "y": "\\u0000"}\n', 'dev.jsonl, row 1 (id "dev-0"): y = "\\x00" is not in `labels`'),
        (b'{"text": "it", "y": ' + b"7" * 5000 + b"}\n", 'y = "' + "7" * 60 + '…" is not in `labels`'),
        (b'{"text": "it", "y": 0}\n{"text": "it" "y": 1}\n', "dev.jsonl, line 2: is not JSON ("),
    ],
)  # fmt: skip
def test_a_hostile_file_of_rows(place: Path, go: Go, content: bytes, message: str) -> None:
    """CASES B4, B8: Latin-1, half a character, NUL, 5,000 digits, a line that is no JSON. test_rows_fuzz has more."""
    (place / "dev.jsonl").write_bytes(content)
    assert message in in_both(go)


@pytest.mark.parametrize("damage", ["half", "flipped", "text", "empty"])
def test_a_damaged_parquet_file(place: Path, go: Go, damage: str) -> None:
    path = place / "dev.parquet"
    pq.write_table(pa.Table.from_pylist(RECORDS * 500), path)
    data = path.read_bytes()
    path.write_bytes(
        {
            "half": data[: len(data) // 2],
            "text": b"PAR1 not",
            "empty": b"",
            "flipped": data[:30] + bytes(200) + data[230:],
        }[damage]
    )
    output = in_both(go, "task.rows.dev=dev.parquet")
    assert f"error: task.rows.dev: {'' if damage == 'empty' else chr(34)}{path}" in output
    if damage != "empty":
        assert "cannot be read (" in output
        assert "The file may be half written or in another format: make it again" in output


@pytest.mark.parametrize(
    ("pool", "texts", "message"),
    [
        ("train", {"t1": "Is it good?"}, 'pools.train.many: prompt "t1": shows nothing of the row: no field is used. Put a placeholder into it, such as {{ text }}'),
        ("dev", {"d1": "B: {{ txet }}"}, 'placeholder "txet" is no field of the rows. Did you mean "text"? Known: text'),
        ("test", {"e1": "A:  {{text}}!"}, 'pools.test: prompt "e1": differs only in case, spaces or punctuation from prompt "t2" of pools.train.many. Remove one'),
        ("train", {"t1": "{{ text.__class__.__mro__ }}"}, 'prompt "t1": uses'),
        ("dev", {"d1": "{{ text }}{% for a in range(1000000000) %}x{% endfor %}"}, 'uses range(…)'),
        ("test", {"e1": "{% for a in text %}{% for b in text %}{{ b }}{% endfor %}{% endfor %}"}, "has a loop over a text; a loop goes over options"),
        ("test", {"e1": "{{ text }}{{ 'x' * 1000000000 }}"}, "which a prompt may not"),
    ],
)  # fmt: skip
def test_prompts_of_strangers(place: Path, go: Go, pool: str, texts: dict[str, str], message: str) -> None:
    prompts(place, pool, texts)
    assert message in in_both(go)


def test_every_broken_prompt_of_every_pool_is_told_with_its_place(place: Path, go: Go) -> None:
    prompts(place, "train", {"t1": "{{ text", "t2": "A: {{ text }}", "t3": "{{ text.x() }}"})
    prompts(place, "dev", {"d1": ""})
    lines = in_both(go).splitlines()
    assert [line.partition(": is not")[0].partition(": uses")[0] for line in lines] == [
        f'error: pools.train.many: {place}/train.yaml: prompt "t1"',
        f'error: pools.train.many: {place}/train.yaml: prompt "t3"',
        f'error: pools.dev: {place}/dev.yaml: prompt "d1" is empty',
    ]


def test_a_template_that_the_tokenizer_cannot_render(place: Path, go: Go) -> None:
    (place / "model" / "chat_template.jinja").unlink()
    output = in_both(go)
    assert (
        'error: templates.chat: template "chat": the tokenizer has no chat template. Use chat: false, or a model'
        in output
    )
    assert "templates.plain" not in output


def test_a_chat_template_of_a_stranger_stays_in_its_sandbox(place: Path, go: Go) -> None:
    """It comes with the model, and is no more trusted than a prompt."""
    escape = "{{ messages.__class__.__mro__[1].__subclasses__() }}"
    (place / "model" / "chat_template.jinja").write_text(escape + (place / "model" / "chat_template.jinja").read_text())
    output = in_both(go)
    assert "error: templates.chat: " in output
    assert "unsafe" in output


# the model ---------------------------------------------------------------------------------------------------------


def test_a_model_without_weights_or_with_pickled_ones(place: Path, go: Go) -> None:
    (place / "model" / "model.safetensors").unlink()
    code, output = go("run", "s.yaml")
    assert (code, output) == (
        2,
        f'error: model.path = "{place}/model" has no weights: no *.safetensors file is in it\n',
    )
    (place / "model" / "pytorch_model.bin").write_bytes(b"\x80\x04\x95")
    code, output = go("run", "s.yaml")
    assert code == 2
    assert "holds pickled weights (pytorch_model.bin), which can run code when opened. Save them again with" in output


EVIL = "open({marker!r}, 'w').write('ran')\nfrom transformers import LlamaConfig as C, LlamaForCausalLM as M\n"


@pytest.fixture
def remote(place: Path) -> Path:
    """A model folder that asks for its own code, which leaves a mark when it is run."""
    config = json.loads((place / "model" / "config.json").read_text())
    config |= {"model_type": "evil", "auto_map": {"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M"}}
    (place / "model" / "config.json").write_text(json.dumps(config))
    (place / "model" / "evil.py").write_text(EVIL.format(marker=str(place / "ran")))
    return place / "model"


def test_code_that_comes_with_a_model_is_run_only_where_the_study_says_so(remote: Path) -> None:
    model = Model(str(remote), "fingerprint")
    with pytest.raises(UserError) as error:
        check_architecture(model)
    assert str(error.value) == (
        f'model.path = "{remote}" brings code of its own, and model.trust_remote_code = false. Read that code; if you '
        "trust it, set model.trust_remote_code=true, or give a model that transformers knows"
    )
    load_tokenizer(model)
    assert not (remote.parent / "ran").exists()


def test_neither_check_nor_run_runs_it(remote: Path, go: Go) -> None:
    go("check", "s.yaml")
    assert go("run", "s.yaml", "task.max_length=13")[0] == 2  # refused for that at the latest
    assert not (remote.parent / "ran").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "nonesuch"}, "its config.json cannot be used (.*nonesuch"),
        ({"model_type": "vit"}, "is a vit model, which is no causal language model"),
        ({"model_type": "vit", "auto_map": {"AutoModelForCausalLM": "evil.M"}}, r"model\.trust_remote_code = false"),
    ],
)  # fmt: skip
def test_a_config_of_no_language_model(place: Path, change: dict[str, Any], message: str) -> None:
    path = place / "model" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(UserError, match=message.replace("(", r"\(", 1) if "(" in message else message):
        check_architecture(Model(str(place / "model"), "fingerprint"))


def test_a_known_model_passes_whatever_code_lies_beside_it(place: Path) -> None:
    path = place / "model" / "config.json"
    check_architecture(Model(str(place / "model"), "fingerprint"))
    path.write_text(json.dumps({**json.loads(path.read_text()), "auto_map": {"AutoModelForCausalLM": "evil.M"}}))
    check_architecture(Model(str(place / "model"), "fingerprint"))


def test_a_model_that_cannot_carry_the_adapters(place: Path, go: Go) -> None:
    code, output = go("run", "s.yaml", "axes.lora.target_modules=[q_porj]")
    assert code == 2
    assert f'error: model.path = "{place}/model": axes.lora.target_modules = "q_porj" is no linear layer' in output
    assert 'Did you mean "q_proj"? Known: down_proj, ' in output
    small = GPT2Config(vocab_size=len(WORDS), n_embd=8, n_layer=1, n_head=2, bos_token_id=1, eos_token_id=2)
    GPT2LMHeadModel(small).save_pretrained(place / "model")
    output = in_both(go)
    assert "this GPT2LMHeadModel has no linear layers that can carry an adapter" in output


def test_a_model_with_fewer_positions_than_the_longest_sequence(place: Path, go: Go) -> None:
    path = place / "model" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "max_position_embeddings": 6}))
    output = in_both(go)
    assert re.search(r"error: .*the longest sequence has \d+ tokens \(.*\), the model takes 6", output)


# the run folder ----------------------------------------------------------------------------------------------------


def test_a_run_folder_that_cannot_be_one(place: Path, go: Go) -> None:
    (place / "taken").write_text("a file")
    code, output = go("run", "s.yaml", "--out", "taken")
    assert code == 2
    assert f"error: {place}/taken/lease.json: cannot be used, since" in output
    assert "Remove or rename it" in output
    assert (place / "taken").read_text() == "a file"
    code, output = go("run", "s.yaml", "--out", "gopher://a/b")
    assert (code, "error: run folder gopher://a/b: cannot be opened" in output) == (2, True)
    (place / "bare").mkdir()
    for command in (["report", "bare"], ["export", "bare", "--to", "out"]):
        code, output = go(*command)
        assert code == 2
        assert output.startswith(f"error: {place}/bare is no run folder: it holds no study.yaml")


def test_a_run_folder_that_may_not_be_read(place: Path) -> None:
    """As another user than root, whom nothing is forbidden."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name, "run")
        folder.mkdir()
        (folder / "study.yaml").write_text("name: x")
        (folder / "study.yaml").chmod(0)
        os.chmod(name, 0o755)
        code = "import os, sys; from sweeps.cli import exit_codes; from sweeps.report import write\nif os.geteuid() == 0: os.seteuid(65534)\nexit_codes.main(sys.argv[1:])"
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [sys.executable, "-c", code, "report", str(folder)], env=env, cwd="/", capture_output=True, text=True
        )
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert str(folder) in done.stderr
    assert "Traceback" not in done.stderr
