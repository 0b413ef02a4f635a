"""The prompt searches on a real model: label scores and embeddings against plain transformers, and the command."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from chat_server import ChatServer
from checkout import ROOT
from tiny_run import PLAIN, make_model, rows, write_rows
from transformers import AutoModelForCausalLM, AutoTokenizer

from sweeps.cli import main
from sweeps.prompt_search.embed import at_answer, of_base, of_folder
from sweeps.prompt_search.label_engine import LabelEngine
from sweeps.prompt_search.search_folder import COLUMNS
from trainer.data.pools import load_pool
from trainer.data.rows import Row
from trainer.data.texts import RenderError
from trainer.data.wording import Prompt
from trainer.errors import UserError
from trainer.trial import Model, Task, Template

POOL = {
    f"t{i}": text
    for i, text in enumerate(["Is it good?\n{{ text }}", "{{ text }}\ngood?", "good: {{ text }}", "it {{ text }}"])
}
WORDS = (("no", " no"), ("yes", " yes"))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_model(tmp_path_factory.mktemp("search") / "model")


@pytest.fixture(scope="module")
def study(model: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything that a search must not read is garbage: dev and test prompts, dev and test rows."""
    folder = tmp_path_factory.mktemp("study")
    write_rows(folder / "train.jsonl", rows(40))
    (folder / "train.yaml").write_text(yaml.safe_dump(POOL))
    for name in ("dev", "test"):
        (folder / f"{name}.jsonl").write_text("this is no json\n")
        (folder / f"{name}.yaml").write_text("a: {{ broken\n")
    content = {
        "name": "tiny",
        "model": {"path": model},
        "task": {
            "rows": {n: f"{n}.jsonl" for n in ("train", "dev", "test")},
            "fields": ["text"], "id": "id", "max_length": 60, "label": "label", "labels": {"0": "no", "1": "yes"},
        },
        "templates": PLAIN,
        "pools": {
            "train": {"many": "train.yaml", "one": {"file": "train.yaml", "only": ["t1"]}},
            "dev": "dev.yaml", "test": "test.yaml",
        },
        "axes": {"lr": 1e-2, "steps": 4},
    }  # fmt: skip
    (folder / "tiny.yaml").write_text(yaml.safe_dump(content))
    return folder / "tiny.yaml"


def pairs() -> list[tuple[Prompt, Row]]:
    some = [Row(r["id"], {"text": r["text"]}, "yes" if r["label"] else "no") for r in rows(6)]
    return [(Prompt(i, text), row) for i, text in POOL.items() for row in some]


def engine(model: str, decision: str = "raw") -> LabelEngine:
    return LabelEngine(Model(model, "f"), Template("plain", words=WORDS), Task(("no", "yes"), max_length=60), decision)


def test_the_engine_gives_the_base_models_label_log_probabilities(model: str) -> None:
    plain = AutoModelForCausalLM.from_pretrained(model).eval()
    asked = engine(model)
    found = asked(pairs())
    for (values, tokens), request in zip(found, asked.renderer().requests(pairs()), strict=True):
        for value, option in zip(values, request.options, strict=True):
            ids = torch.tensor([[*request.context.tolist(), *option.tolist()]])
            with torch.inference_mode():
                logprobs = plain(input_ids=ids).logits[0].log_softmax(-1)
            n = len(request.context)
            expected = sum(float(logprobs[n - 1 + i, t]) for i, t in enumerate(option.tolist()))
            assert value == pytest.approx(expected, abs=1e-4)
        assert tokens == len(request.context) + sum(map(len, request.options))


def test_rules_with_a_baseline_are_compared_to_it(model: str) -> None:
    raw, pmi = engine(model)(pairs()), engine(model, "pmi")(pairs())
    shift = np.array([a for a, _ in raw]) - np.array([a for a, _ in pmi])
    assert np.allclose(shift, shift[0], atol=1e-4)  # the labels' own log-probabilities, whatever the prompt
    assert abs(shift[0]).min() > 0.1
    assert engine(model).context == engine(model, "batch").context != engine(model, "pmi").context


