"""Generation against real servers: determinism, what is paid once stays, failures that lose nothing, the tables."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from chat_server import ChatServer, distinct_wordings, some_wordings
from checkout import ROOT
from prompt_tasks import steadytune, task_file

from sweeps.prompts.brief import FEW_SHOT, STRATEGIES, ZERO_SHOT, Brief, read_brief
from sweeps.prompts.endpoints import Endpoint, RetryLimits, open_endpoint
from sweeps.prompts.files import content_id
from sweeps.prompts.generation import GenerationError, GenerationSettings, WordingSource, generate_wordings
from sweeps.prompts.journal import JournalError, open_journal
from sweeps.prompts.usage import usage_csv, usage_md, usage_tex
from sweeps.prompts.validation import fault
from trainer.data.likeness import clusters
from trainer.data.pools import load_pool

QUICK = RetryLimits(attempts=3, first_pause=0.01, longest_pause=0.02, timeout=5.0)


@pytest.fixture
def brief(tmp_path: Path) -> Brief:
    return read_brief(task_file(tmp_path, terms={"one_of": ["unhappy", "upset", "complain"]}), "pool.yaml")


@pytest.fixture
def servers() -> Iterator[list[ChatServer]]:
    with ChatServer() as first, ChatServer() as second:
        yield [first, second]


def models_of(servers: Sequence[ChatServer], patience: RetryLimits = QUICK) -> list[Endpoint]:
    """Named without the port, which changes from run to run: names are part of a request's seed."""
    found = [open_endpoint(s.spec(f"writer-{i}"), {}, 500, 1.0, patience) for i, s in enumerate(servers)]
    return [replace(m, name=f"{m.model}@here") for m in found]


def run(
    out: Path,
    brief: Brief,
    servers: Sequence[ChatServer],
    number: int = 6,
    strategies: tuple[str, ...] = STRATEGIES,
) -> tuple[list[WordingSource], list[str]]:
    said: list[str] = []
    with open_journal(str(out)) as journal:
        settings = GenerationSettings(strategies, number, 4)
        return generate_wordings(brief, models_of(servers), settings, journal, said.append), said


def texts(sources: Sequence[WordingSource]) -> list[list[str]]:
    return [s.taken for s in sources]


def test_every_source_gives_its_number_of_valid_wordings_that_differ(
    tmp_path: Path, brief: Brief, servers: list[ChatServer]
) -> None:
    sources, _ = run(tmp_path / "pool.yaml", brief, servers)
    assert [(s.model.name, s.strategy) for s in sources] == [
        (f"writer-{i}@here", n) for i in range(2) for n in STRATEGIES
    ]
    assert [len(s.taken) for s in sources] == [6, 6, 6, 6]
    pool = [text for s in sources for text in s.taken]
    assert {fault(text, brief) for text in pool} == {None}
    assert len(clusters([*pool, *(p.text for p in brief.examples)])) == 24 + 2
    for server in servers:
        shown = ["people have written" in body["messages"][1]["content"] for _, body in server.asked]
        assert set(shown) == {True, False}


def test_the_pool_does_not_depend_on_who_answers_first_or_on_faults(tmp_path: Path, brief: Brief) -> None:
    found = []
    for turn, slow in enumerate([(0.0, 0.0), (0.15, 0.0), (0.0, 0.15)]):
        with ChatServer() as a, ChatServer() as b:
            for server, delay in zip((a, b), slow, strict=True):
                server.slow = delay
                server.faults = ["slow", 503] if delay else []
            with open_journal(str(tmp_path / f"{turn}.yaml")) as journal:
                found.append(
                    texts(
                        generate_wordings(
                            brief, models_of((a, b)), GenerationSettings(STRATEGIES, 6, 4), journal, print
                        )
                    )
                )
    assert found[0] == found[1] == found[2]


