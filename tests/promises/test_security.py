"""The promises of docs/security.md: no access without the token, text is never run as code, nothing is unpickled."""

from __future__ import annotations

import ast
import json
import os
import pickle
import re
import shutil
import socket
import subprocess
import sys
import threading
from html.parser import HTMLParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import requests
import tiny_run
import yaml
from checkout import EMBEDDED, FILES
from local_head import Head, plain_environment, steadytune
from reported_run import SCRIPTS
from small_study import write_study

from cluster.connect import set_auth_mode
from sweeps.display.vega import library
from sweeps.report.write import write_report
from sweeps.study.load import load_study
from sweeps.study.overlay import StudyError
from trainer.data.grammar import PromptError
from trainer.data.wording import Prompt, fill
from trainer.store import Store

WRONG = "0" * 64

# no token, no entry -------------------------------------------------------------------------------------------------

READS = (
    "/api/version",
    "/api/jobs/",
    "/api/jobs/x",
    "/api/jobs/x/logs",
    "/api/packages/gcs/_ray_pkg_0000000000000000.zip",
    "/api/cluster_status",
    "/nodes?view=summary",
    "/logical/actors",
    "/api/v0/tasks",
    "/api/v0/logs",
    "/api/v0/logs/file?node_id=x&filename=y",
    "/api/serve/applications/",
    "/api/component_activities",
)
ACTS = (
    ("POST", "/api/jobs/"),
    ("POST", "/api/jobs/x/stop"),
    ("DELETE", "/api/jobs/x"),
    ("PUT", "/api/packages/gcs/_ray_pkg_0000000000000000.zip"),
    ("PUT", "/api/serve/applications/"),
)


@pytest.mark.parametrize(("token", "code"), [(None, 401), (WRONG, 403), ("", 401)])
def test_the_job_server_lets_nobody_in_without_the_token(head: Head, token: str | None, code: int) -> None:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    job = {"entrypoint": "touch broken-into"}
    for method, path in (*(("GET", p) for p in READS), *ACTS):
        answer = requests.request(method, head.address + path, headers=headers, json=job, timeout=30)
        assert answer.status_code == code, f"{method} {path}: {answer.status_code} {answer.text[:200]}"
        assert head.token not in answer.text
    right = {"Authorization": f"Bearer {head.token}"}
    assert requests.get(f"{head.address}/api/jobs/", headers=right, timeout=30).status_code == 200
    assert not list(Path(head.folder).rglob("broken-into"))


@pytest.mark.parametrize("case", ["none", "wrong", "disabled", "no file"])
@pytest.mark.parametrize("command", ["submit", "status", "logs", "stop", "results"])
def test_our_commands_say_what_is_missing_in_one_line(head: Head, command: str, case: str, tmp_path: Path) -> None:
    write_study(tmp_path)
    arguments = {"submit": ["small.yaml"], "status": [], "results": ["small", "--to", "x"]}.get(command, ["small"])
    environment = (
        plain_environment(str(tmp_path))
        | {
            "none": {},
            "wrong": {"RAY_AUTH_TOKEN": WRONG},
            "disabled": {"RAY_AUTH_TOKEN": head.token, "RAY_AUTH_MODE": "disabled"},
            "no file": {"RAY_AUTH_TOKEN_PATH": str(tmp_path / "nothing")},
        }[case]
    )
    done = steadytune(command, *arguments, "--address", head.address, where=tmp_path, environment=environment)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1, done.stderr
    said = {
        "none": "accepts no request without its token, and this client has none. Put it into RAY_AUTH_TOKEN",
        "wrong": "refuses the token from RAY_AUTH_TOKEN: it belongs to another cluster",
        "disabled": "RAY_AUTH_MODE is disabled here: unset it",
        "no file": "RAY_AUTH_TOKEN_PATH",
    }
    assert said[case] in done.stderr
    right = {"Authorization": f"Bearer {head.token}"}
    jobs = requests.get(f"{head.address}/api/jobs/", headers=right, timeout=30).json()
    assert not [j for j in jobs if tmp_path.name in json.dumps(j)], "nothing was submitted"


class Unguarded(BaseHTTPRequestHandler):
    """Answers as a Ray cluster without authentication does."""

    def do_GET(self) -> None:
        known = {"authentication_mode": "disabled"}, {"ray_version": "2.60.0", "version": "4"}, []
        answers = dict(zip(("/api/authentication_mode", "/api/version", "/api/jobs/"), known, strict=True))
        self.send_response(200 if self.path in answers else 404)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(answers.get(self.path)).encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize("mode", [None, "token", "disabled"])