def test_embeddings_are_the_mean_of_the_last_hidden_states_also_after_scoring(model: str) -> None:
    plain, tokenizer = (
        AutoModelForCausalLM.from_pretrained(model).eval().base_model,
        AutoTokenizer.from_pretrained(model),
    )
    asked = engine(model)
    embed = of_base(asked)
    texts = list(POOL.values())
    asked(pairs())
    found = embed(texts)
    for text, vector in zip(texts, found, strict=True):
        with torch.inference_mode():
            hidden = plain(input_ids=torch.tensor([tokenizer(text).input_ids])).last_hidden_state[0]
        np.testing.assert_allclose(vector, hidden.mean(dim=0).numpy(), atol=1e-5)
    long = Row("long", {"text": "it good " * 200}, "no")
    embed([long.fields["text"]])  # more than the model's 256 positions: cut, and the renderer's tokenizer is not
    assert asked.renderer().lengths([(Prompt("p", "{{ text }}"), long)])[0] > 400
    assert asked.fits([(Prompt("p", "{{ text }}"), long)]) == [False]
    before = asked(pairs())
    np.testing.assert_allclose([v for v, _ in asked(pairs())], [v for v, _ in before], atol=1e-6)
    np.testing.assert_allclose(of_folder(model)(texts), found, atol=1e-5)


def test_a_prompt_as_the_state_in_which_the_model_would_answer(model: str) -> None:
    plain = AutoModelForCausalLM.from_pretrained(model).eval()
    asked = engine(model)
    row = pairs()[0][1]
    prompts = [Prompt(i, text) for i, text in POOL.items()]
    asked(pairs())  # leaves its slots and positions behind
    found, tokens = at_answer(asked, prompts, row)
    contexts = [r.context.tolist() for r in asked.renderer().requests([(p, row) for p in prompts])]
    assert tokens == sum(map(len, contexts))
    for context, vector in zip(contexts, found, strict=True):
        with torch.inference_mode():
            states = plain.base_model(input_ids=torch.tensor([context])).last_hidden_state[0]
        np.testing.assert_allclose(vector, states[-1].numpy(), atol=1e-5)
    other = at_answer(asked, prompts, Row("other", {"text": "bad bad bad"}, "no"))[0]
    assert not np.allclose(other, found, atol=1e-2)  # it is of the row as well
    with pytest.raises(RenderError, match="are longer than"):
        at_answer(asked, prompts, Row("long", {"text": "it good " * 200}, "no"))


def test_what_the_engine_cannot_do_is_refused(model: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no trained head.*model\.head=lm"):
        LabelEngine(Model(model, "f", head="classifier"), Template("plain"), Task(("no", "yes")))
    with pytest.raises(UserError, match=r'decision = "rwa" is not known. Did you mean "raw"'):
        engine(model, "rwa")
    with pytest.raises(UserError, match=r'--embeddings = ".*modle" is no folder. Did you mean "model"'):
        of_folder(model[:-5] + "modle")


# the command --------------------------------------------------------------------------------------------------


def run(*words: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["prompts", "search", *words])
    return int(ended.value.code or 0)


@pytest.mark.parametrize("method", ["top-accuracy", "random", "zopo", "batprompt"])
def test_every_method_leaves_a_pool_that_a_study_can_read_and_replays_for_nothing(
    method: str, study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(study), "--method", method, "--out", str(tmp_path), "--budget", "300", "--rows", "20"]
    assert run(*words) == 0, capsys.readouterr().err
    [prompt] = load_pool(str(tmp_path / method / "prompt.yaml"))
    assert "{{ text" in prompt.text
    first = json.loads((tmp_path / method / "search.json").read_text())
    assert 0 < first["spent"]["scorings"] <= 300
    assert first["spent"]["reused"] == 0
    assert run(*words) == 0
    again = json.loads((tmp_path / method / "search.json").read_text())
    assert again["result"] == first["result"]
    assert again["spent"]["reused"] == again["spent"]["scorings"] == first["spent"]["scorings"]
    assert again["spent"]["tokens"] == first["spent"]["tokens"]
    [line] = list(csv.DictReader((tmp_path / "budget.csv").read_text().splitlines()))
    assert (line["method"], line["scorings"]) == (method, str(first["spent"]["scorings"]))
    assert tuple(line) == COLUMNS
    evaluated = list(csv.DictReader((tmp_path / method / "evaluated.csv").open(newline="")))
    assert prompt.text in {e["text"] for e in evaluated}


def test_methods_that_share_a_folder_share_scorings_and_one_budget_report(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for method in ("random", "top-accuracy"):
        assert run(str(study), "--method", method, "--out", str(tmp_path), "--budget", "160", "--rows", "40") == 0
    lines = {r["method"]: r for r in csv.DictReader((tmp_path / "budget.csv").read_text().splitlines())}
    assert lines["random"]["reused"] == "0"
    assert lines["top-accuracy"]["reused"] == lines["top-accuracy"]["scorings"] == "16"  # four texts in the rows
    assert lines["random"]["score"] == lines["top-accuracy"]["score"]
    text = (tmp_path / "budget.md").read_text()
    assert "| top-accuracy | 0 |" in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--method", "zoop"], '--method = "zoop" is not known. Did you mean "zopo"'),
        (["--method", "zopo", "--pool", "mny"], '--pool = "mny" is no train pool of the study. Did you mean "many"'),
        (
            ["--method", "zopo", "--template", "pla"],
            '--template = "pla" is no template of the study. Did you mean "plain"',
        ),
        (["--method", "zopo", "--start", "t1"], "--start is for batprompt"),
        (
            ["--method", "batprompt", "--start", "t11"],
            '--start = "t11" is no prompt of the train pool. Did you mean "t1"',
        ),
    ],
)
def test_mistakes_are_told(
    words: list[str], message: str, study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(str(study), "--out", str(tmp_path), *words) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "budget.csv").exists()