def test_what_was_paid_for_is_not_asked_again(tmp_path: Path, brief: Brief, servers: list[ChatServer]) -> None:
    out, one = tmp_path / "pool.yaml", servers[:1]
    first, _ = run(out, brief, one)
    n = len(servers[0].asked)
    again, said = run(out, brief, one)
    assert texts(again) == texts(first)
    assert len(servers[0].asked) == n
    assert all("kept from before" in line for line in said)
    both, _ = run(out, brief, servers)  # another model: the first one's answers serve
    assert len(servers[0].asked) == n + sum(len(s.answers) for s in both[:2]) - sum(len(s.answers) for s in first)
    n = len(servers[0].asked)
    run(out, replace(brief, about="Another question?"), one, 4, strategies=(ZERO_SHOT,))
    assert len(servers[0].asked) > n, "another task is another request"


def test_more_wordings_are_asked_for_without_asking_for_the_first_again(
    tmp_path: Path, brief: Brief, servers: list[ChatServer]
) -> None:
    out, one = tmp_path / "pool.yaml", servers[:1]
    [few], _ = run(out, brief, one, 4, (ZERO_SHOT,))
    n = len(servers[0].asked)
    [more], _ = run(out, brief, one, 8, (ZERO_SHOT,))
    assert more.taken[:4] == few.taken
    assert len(servers[0].asked) == len(more.answers) > n


def test_a_failing_model_loses_nothing_of_the_others(tmp_path: Path, brief: Brief, servers: list[ChatServer]) -> None:
    out, (good, bad) = tmp_path / "pool.yaml", servers
    bad.faults = [503] * 3
    with pytest.raises(GenerationError) as caught:
        run(out, brief, servers)
    [failure, kept] = str(caught.value).splitlines()
    assert 'model "writer-1@here" gave no answer in 3 attempts' in failure
    assert re.match(r"2 answers are kept in .*pool\.journal\.jsonl: run the same command again", kept)
    n = len(good.asked)
    sources, _ = run(out, brief, servers)
    assert [len(s.taken) for s in sources] == [6] * 4
    assert len(good.asked) == n + sum(len(s.answers) for s in sources[:2]) - 2


def test_a_torn_journal_line_costs_that_answer_only(tmp_path: Path, brief: Brief, servers: list[ChatServer]) -> None:
    out, journal = tmp_path / "pool.yaml", tmp_path / "pool.journal.jsonl"
    first, _ = run(out, brief, servers[:1])
    n = len(servers[0].asked)
    journal.write_bytes(journal.read_bytes()[:-30])
    again, _ = run(out, brief, servers[:1])
    assert len(servers[0].asked) == n + 1
    assert texts(again) == texts(first)
    third, _ = run(out, brief, servers[:1])
    assert (len(servers[0].asked), texts(third)) == (n + 1, texts(first))


def test_one_generation_at_a_time(tmp_path: Path) -> None:
    with (
        open_journal(str(tmp_path / "pool.yaml")),
        pytest.raises(JournalError, match="another generation is writing it"),
        open_journal(str(tmp_path / "pool.yaml")),
    ):
        pass


def test_a_model_that_cannot_is_left_after_a_bounded_number_of_requests(
    tmp_path: Path, brief: Brief, servers: list[ChatServer]
) -> None:
    servers[1].answer = lambda body: "I cannot help with that."
    sources, said = run(tmp_path / "pool.yaml", brief, servers)
    assert [len(s.taken) for s in sources] == [6, 6, 0, 0]
    assert len(servers[1].asked) == 2 * GenerationSettings(STRATEGIES, 6, 4).most_requests == 12
    assert sources[2].verdicts == {"missing placeholder": 6}
    assert any("0 of 1 taken (1 missing placeholder)" in line for line in said)


# tables ---------------------------------------------------------------------------------------------------------