def test_a_cluster_without_a_token_is_used_with_a_warning(mode: str | None, tmp_path: Path) -> None:
    """There is no warning if RAY_AUTH_MODE=disabled says that it is meant so."""
    environment = plain_environment(str(tmp_path)) | ({"RAY_AUTH_MODE": mode, "RAY_AUTH_TOKEN": WRONG} if mode else {})
    with ThreadingHTTPServer(("127.0.0.1", 0), Unguarded) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        address = f"http://127.0.0.1:{server.server_port}"
        done = steadytune("status", "--address", address, where=tmp_path, environment=environment)
        server.shutdown()
        thread.join()
    assert done.stdout == f"no study was submitted to {address}\n", done.stderr
    assert ("asks for no token: whoever reaches it can run code there" in done.stderr) == (mode != "disabled")


JOIN = """
import os, sys
from cluster.connect import connected
with connected(1):
    import ray
    print("IN", len(ray.nodes()))
"""


def test_a_driver_without_the_token_cannot_join(head: Head, tmp_path: Path) -> None:
    def join(**environment: str) -> subprocess.Popen[str]:
        env = plain_environment(str(tmp_path)) | {"RAY_ADDRESS": head.gcs, **environment}
        code = "import sys; from sweeps.cli.exit_codes import guarded\n"
        code += f"def run():\n{_indented(JOIN)}\nsys.exit(guarded(run))"
        pipe = subprocess.PIPE
        return subprocess.Popen(
            [sys.executable, "-c", code], cwd=tmp_path, env=env, stdout=pipe, stderr=pipe, text=True
        )

    friend, *strangers = [join(RAY_AUTH_TOKEN=head.token), join(), join(RAY_AUTH_TOKEN=WRONG)]  # Ray tries for 20 s
    assert "IN 1" in friend.communicate(timeout=200)[0]
    for stranger in strangers:
        out, err = stranger.communicate(timeout=200)
        assert out == ""
        assert stranger.returncode == 2, err
        assert err.splitlines()[-1].startswith(f"error: the cluster at {head.gcs}")
        assert "token" in err.splitlines()[-1]
        assert "Traceback" not in err


def _indented(text: str) -> str:
    return "".join(f"    {line}\n" for line in text.splitlines())