ZOPO = {  # METHODS of arXiv 2403.02993, as docs/search.md tells them
    "initial": 40, "evaluations": 165, "neighbours": 20, "explore": 10, "uncertain": 0.1, "uncertain_times": 5,
    "patience": 4, "most_steps": 2, "lr": 0.5, "depth": 2, "width": 32, "noise": 0.01, "kernel": "raw",
    "scores": "raw", "embedding": "mean", "end_share": 0.0, "rows": 50,
}  # fmt: skip
BATPROMPT = {  # of arXiv 2412.18196
    "family": "mix", "iterations": 5, "sample": 5, "rounds": 3, "rewrites": 5, "improved": 5, "compared_on": 20,
    "kept": 5, "start": None, "start_share": 0.0, "end_share": 0.0, "characters_by": "writer", "attack_by": "metric",
    "clean_rows": False, "keep_current": False, "temperature": 1.0, "top_p": 0.95,
}  # fmt: skip


def record(folder: Path, method: str) -> dict[str, Any]:
    return json.loads((folder / method / "search.json").read_text())  # type: ignore[no-any-return]


def test_a_search_with_published_settings_records_every_one(
    study: Path, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(study), "--out", str(tmp_path), "--settings", "published"]
    assert run(*words, "--method", "zopo") == 0, capsys.readouterr().err
    found = record(tmp_path, "zopo")
    assert found["settings"] == {"name": "published", "encoder": "the base model", **ZOPO}
    assert found["order"]["budget"] == 4 * 50, "four candidates, of which each is evaluated"
    cells = [c for f in tmp_path.glob("journal/cells-*.json") for c in json.loads(f.read_text()).values()]
    embedded = sum(len(AutoTokenizer.from_pretrained(model)(text).input_ids) for text in POOL.values())
    assert found["spent"]["tokens"] == sum(tokens for _, tokens, _ in cells) + embedded


@pytest.mark.parametrize(("given", "budget"), [([], 400), (["--budget", "700"], 700)])
def test_as_published_races_are_paid_for_and_a_larger_budget_is_used(
    given: list[str], budget: int, study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(study), "--out", str(tmp_path), "--settings", "published", "--method", "zopo", *given]
    assert run(*words, "--set", "end_share=.5", "--set", "kernel=scaled") == 0, capsys.readouterr().err
    assert record(tmp_path, "zopo")["order"]["budget"] == budget
    evaluated = list(csv.DictReader((tmp_path / "zopo" / "evaluated.csv").open(newline="")))
    assert len({e["prompt"] for e in evaluated}) == 4


def rewriting(body: dict[str, Any]) -> str:
    """A writer that rewrites by number, keeps placeholders, and answers each request in the form that it asks for."""
    request = body["messages"][-1]["content"]
    text = request.rpartition(":\n")[2]
    wanted = re.search(r"(?:Rewrite the text|Write|in) (\d+)", request)
    if wanted is None:
        return "Letters are missing."
    return json.dumps([f"{text} {'it' * (1 + i % 3)}" for i in range(int(wanted[1]))])


