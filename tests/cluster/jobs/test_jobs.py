"""Studies as jobs: what travels, under which name, and the way of one through a real cluster with a token."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest
import yaml
from checkout import EMBEDDED, ROOT
from local_head import Head, plain_environment, steadytune
from small_study import write_study

from cluster.jobs.parcel import MIB, ParcelError, check_size, fingerprint, source_files, write_parcel
from cluster.jobs.server import JobError, dashboard_address
from sweeps.run_folder.fetch import fetch
from sweeps.study.load import load_study
from sweeps.study.overlay import StudyError
from sweeps.study.study import Study
from sweeps.submit import FILE, in_job_id, run_folder, travelling
from sweeps.trials.from_points import make_trials, points_of
from sweeps.trials.load_content import content_of
from trainer.errors import UserError
from trainer.store import Store

# what travels -----------------------------------------------------------------------------------------------------


def test_the_code_that_travels_is_what_runs_and_no_more(tmp_path: Path) -> None:
    names = set(source_files())
    assert {
        "trainer/trial.py",
        "cluster/hosting/hosts.py",
        "sweeps/cli/exit_codes.py",
        "sweeps/report/report.html.j2",
    } <= names
    assert not [n for n in names if "__pycache__" in n or n.startswith(("tests/", "sweeps/embedded/", "docs/"))]
    write_parcel(source_files(), tmp_path)
    env = plain_environment(str(tmp_path)) | {"PYTHONPATH": ""}
    done = subprocess.run([sys.executable, "-m", "sweeps", "run", "-h"], cwd=tmp_path, env=env, capture_output=True)
    assert done.returncode == 0
    assert sum(p.stat().st_size for p in tmp_path.rglob("*.py")) < 2.5 * MIB


@pytest.mark.parametrize("git", [True, False])
def test_what_gitignore_names_stays(git: bool, tmp_path: Path) -> None:
    for name in ("trainer/a.py", "trainer/new.py", "sweeps/my.secret", "sweeps/__pycache__/a.pyc", "other/b.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    (tmp_path / ".gitignore").write_text("*.secret\n__pycache__/\n")
    if git:
        subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
        subprocess.run(["git", "add", "trainer/a.py"], cwd=tmp_path, check=True)
    secret = set() if git else {"sweeps/my.secret"}
    assert set(source_files(tmp_path)) == {"trainer/a.py", "trainer/new.py", *secret}


def test_too_much_is_refused_with_the_largest_files(tmp_path: Path) -> None:
    (tmp_path / "big.jsonl").write_bytes(b"x" * 3 * MIB)
    files = {"study/files/0/big.jsonl": tmp_path / "big.jsonl", **{f"{i}.py": b"x" * (10 + i) for i in range(9)}}
    check_size(files, 4 * MIB)
    with pytest.raises(ParcelError) as error:
        check_size(files, 2 * MIB)
    text = str(error.value)
    assert f"{tmp_path}/big.jsonl (3.0 MiB), 8.py" in text
    assert "at most 2.0 MiB can be sent" in text
    assert "--shared" in text
    assert "0.py" not in text


def ids(study: Study) -> list[str]:
    points = points_of(study)
    assert points is not None
    return [t.id for t in make_trials(study, points, content_of(study))]


def test_a_study_loads_from_its_parcel_with_the_same_trials(tmp_path: Path) -> None:
    study = load_study(write_study(tmp_path))
    parcel = travelling(study)
    write_parcel(parcel, tmp_path / "there")
    (tmp_path / "moved").mkdir()
    shutil.move(tmp_path / "there", tmp_path / "moved" / "x")
    loaded = load_study(tmp_path / "moved" / "x" / FILE)
    assert loaded.model.path.startswith(str(tmp_path / "moved"))
    assert str(EMBEDDED) not in (tmp_path / "moved" / "x" / FILE).read_text()
    assert ids(loaded) == ids(study)
    assert len([n for n in parcel if n.endswith("train.jsonl")]) == 1
    assert len([n for n in parcel if n.endswith("train.yaml")]) == 1, "two pools of one file: it goes once"


def test_rows_may_be_a_folder_and_no_pickle_goes_along(tmp_path: Path) -> None:
    rows = (EMBEDDED / "data" / "train.jsonl").read_text().splitlines(keepends=True)
    shutil.copytree(EMBEDDED / "model", tmp_path / "model")
    (tmp_path / "model" / "optimizer.pt").write_bytes(b"pickle")
    (tmp_path / "model" / ".secret").write_bytes(b"x")
    for i, part in enumerate((rows[:60], rows[60:200])):
        (tmp_path / "parts").mkdir(exist_ok=True)
        (tmp_path / "parts" / f"rows-{i}.jsonl").write_text("".join(part))
    path = write_study(tmp_path, model={"path": "model"})
    sources = {"train": {"path": "parts"}, "dev": {"path": "parts", "limit": 8}, "test": {"path": "parts"}}
    study = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump({**study, "task": {**study["task"], "rows": sources, "id": None}}))
    loaded = load_study(path)
    parcel = travelling(loaded)
    write_parcel(parcel, tmp_path / "there")
    assert ids(load_study(tmp_path / "there" / FILE)) == ids(loaded)
    assert not [n for n in parcel if "optimizer.pt" in n or "secret" in n]


def test_what_is_shared_stays_and_keeps_its_path(tmp_path: Path) -> None:
    study = load_study(write_study(tmp_path))
    parcel = travelling(study, [str(EMBEDDED / "model")])
    shipped = parcel[FILE]
    assert isinstance(shipped, bytes)
    assert yaml.safe_load(shipped)["model"]["path"] == str(EMBEDDED / "model")
    assert not [n for n in parcel if n.endswith(".safetensors")]
    with pytest.raises(ParcelError, match=r"model\.path.*--shared.*hub"):
        travelling(study, most=MIB)


def test_a_file_that_is_nowhere_is_told_with_its_key(tmp_path: Path) -> None:
    path = write_study(tmp_path, pools={"dev": str(tmp_path / "gone.yaml")})
    with pytest.raises(StudyError, match=r'pools\.dev\.file = ".*gone\.yaml" does not exist.*--shared'):
        travelling(load_study(path, files=False))
    assert travelling(load_study(path, files=False), [str(tmp_path)])


def test_the_name_of_a_job_follows_the_content(tmp_path: Path) -> None:
    path = write_study(tmp_path)
    first = fingerprint(travelling(load_study(path)))
    assert first == fingerprint(travelling(load_study(path)))
    assert first != fingerprint(travelling(load_study(path, ["axes.lr=1e-4"])))
    shutil.copy(EMBEDDED / "data" / "dev.jsonl", tmp_path / "dev.jsonl")
    change = [f"task.rows.dev.path={tmp_path}/dev.jsonl"]
    before = fingerprint(travelling(load_study(path, change)))
    (tmp_path / "dev.jsonl").write_text((tmp_path / "dev.jsonl").read_text() + "\n")
    assert before != fingerprint(travelling(load_study(path, change)))
    assert in_job_id("my study/ü?x") == "my-study-x"


# addresses and run folders ----------------------------------------------------------------------------------------


def cluster(*hosts: str) -> SimpleNamespace:
    return SimpleNamespace(nodes=lambda: [SimpleNamespace(host=h) for h in hosts])


def test_the_run_folder_must_be_where_all_nodes_see_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    here = os.uname().nodename
    assert run_folder("s3://b/runs/x/", "x", cluster("a", "b")) == "s3://b/runs/x"
    assert run_folder(None, "x", cluster(here)) == str(tmp_path / "runs" / "x")
    assert run_folder("out", "x", cluster(here)) == str(tmp_path / "out")
    assert capsys.readouterr().err == ""
    assert run_folder("/shared/x", "x", cluster("a", "b")) == "/shared/x"
    assert "must be a disk that all 2 nodes share" in capsys.readouterr().err
    for out, nodes, message in (
        ("out", (here, "b"), '--out = "out" is a relative path: 2 nodes must see'),
        (None, (here, "b"), "--out is missing: 2 nodes must see"),
        ("out", ("elsewhere",), "another machine (elsewhere)"),
        ("ftp://x/y", ("a",), "ftp:// is not known"),
        ("s3://key:word@b/x", ("a",), "carries a password"),
    ):
        with pytest.raises(UserError) as error:
            run_folder(out, "x", cluster(*nodes))
        assert message in str(error.value)


def test_an_address_is_a_dashboards(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    assert dashboard_address("head:8265") == "http://head:8265"
    assert dashboard_address("https://head/") == "https://head"
    for given, message in (
        (None, "--address is missing"),
        ("ray://head:10001", "is no dashboard"),
        ("os://x", "is no dashboard"),
        ("head:6379", "is the port for nodes"),
        ("http://me:word@head", "carries a password"),
    ):
        with pytest.raises(JobError, match=message):
            dashboard_address(given)
    monkeypatch.setenv("RAY_ADDRESS", "http://head:8265")
    assert dashboard_address(None) == "http://head:8265"


def test_a_cluster_that_is_not_there_is_told_in_one_line(tmp_path: Path) -> None:
    env = plain_environment(str(tmp_path))
    done = steadytune("status", "--address", "http://127.0.0.1:9", where=tmp_path, environment=env)
    assert done.returncode == 2
    assert done.stderr.startswith("error: cluster http://127.0.0.1:9 cannot be reached (Connection refused).")
    assert done.stderr.count("\n") == 1


# the way of one job -----------------------------------------------------------------------------------------------


@pytest.mark.cluster
def test_submit_follow_stop_and_submit_again(head: Head, tmp_path: Path) -> None:
    """The second submission goes on where the first was stopped. One trial with many rungs, which does not end here."""
    long = {"plw": [0.1], "pool": ["many"], "steps": 20_000}
    rungs = [0.0005, *(i / 99 for i in range(1, 100))]
    write_study(tmp_path, axes=long, scheduler={"rungs": rungs}, resources={"slots": 1, "cpus": 1})
    run = tmp_path / "runs" / "small"
    at = ("--address", head.address)
    sent = head.command("submit", "small.yaml", *at, where=tmp_path)
    assert sent.returncode == 0, sent.stderr
    assert sent.stderr == ""
    job = sent.stdout.split(":")[0]
    assert job.startswith("small-")
    assert job.endswith("-1")
    assert f"submitted; run folder {run}" in sent.stdout

    with following(head, job, tmp_path) as logs:
        seen = until(logs, "rung 1/100 at step 10")
        again = head.command("submit", "small.yaml", *at, where=tmp_path)
        assert f"{job}: this study already runs there (RUNNING); nothing was sent" in again.stdout
        other = steadytune(
            "run", "small.yaml", "--out", str(run), where=tmp_path, environment=plain_environment(str(tmp_path))
        )
        assert other.returncode == 2
        assert f"run folder {run} is in use: host {os.uname().nodename}" in other.stderr
        assert f"job {job}" in other.stderr
        stopped = head.command("stop", "small", *at, where=tmp_path)
        assert f"{job}: STOPPED" in stopped.stdout, stopped.stderr
        seen += logs.communicate(timeout=60)[0]
        assert logs.returncode == 1
    assert seen.count("rung 1/100 at step 10") == 1
    assert f"job {job}: STOPPED" in seen
    assert "Traceback" not in seen
    made = {p: p.stat().st_mtime_ns for p in run.glob("scores/*/*-dev.parquet")}
    assert made

    sent = head.command("submit", "small.yaml", *at, where=tmp_path)
    second = sent.stdout.split(":")[0]
    assert second == f"{job[:-1]}2"
    assert f"goes on in {run} where attempt 1 ended" in sent.stdout
    with following(head, "small", tmp_path) as logs:
        until(logs, f"rung {len(made) + 1}/100")
        assert f"{second}: STOPPED" in head.command("stop", second, *at, where=tmp_path).stdout
        logs.communicate(timeout=60)
    assert {p: p.stat().st_mtime_ns for p in made} == made, "finished rungs were read, not made again"
    assert len(list(run.glob("scores/*/*-dev.parquet"))) > len(made)

    table = head.command("status", "small", *at, where=tmp_path).stdout
    assert [line.split()[:2] for line in table.splitlines()[1:]] == [[second, "STOPPED"], [job, "STOPPED"]]
    assert "has ended already: STOPPED" in head.command("stop", "small", *at, where=tmp_path).stdout
    wrong = head.command("logs", "smal", *at, where=tmp_path)
    assert 'job "smal" is not known' in wrong.stderr
    assert "Did you mean" in wrong.stderr


def following(head: Head, job: str, where: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "sweeps", "logs", "-f", job, "--address", head.address]
    environment = head.environment(PYTHONUNBUFFERED="1")
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=where, env=environment, stdout=pipe, stderr=subprocess.STDOUT, text=True)


def until(process: subprocess.Popen[str], text: str) -> str:
    """What it prints, up to the line that holds ``text``."""
    assert process.stdout is not None
    seen = ""
    while text not in seen:
        line = process.stdout.readline()
        assert line, seen[-3000:]
        seen += line
    return seen


@pytest.mark.cluster
def test_the_results_of_a_job_are_of_use_elsewhere(head: Head, tmp_path: Path) -> None:
    write_study(tmp_path, axes={"plw": [0.1], "pool": ["many"], "steps": 4}, scheduler={"name": "none"})
    run = tmp_path / "out"
    at = ("--address", head.address)
    sent = head.command("submit", "small.yaml", "name=short", *at, "--out", "out", where=tmp_path)
    assert f"run folder {run}" in sent.stdout, sent.stderr
    job = sent.stdout.split(":")[0]
    ended = head.command("logs", "--follow", "short", *at, where=tmp_path)
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr
    assert "robustness over prompts" in ended.stdout
    assert ended.stdout == head.command("logs", job, *at, where=tmp_path).stdout
    assert "SUCCEEDED" in head.command("status", str(run), *at, where=tmp_path).stdout
    assert not (run / "lease.json").exists()
    fetched = head.command("results", "short", "--to", "mine", *at, where=tmp_path)
    assert fetched.returncode == 0, fetched.stderr
    assert {p.name for p in (tmp_path / "mine").iterdir()} == {
        "study.yaml", "trials.parquet", "report.html", "tables", "prompts",
    }  # fmt: skip
    [trial] = pq.read_table(run / "trials.parquet").to_pylist()
    _use(run, trial["trial_id"], tmp_path, head)


def _use(run: Path, trial_id: str, folder: Path, head: Head) -> None:
    """Export and predict from a copy, on a machine that has neither the job's files nor the run's."""
    assert "/ray/" in yaml.safe_load((run / "study.yaml").read_text())["pools"]["dev"]["file"]
    fetch(str(run), str(folder / "copy"), None)
    shutil.rmtree(run)
    env = plain_environment(str(folder))
    done = steadytune("export", "copy", "--trial", trial_id, "--to", "adapter", where=folder, environment=env)
    assert done.returncode == 0, done.stderr
    about = json.loads((folder / "adapter" / "template.json").read_text())
    assert len(about["train_prompts"]) == 48
    assert about["prompt"]["text"]
    rows = (EMBEDDED / "data" / "test.jsonl").read_text().splitlines()[:5]
    (folder / "new.jsonl").write_text("\n".join(rows) + "\n")
    predict = ("predict", "adapter", "--rows", "new.jsonl", "--base", str(EMBEDDED / "model"))
    done = steadytune(*predict, where=folder, environment=env)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 5


@pytest.mark.cluster
def test_the_code_that_was_sent_is_what_the_job_and_its_workers_run(head: Head, tmp_path: Path) -> None:
    from cluster.jobs.parcel import write_parcel

    script = (
        "import ray, trainer; ray.init(log_to_driver=False)\n"
        "@ray.remote\n"
        "def where():\n"
        "    import trainer\n"
        "    return trainer.__file__\n"
        "print('FOUND', trainer.__file__, ray.get(where.remote()))\n"
    )
    write_parcel({**source_files(), "where.py": script.encode()}, tmp_path / "parcel")
    submit = (
        "import sys; from cluster.jobs.server import JobServer\n"
        "c = JobServer(sys.argv[1])\n"
        "jobs = [c.submit('where-1', 'python where.py', sys.argv[2], {}, {}) for _ in range(2)]\n"
        "assert [new for _, new in jobs] == [True, False]\n"
        "print(c.follow(jobs[0][0].id, lambda text: print(text, end='')).status)"
    )
    command = [sys.executable, "-c", submit, head.address, str(tmp_path / "parcel")]
    done = subprocess.run(command, cwd=ROOT, env=head.environment(), capture_output=True, text=True, timeout=200)
    assert "SUCCEEDED" in done.stdout, done.stdout + done.stderr
    [line] = [line for line in done.stdout.splitlines() if line.startswith("FOUND")]
    assert line.count("working_dir_files") == 2, line


@pytest.mark.cluster
def test_plain_ray_job_submit_runs_a_shipped_study(head: Head, tmp_path: Path) -> None:
    small = ["task.rows.train.limit=40", "task.rows.dev.limit=8", "task.rows.test.limit=8", "scheduler.name=none"]
    small += ["axes.template=plain", "axes.lora.r=4", "axes.plw=0", "axes.pool=one", "axes.steps=4"]
    (tmp_path / "work").mkdir()
    command = ["ray", "job", "submit", "--address", head.address, "--working-dir", "work", "--"]
    command += ["steadytune", "run", "quickstart", *small, "--out", str(tmp_path / "out")]
    done = subprocess.run(command, cwd=tmp_path, env=head.environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    assert "robustness over prompts" in done.stdout
    [trial] = pq.read_table(tmp_path / "out" / "trials.parquet").to_pylist()
    assert trial["status"] == "finished"
    assert Store.open(str(tmp_path / "out")).exists("report.html")


def test_a_job_that_fails_says_why(head: Head, tmp_path: Path) -> None:
    """The study is refused on the cluster by what only the run checks."""
    write_study(tmp_path, task={"max_length": 8})
    at = ("--address", head.address)
    sent = head.command("submit", "small.yaml", *at, "--out", str(tmp_path / "out"), where=tmp_path)
    job = sent.stdout.split(":")[0]
    ended = head.command("logs", "-f", job, *at, where=tmp_path)
    assert ended.returncode == 1
    assert f"job {job}: FAILED" in ended.stderr
    assert "error: " in ended.stdout
    status = head.command("status", job, *at, where=tmp_path).stdout
    assert "max_length" in status
    assert "Traceback" not in status + ended.stdout
    missing = head.command("results", job, "--to", "mine", *at, where=tmp_path)
    assert missing.returncode == 2
    assert "Either nothing is written yet" in missing.stderr