def test_the_tables_of_tokens(tmp_path: Path, brief: Brief, servers: list[ChatServer]) -> None:
    servers[1].usage = False
    sources, _ = run(tmp_path / "pool.yaml", brief, servers)
    rows = list(csv.DictReader(usage_csv(sources).splitlines()))
    asked = servers[0].asked
    words = sum(len(m["content"].split()) for _, body in asked for m in body["messages"])
    written = sum(len(some_wordings(body).split()) for _, body in asked)
    assert sum(int(r["prompt_tokens"]) for r in rows[:2]) == words
    assert sum(int(r["completion_tokens"]) for r in rows[:2]) == written
    assert {(r["total_tokens"], r["tokens_per_accepted"]) for r in rows[2:]} == {("", "")}
    assert [int(r["uncounted_answers"]) for r in rows[2:]] == [len(s.answers) for s in sources[2:]]
    for row in rows:
        rejected = sum(int(n) for name, n in row.items() if name.startswith("rejected_"))
        assert int(row["accepted"]) + rejected == int(row["wordings"])

    page, total = usage_md(sources, "pool"), words + written
    assert "| writer-0@here | " in page
    assert f"| sum | {sources[0].prompt_tokens + sources[0].completion_tokens:,} | " in page
    assert f" | {total:,} |\n" in page
    assert "| writer-1@here | not counted | not counted | not counted |" in page
    tex = usage_tex(sources)
    assert "writer-0@here & " in tex
    assert tex.count(r" \\") == 1 + 2 + 2
    sources[0].model.name = "a_b%c#d\\e{f}~g^h\n$&"
    [row] = [line for line in usage_tex(sources).splitlines() if line.startswith("a")]
    assert row.startswith(r"a\_b\%c\#d\textbackslash{}e\{f\}\textasciitilde{}g\^{}h \$\& & ")


# the command ----------------------------------------------------------------------------------------------------


def test_the_command_writes_a_pool_and_its_tables_and_no_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    secret, out = "sk-very-secret-0123456789", tmp_path / "made" / "pool.yaml"
    monkeypatch.setenv("WRITER_KEY", secret)
    with ChatServer(distinct_wordings(), key=secret) as server:
        server.faults = [(429, {"Retry-After": "0"}, secret.encode()), "html"]
        words = ["prompts", "generate", task_file(tmp_path), "--model", server.spec(), "--out", str(out)]
        words += ["--number", "5", "--at-once", "5", "--key", f"{server.host}=WRITER_KEY"]
        assert steadytune(*words) == 0
        before = {p.name: p.read_bytes() for p in out.parent.iterdir()}
        assert set(before) == {"pool.yaml", "pool.journal.jsonl", "pool.usage.md", "pool.usage.csv", "pool.usage.tex"}
        n = len(server.asked)
        assert steadytune(*words) == 0
        assert {p.name: p.read_bytes() for p in out.parent.iterdir()} == before
        assert len(server.asked) == n, "what is paid for is kept"
        told = capsys.readouterr()
        assert secret not in told.out + told.err + "".join(d.decode() for d in before.values())
        assert f"{out}: 10 wordings" in told.out

        pool = load_pool(str(out))
        assert len(pool) == 10
        assert [p.id for p in pool] == [content_id(p.text) for p in pool]
        text = out.read_text()
        assert text.startswith("# 10 wordings of: Is the writer of the message unhappy?\n")
        assert f"# {server.spec()}, few-shot\n" in text
        assert yaml.safe_load(text) == {p.id: p.text for p in pool}

        out.write_text(text.replace(pool[0].text[:8], "By hand "))
        assert steadytune(*words) == 2
        assert "is not as `prompts generate` wrote it" in capsys.readouterr().err