def test_batprompt_as_published_has_a_model_write_and_counts_its_requests(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with ChatServer(rewriting) as server:
        words = [str(study), "--out", str(tmp_path), "--settings", "published", "--method", "batprompt"]
        words += ["--writer", server.spec(), "--set", "sample=2", "--set", "compared_on=4"]
        assert run(*words) == 0, capsys.readouterr().err
        assert " perturbed training rows" in capsys.readouterr().out
        asked, found = len(server.asked), record(tmp_path, "batprompt")
        given = {"sample": 2, "compared_on": 4}
        encoder = {"encoder": "the base model", "writer": server.spec()}
        assert found["settings"] == {"name": "published", **encoder, **BATPROMPT, **given}
        assert found["spent"]["requests"] >= asked > 0
        assert {(b["temperature"], b["top_p"]) for _, b in server.asked} == {(1.0, 0.95)}
        assert found["order"]["budget"] == 5 * (4 * 3 * 5 * 2 + 10 * 1 * 4)
        assert found["spent"]["scorings"] <= found["order"]["budget"]
        assert run(*words) == 0
        assert len(server.asked) == asked, "every reply is in the journal"
        assert record(tmp_path, "batprompt")["result"] == found["result"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--method", "zopo", "--settings", "publshed"], 'is not known. Did you mean "published"'),
        (["--method", "random", "--settings", "published"], "--settings published is for zopo and batprompt"),
        (["--method", "top-accuracy", "--set", "rows=3"], "are for zopo, batprompt and random"),
        (
            ["--method", "zopo", "--settings", "published", "--budget", "199"],
            "--budget = 199 is below the 200 scorings that --settings published need (4 evaluations x 50 rows)",
        ),
        (["--method", "batprompt", "--settings", "published"], "BATprompt rewrites with a language model"),
        (["--method", "batprompt", "--family", "mxi"], '--family = "mxi" is not known. Did you mean "mix"'),
        (["--method", "zopo", "--family", "mix"], "--family is for batprompt"),
        (["--method", "zopo", "--set", "patence=3"], 'a setting of zopo. Did you mean "patience"'),
        (["--method", "zopo", "--set", "patience=x"], '--set = "patience=x" must be a whole number'),
        (["--method", "zopo", "--set", "lr=0"], '--set = "lr=0" must be above 0'),
        (["--method", "random", "--set", "rows=0"], '--set = "rows=0" must be at least 1'),
        (["--method", "random", "--set", "end_share=5"], '--set = "end_share=5" must be at least 0 and below 1'),
        (["--method", "batprompt", "--set", "kept=0"], '--set = "kept=0" must be at least 1'),
        (["--method", "batprompt", "--set", "start_share=3"], '--set = "start_share=3" must be at least 0 and below 1'),
        (["--method", "batprompt", "--set", "start_share=.6"], "start_share = 0.6 and end_share = 0.4 must be below 1"),
        (["--method", "batprompt", "--set", "top_p=7"], '--set = "top_p=7" must be above 0 and at most 1'),
        (["--method", "batprompt", "--set", "temperature=nan"], '--set = "temperature=nan" must be 0 to 2'),
        (["--method", "batprompt", "--set", "iterations=0"], '--set = "iterations=0" must be at least 1'),
        (["--method", "batprompt", "--set", "top_p=.9"], '--set = "top_p=.9" is for a language model, and --writer'),
        (
            ["--method", "batprompt", "--set", "characters_by=writer"],
            '--set = "characters_by=writer" has a language model change the characters, and --writer is "rules"',
        ),
        (["--method", "zopo", "--set", "width=0"], '--set = "width=0" must be 1 to 4096'),
        (["--method", "zopo", "--set", "initial=0"], '--set = "initial=0" must be at least 1'),
        (["--method", "zopo", "--set", "evaluations=0"], '--set = "evaluations=0" must be at least 1'),
        (["--method", "zopo", "--set", "patience=-1"], '--set = "patience=-1" must be at least 0'),
        (
            ["--method", "zopo", "--settings", "published", "--set", "end_share=.25", "--budget", "266"],
            "is below the 267 scorings that --settings published need (4 evaluations x 50 rows, and 25% of all for",
        ),
        (["--method", "zopo", "--set", "kernel=row"], '--set = "kernel=row" must be one of scaled, raw'),
        (["--method", "batprompt", "--set", "clean_rows=1"], '--set = "clean_rows=1" must be true or false'),
    ],
)  # fmt: skip
def test_settings_that_cannot_be_are_told(
    words: list[str], message: str, study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(str(study), "--out", str(tmp_path), *words) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "budget.csv").exists()


def test_single_settings_are_laid_over_ours(study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [str(study), "--out", str(tmp_path), "--budget", "300", "--method", "zopo"]
    assert run(*words, "--set", "initial=2", "--set", "noise=none", "--rows", "10") == 0, capsys.readouterr().err
    found = record(tmp_path, "zopo")["settings"]
    assert (found["name"], found["initial"], found["noise"], found["rows"]) == ("ours", 2, None, 10)


@pytest.mark.long
def test_the_benchmark_runs_in_a_tiny_form(tmp_path: Path) -> None:
    root = ROOT
    command = [
        sys.executable,
        str(root / "benchmarks" / "prompt_search.py"),
        "--quick",
        "--case",
        "embedded",
        "--of",
        "zopo",
        "--json",
        str(tmp_path / "c.json"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads((tmp_path / "c.json").read_text())
    assert {(f["model"], f["method"]) for f in found} >= {("embedded", "zopo")}
    for one in found:
        assert list(one["rows"]) == ["published", "ours", "random", "random with a race"]
        for of in one["rows"].values():
            mean, low, high = of["accuracy"]
            assert low <= mean <= high