def test_the_local_ray_of_a_run_asks_for_a_token_that_only_the_run_knows(tmp_path: Path) -> None:
    """The program that tries to connect has found the port, on this machine or over the network."""
    inside = """
import os, subprocess, sys
from cluster.connect import connected
with connected(1):
    import ray
    address = ray.get_runtime_context().gcs_address
    env = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    env["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # else Ray looks for a loopback address on the outer interface
    stranger = [sys.executable, "-c", "import sys, ray; ray.init(address=sys.argv[1]); print('IN')", address]
    modes = ({"RAY_AUTH_MODE": "disabled"}, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64})
    pipe = subprocess.PIPE
    for process in [subprocess.Popen(stranger, env={**env, **m}, stdout=pipe, stderr=pipe, text=True) for m in modes]:
        out, err = process.communicate()
        print("STRANGER", process.returncode != 0, "IN" in out.split(), "AuthenticationError" in err)
    print("TOKEN", len(os.environ["RAY_AUTH_TOKEN"]), os.path.exists(os.path.expanduser("~/.ray/auth_token")))
"""
    env = plain_environment(str(tmp_path))
    done = subprocess.run([sys.executable, "-c", inside], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.stdout.splitlines() == ["STRANGER True False True"] * 2 + ["TOKEN 64 False"], done.stderr[-2000:]


@pytest.mark.parametrize("where", ["RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "file", "none"])
def test_the_mode_is_token_where_there_is_a_token(where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RAY_AUTH_MODE", "unset")
    monkeypatch.delenv("RAY_AUTH_MODE")
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / ("auth_token" if where == "file" else "other")).write_text(WRONG)
    if where.startswith("RAY_"):
        monkeypatch.setenv(where, WRONG if where == "RAY_AUTH_TOKEN" else str(tmp_path / ".ray" / "other"))
    set_auth_mode()
    assert os.environ["RAY_AUTH_MODE"] == ("disabled" if where == "none" else "token")


def test_two_things_of_a_cluster_answer_without_the_token(head: Head) -> None:
    """The page names them. The metrics tell of resources only."""
    mode = requests.get(f"{head.address}/api/authentication_mode", timeout=30)
    assert mode.json()["authentication_mode"] == "token"
    right = {"Authorization": f"Bearer {head.token}"}
    nodes = requests.get(f"{head.address}/nodes?view=summary", headers=right, timeout=30).json()["data"]["summary"]
    ports = {n["raylet"]["metricsExportPort"] for n in nodes if n["raylet"].get("metricsExportPort")}
    for port in ports:
        text = requests.get(f"http://127.0.0.1:{port}/metrics", timeout=30).text
        assert head.token not in text


def test_the_dashboard_answers_on_the_loopback_only(head: Head) -> None:
    port = int(head.address.rsplit(":", 1)[1])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        try:
            s.connect(("192.0.2.1", 9))  # sends nothing; asks which of our addresses would be used
            own = s.getsockname()[0]
        except OSError:
            pytest.skip("this machine has no address but the loopback")
    socket.create_connection(("127.0.0.1", port), timeout=10).close()
    with pytest.raises(OSError, match=r"refused|timed out"):
        socket.create_connection((own, port), timeout=10)


# text from strangers stays text -------------------------------------------------------------------------------------

HOSTILE = "<script>alert('x')</script><img src=x onerror=alert(1)>\"'>"


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_the_report_shows_hostile_text_as_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In prompt ids and texts, labels, template names, row fields and a trial's reason; names of studies are plain."""
    prompts = {
        use: {f"{use}{i}{HOSTILE}": f"{HOSTILE} {{{{ text }}}} {use} {i}" for i in range(2)}
        for use in ("train", "dev", "test")
    }
    monkeypatch.setattr(tiny_run, "PROMPTS", prompts)
    monkeypatch.setattr(
        tiny_run, "rows", lambda n, start=0: [{**r, "text": f"{r['text']} {HOSTILE}"} for r in ROWS(n, start)]
    )
    bad = f"no{HOSTILE}"
    task = {"label": "label", "labels": {"0": bad, "1": "yes"}, "max_length": 200}
    words = {bad: " no", "yes": " yes"}
    uri, trials = tiny_run.make_run(
        tmp_path, task, templates={f"{n}{HOSTILE}": {"words": words, "marker": f"\n{n}:"} for n in "ab"},
        axes={"lora": {"r": 2}, "lr": 1e-2, "steps": 2},
    )  # fmt: skip
    tiny_run.write_trials(Store.open(uri), trials, **{f"_{trials[0].id}": "stopped"})
    import pyarrow.parquet as pq

    table = pq.read_table(f"{uri}/trials.parquet")
    at = table.schema.get_field_index("reason")
    hostile = table.set_column(at, "reason", [[HOSTILE] * len(table)])
    pq.write_table(tiny_run.without_checksum(hostile), f"{uri}/trials.parquet")
    write_report(uri)
    page = Path(uri, "report.html").read_text()
    assert "&lt;script&gt;alert" in page, "the text is there, as text"
    tags = Tags()
    tags.feed(page)
    assert [a.get("id") for tag, a in tags.found if tag == "script"] == SCRIPTS, "our own, which are in the template"
    assert page.replace(str(library()), "").lower().count("<script") == len(SCRIPTS) - 1
    assert not [tag for tag, _ in tags.found if tag in ("img", "iframe", "object", "embed", "link", "base", "form")]
    assert not [a for _, attrs in tags.found for a in attrs if a.startswith("on")]
    assert not [
        v for _, a in tags.found for n, v in a.items() if n in ("href", "src") and not (v or "").startswith("#")
    ]


ROWS = tiny_run.rows


def test_a_prompt_cannot_leave_its_sandbox() -> None:
    for text in (
        "{{ text.__class__.__mro__[1].__subclasses__() }}",
        "{{ ''.__class__ }}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "{% import 'os' as os %}{{ text }}",
        "{% include '/etc/passwd' %}{{ text }}",
        "{{ text * 1000000000 }}",
        "{% for i in range(1000000000) %}{{ text }}{% endfor %}",
    ):
        with pytest.raises(PromptError):
            fill(Prompt("p", text), {"text": "x" * 10})


def test_a_row_is_never_a_template() -> None:
    assert fill(Prompt("p", "{{ text }}"), {"text": "{{ 7 * 7 }}{% raw %}"}).text == "{{ 7 * 7 }}{% raw %}"


# nothing is unpickled -----------------------------------------------------------------------------------------------


class Bomb:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("weights", ["pytorch_model.bin", "model.safetensors"])
def test_a_model_folder_with_a_pickle_in_it_runs_nothing(weights: str, tmp_path: Path) -> None:
    """``check`` reads the folder as ``run`` does; the trainer's own loader is tried as well."""
    model = tmp_path / "model"
    shutil.copytree(EMBEDDED / "model", model)
    (model / "model.safetensors").unlink()
    (model / weights).write_bytes(pickle.dumps(Bomb(tmp_path / "gone-off")))
    write_study(tmp_path, model={"path": str(model)})
    done = steadytune("run", "small.yaml", where=tmp_path, environment=plain_environment(str(tmp_path)))
    assert done.returncode == 2
    assert "safetensors" in done.stderr
    load = (
        "import sys, torch; from trainer.model.base import load_base; from trainer.trial import Model\n"
        "load_base(Model(sys.argv[1], 'x', None, 'float32', 'lm', False), torch.device('cpu'))"
    )
    env = plain_environment(str(tmp_path))
    done = subprocess.run([sys.executable, "-c", load, str(model)], env=env, capture_output=True, text=True)
    last = done.stderr.splitlines()[-1]
    assert re.search(r"(UserError|BaseModelError): model.path = .*\((OSError|\S*SafetensorError)", last), done.stderr
    assert not (tmp_path / "gone-off").exists()


def test_code_that_a_model_brings_is_not_run_unless_the_study_says_so(tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(EMBEDDED / "model", model)
    config = json.loads((model / "config.json").read_text())
    config |= {"model_type": "strange", "auto_map": {"AutoConfig": "code.C", "AutoModelForCausalLM": "code.M"}}
    (model / "config.json").write_text(json.dumps(config))
    (model / "code.py").write_text(f"open({str(tmp_path / 'gone-off')!r}, 'w')\nraise SystemExit\n")
    write_study(tmp_path, model={"path": str(model)})
    done = steadytune("run", "small.yaml", where=tmp_path, environment=plain_environment(str(tmp_path)))
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "gone-off").exists()


def calls(path: Path) -> list[tuple[str, ast.Call]]:
    return [(ast.unparse(n.func), n) for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call)]


def test_every_model_is_loaded_from_safetensors() -> None:
    loads = [(p, c) for p in FILES for name, c in calls(p) if re.match(r"AutoModel\w*\.from_pretrained", name)]
    assert loads
    for path, call in loads:
        given = {k.arg: ast.unparse(k.value) for k in call.keywords}
        assert given.get("use_safetensors") == "True", f"{path.name}:{call.lineno}"


def test_no_shell_and_no_second_way_to_unpickle() -> None:
    """`test_imports.py` forbids pickle, eval and torch.load; this test forbids their equivalents."""
    forbidden = {"os.system", "os.popen", "torch.hub.load", "torch.package.PackageImporter", "pafs.FileSystem.loads"}
    forbidden |= {"pd.read_hdf", "runpy.run_path", "cloudpickle.loads", "ray.cloudpickle.loads", "deserialize_pandas"}
    found = []
    for path in FILES:
        for name, call in calls(path):
            shell = [k for k in call.keywords if k.arg == "shell" and ast.unparse(k.value) != "False"]
            if name in forbidden or shell:
                found.append(f"{path.name}:{call.lineno} calls {name}")
    assert not found


def test_a_study_is_data(tmp_path: Path) -> None:
    """YAML tags build no objects, and a study reads no environment variable and carries no password."""
    text = yaml.safe_load(write_study(tmp_path).read_text())
    for change in (
        {"model": {"path": "$HOME/model"}},
        {"model": {"path": "s3://key:word@bucket/model"}},
    ):
        (tmp_path / "bad.yaml").write_text(yaml.safe_dump({**text, **change}))
        with pytest.raises(StudyError):
            load_study(tmp_path / "bad.yaml")
    (tmp_path / "bad.yaml").write_text("name: !!python/object/apply:os.system ['touch gone-off']\n")
    before = os.getcwd()
    os.chdir(tmp_path)
    try:
        with pytest.raises(StudyError):
            load_study("bad.yaml")
    finally:
        os.chdir(before)
    assert not (tmp_path / "gone-off").exists()