def test_a_pool_that_people_wrote_is_not_replaced_and_nothing_is_paid(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with ChatServer() as server:
        task = task_file(tmp_path)
        human = tmp_path / "human.yaml"
        before = human.read_bytes()
        assert steadytune("prompts", "generate", task, "--model", server.spec(), "--out", str(human)) == 2
        assert (human.read_bytes(), server.asked) == (before, [])
        assert "Name another --out" in capsys.readouterr().err


def test_an_answer_is_untrusted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Wordings that would end a comment, run code, or move the cursor; and names that are no names."""
    good = "Is the writer unhappy: yes?\n# no comment\n- {{ text }} 'quoted' \\ \u2028 \"twice\""
    hostile = [good, "unhappy {{ text.__class__ }}", "unhappy {{ text }}\x1b[2J", "unhappy {% include 'x' %}{{ text }}"]
    with ChatServer(lambda body: json.dumps(hostile)) as server:
        out = tmp_path / "pool.yaml"
        words = ["prompts", "generate", task_file(tmp_path), "--model", server.spec("a\u2028b"), "--out", str(out)]
        assert steadytune(*words, "--strategy", ZERO_SHOT, "--number", "1") == 0
    assert [p.text for p in load_pool(str(out))] == [good]
    assert list(yaml.safe_load(out.read_text()).values()) == [good]
    assert "# a b@http://" in out.read_text()
    assert "\x1b" not in capsys.readouterr().err


def test_mistakes_are_told_before_anything_is_paid(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with ChatServer() as server:
        task = task_file(tmp_path)
        for extra, message in {
            ("--out", "pool.txt"): "must end in .yaml",
            ("--out", "s3://bucket/pool.yaml"): "is no path on this machine",
            ("--strategy", "few"): "Did you mean",
            ("--model", server.spec()): "is named twice",
            ("--model", str(tmp_path / "no-model")): "is no folder",
            ("--model", f"m@ftp://{server.host}"): "is no endpoint",
            ("--key", "example.org=KEY"): "no --model is at the host",
            ("--key", f"{server.host}=NOT_SET_ANYWHERE"): "is not set",
            ("--dtype", "float16"): "is not known",
            ("--apart", str(tmp_path / "gone.yaml")): "no such file",
        }.items():
            words = ["prompts", "generate", task, "--model", server.spec(), "--out", str(tmp_path / "p.yaml")]
            assert steadytune(*words, *extra) == 2, extra
            assert message in capsys.readouterr().err
        assert server.asked == []


def test_no_usable_wording_is_an_error_that_leaves_the_count(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with ChatServer(lambda body: "No.") as server:
        out = tmp_path / "pool.yaml"
        words = ["prompts", "generate", task_file(tmp_path), "--model", server.spec(), "--out", str(out)]
        assert steadytune(*words, "--number", "3", "--strategy", FEW_SHOT) == 2
    assert "no answer held a usable wording" in capsys.readouterr().err
    assert not out.exists()
    assert "missing placeholder" in (tmp_path / "pool.usage.md").read_text()


def test_an_interrupted_generation_goes_on_where_it_was(tmp_path: Path) -> None:
    """The process is killed while the third answer is on its way."""
    with ChatServer(distinct_wordings()) as server:
        server.slow, server.faults = 30.0, [None, None, "slow"]
        words = ["prompts", "generate", task_file(tmp_path), "--model", server.spec(), "--out", "pool.yaml"]
        command = [sys.executable, "-m", "sweeps", *words, "--number", "6", "--at-once", "3"]
        with subprocess.Popen(command, cwd=tmp_path, env=_environment(), stderr=subprocess.PIPE) as process:
            while len(server.asked) < 3 and process.poll() is None:
                pass
            process.kill()
        assert len((tmp_path / "pool.journal.jsonl").read_text().splitlines()) == 2
        server.faults = []
        done = subprocess.run(command, cwd=tmp_path, env=_environment(), capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert done.stderr.count("kept from before") == 2
        assert len(load_pool(str(tmp_path / "pool.yaml"))) == 12


def test_ctrl_c_leaves_at_once_and_says_how_to_go_on(tmp_path: Path) -> None:
    """Both servers are slow to answer; what came before is kept."""
    with ChatServer() as first, ChatServer() as second:
        first.slow = second.slow = 60.0
        first.faults, second.faults = [None, "slow"], [None, None, "slow"]
        words = ["prompts", "generate", task_file(tmp_path), "--model", first.spec(), "--model", second.spec()]
        command = [sys.executable, "-m", "sweeps", *words, "--out", "pool.yaml", "--number", "6", "--at-once", "3"]
        with subprocess.Popen(command, cwd=tmp_path, env=_environment(), stderr=subprocess.PIPE, text=True) as process:
            while len(first.asked) < 2 or len(second.asked) < 2:
                assert process.poll() is None
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=30)  # less than the servers take
        assert process.returncode == 130
        assert said.endswith("interrupted: run the same command again to continue\n")
    assert len((tmp_path / "pool.journal.jsonl").read_text().splitlines()) >= 2


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}
