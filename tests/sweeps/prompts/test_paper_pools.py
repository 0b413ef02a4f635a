"""Pools of the paper's size, made against a server on the loopback interface at full count, and who reads them."""

from __future__ import annotations

import json
import random
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from chat_server import ChatServer
from checkout import ROOT
from prompt_tasks import steadytune

from sweeps.study.load import load_study, resolved
from sweeps.study.shipped import STUDIES
from sweeps.trials.assets import load_pools, pool_choices
from trainer.data.likeness import clusters
from trainer.data.pools import load_pool

COMMON = (
    "answer ask better both bring carefully choice choose common compare consider correct decide different easily "
    "end every exam expect find first friend give good guess guide help honest idea imagine job judge keep know "
    "letter like line make may mean method mind moment name natural note often only other part people person pick "
    "place plan point practical question quick reach read reason really reply right say second sense short show "
    "simple someone state step student task teacher tell then thing think through time tool try two understand "
    "use way which while wise without wonder word work write "
)
WORDS = COMMON.split()


def wordings(body: dict[str, Any]) -> str:
    """As many as were asked for, each of other words, one of ten a repetition of another."""
    n = int(re.search(r"array of (\d+) strings", body["messages"][-1]["content"])[1])  # type: ignore[index]
    draw = random.Random(f"{body['model']} {body['seed']} {body['messages'][-1]['content']}")
    made = []
    for _ in range(n - 1):
        own = " ".join(draw.sample(WORDS, 14)).capitalize()
        made.append(f"{own}.\n{{{{ goal }}}}\nA. {{{{ sol1 }}}}\nB. {{{{ sol2 }}}}")
    return json.dumps([*made, made[0].upper().replace("GOAL", "goal").replace("SOL", "sol")])


@pytest.fixture
def preset(tmp_path: Path) -> Path:
    """A copy of the shipped study, whose made pools then lie in the copy's folder."""
    folder = tmp_path / "sweeps" / "studies"
    shutil.copytree(STUDIES / "prompts", folder / "prompts")
    shutil.copy(STUDIES / "paft.yaml", folder)
    return folder / "paft.yaml"


def test_one_command_makes_the_papers_counts_and_the_preset_reads_them(
    preset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = load_study(preset, files=False)
    assert "as " in pool_choices(before.pools, ["paft"])[0]
    assert len(load_pools(before.pools, ["paft"])[0]["paft"]) == 24
    with ChatServer(wordings) as server:
        models = [word for i in range(10) for word in ("--model", server.spec(f"writer-{i}"))]
        assert steadytune("prompts", "generate", str(preset), "--paper", *models) == 0
        asked = len(server.asked)
        requests = [b["messages"][-1]["content"] for _, b in server.asked]
        few_shot = sum("Wordings of the instruction that people have written" in text for text in requests)
        assert 0 < few_shot < asked, "both strategies"
        assert all("Which of the two solutions reaches the goal?" in text for text in requests)
        made = preset.parents[2] / "runs" / "paft-pools" / "piqa"
        train, test = (load_pool(str(made / f"{name}.yaml")) for name in ("train", "test"))
        assert (len(train), len(test)) == (400, 50)
        human = {p.text for p in load_pool(str(STUDIES / "prompts" / "paft_piqa_test.yaml"))}
        assert human < {p.text for p in test}
        assert len(clusters([p.text for p in (*train, *test)])) == 450, "no near duplicates, within and across"
        usage = (made / "train.usage.csv").read_text()
        assert usage.count("few-shot") == usage.count("zero-shot") == 10

        files = {name: (made / f"{name}.yaml").read_bytes() for name in ("train", "test")}
        assert steadytune("prompts", "generate", str(preset), "--paper", *models) == 0
        assert len(server.asked) == asked, "nothing is paid for twice"
        wrote = {p.id: i for i, p in enumerate(load_pool(str(made / "made.yaml")))}  # model after model
        places = [wrote[p.id] for p in train[:32]]
        assert min(places) < 50 < 350 < max(places), "the first prompts are of many models"
        for name in ("train", "test", "made"):
            file, text = made / f"{name}.yaml", (made / f"{name}.yaml").read_text()
            file.write_text(edited := text + 'mine: "{{ goal }} {{ sol1 }} {{ sol2 }}"\n')
            assert steadytune("prompts", "generate", str(preset), "--paper", *models) == 2
            said = capsys.readouterr().err
            assert f"{name}.yaml: exists, and is not as `prompts generate` wrote it. Move it away" in said
            assert "--out" not in said
            assert file.read_text() == edited
            file.write_text(text)
        assert {name: (made / f"{name}.yaml").read_bytes() for name in files} == files

    study = load_study(preset, files=False)
    found, scored = load_pools(study.pools, ["paft", "user", "first_256"])
    assert [len(found[name]) for name in ("paft", "user", "first_256")] == [400, 1, 256]
    assert found["user"][0].id == "t01"
    assert (len(scored["dev"]), len(scored["test"])) == (6, 50)
    assert pool_choices(study.pools, ["paft"]) == [
        f"pools.train.paft: read from {made / 'train.yaml'}",
        f"pools.test: read from {made / 'test.yaml'}",
    ]
    kept = resolved(study)["pools"]["train"]["paft"]
    assert kept == {"file": str(made / "train.yaml"), "prefer": None, "only": [], "limit": None}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["quickstart", "--paper"],
            "--paper writes the pools that a study reads instead of its own, and this",
        ),
        (["paft", "--paper", "--number", "3"], "--number cannot be combined with --paper"),
        (["paft", "--paper", "--out", "x.yaml"], "--out cannot be combined with --paper"),
        (["paft"], "--out is missing: the pool to write"),
    ],
)
def test_what_paper_decides_cannot_be_given(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert steadytune("prompts", "generate", *words, "--model", "writer@http://127.0.0.1:9/v1") == 2
    assert message in capsys.readouterr().err


def test_a_file_that_was_not_made_is_not_replaced(preset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = preset.parents[2] / "runs" / "paft-pools" / "piqa"
    made.mkdir(parents=True)
    (made / "train.yaml").write_text("mine: 'Which one? {{ goal }} {{ sol1 }} {{ sol2 }}'\n")
    with ChatServer(wordings) as server:
        assert steadytune("prompts", "generate", str(preset), "--paper", "--model", server.spec()) == 2
        assert server.asked == []
    said = capsys.readouterr().err
    assert "train.yaml: exists, and is not as `prompts generate` wrote it. Move it away (the answers" in said
    assert (made / "train.yaml").read_text().startswith("mine")


def test_every_preset_says_what_its_task_asks_and_where_its_pools_may_lie() -> None:
    for path in sorted((ROOT / "sweeps" / "studies").glob("paft*.yaml")):
        if path.stem == "paft-small":
            continue
        study = load_study(path, files=False)
        assert study.task.meaning is not None
        assert study.pools.train["paft"].prefer
        assert study.pools.test is not None
        assert study.pools.test.prefer
        assert [study.arms[a].draw.every for a in ("k1", "k2", "k8", "k1_t6") if study.arms[a].draw] == [1, 2, 8, 1]
        assert study.arms["k1_t6"].epochs == 6
        assert [study.pools.train[f"first_{n}"].limit for n in (2, 4, 8, 16, 32, 64, 128, 256)] == [
            2, 4, 8, 16, 32, 64, 128, 256,
        ]  # fmt: skip
