"""What RAY_ADDRESS may say, and how soon a run tells that nothing is there (CASES E1, E2)."""

from __future__ import annotations

import socket
import threading
from http.server import HTTPServer, SimpleHTTPRequestHandler
from pathlib import Path

import pytest
from local_head import free_ports, plain_environment, steadytune
from small_study import write_study

from cluster import address
from cluster.address import ConnectError, cluster_address


def said(given: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("RAY_ADDRESS", given)
    with pytest.raises(ConnectError) as error:
        cluster_address()
    text = str(error.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize("given", ["", "  ", "local", " local "])
def test_no_address_means_this_machine(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", given)
    assert cluster_address() == "local"


@pytest.mark.parametrize(
    ("given", "remedy"),
    [
        ("http://127.0.0.1:8265", "job server, to which `steadytune submit STUDY` sends a study"),
        ("https://cluster.example/ray", "job server, to which `steadytune submit STUDY` sends a study"),
        ("ray://head:10001", "Send the study with `steadytune submit`"),
        ("redis://head:6379", "Write HOST:PORT"),
        ("head", "Write HOST:PORT"),
        ("head:", "Write HOST:PORT"),
        (":6379", "Write HOST:PORT"),
        ("head:port", "Write HOST:PORT"),
        ("head:0", "Write HOST:PORT"),
        ("head:65536", "Write HOST:PORT"),
        ("a b:6379", "Write HOST:PORT"),
        ("head:6379/x", "Write HOST:PORT"),
        ("head:\u0661\u0662", "Write HOST:PORT"),
    ],
)
def test_an_address_of_another_kind_is_told_with_the_remedy(
    given: str, remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = said(given, monkeypatch)
    assert text.startswith(f'RAY_ADDRESS = "{given}" is ')
    assert remedy in text
    assert "unset" in text or "RAY_ADDRESS=head:6379" in text


def test_auto_where_no_cluster_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(address, "running_cluster", lambda: "")
    assert said("auto", monkeypatch).startswith("RAY_ADDRESS = auto, but no Ray cluster runs on this machine. Unset")
    gone = f"127.0.0.1:{free_ports(1)[0]}"
    monkeypatch.setattr(address, "running_cluster", lambda: gone)
    assert f'"{gone}": nobody answers there' in said("auto", monkeypatch)


def test_a_password_in_the_address_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "secret" not in said("http://user:secret@host:8265", monkeypatch)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]"])
def test_a_port_where_nobody_listens_any_more_is_tried_before_ray_starts(
    host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = f"{host}:{free_ports(1)[0]}"
    text = said(given, monkeypatch)
    assert text.startswith(f'RAY_ADDRESS = "{given}": nobody answers there (')
    assert text.endswith("or unset it to run on this machine")


def test_a_host_that_is_not_known_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "no-such-host.invalid" in said("no-such-host.invalid:6379", monkeypatch)
    assert "is not known" in said("x" * 300 + ":6379", monkeypatch)


def test_a_program_that_takes_the_connection_and_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(address, "PATIENCE", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as server:
        given = f"127.0.0.1:{server.getsockname()[1]}"
        assert "what answers there is no Ray cluster" in said(given, monkeypatch)


def test_the_port_of_a_web_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(address, "PATIENCE", 1.0)
    with HTTPServer(("127.0.0.1", 0), SimpleHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        text = said(f"127.0.0.1:{server.server_port}", monkeypatch)
        server.shutdown()
    assert "what answers there is no Ray cluster (8265 is the dashboard's port)" in text


def test_a_run_with_a_wrong_address_ends_with_one_line(tmp_path: Path) -> None:
    given = "http://127.0.0.1:8265"
    write_study(tmp_path)
    environment = plain_environment(str(tmp_path)) | {"RAY_ADDRESS": given}
    done = steadytune("run", "small.yaml", "--out", "out", where=tmp_path, environment=environment)
    assert done.returncode == 2
    assert done.stderr.startswith(f'error: RAY_ADDRESS = "{given}"')
    assert done.stderr.count("\n") == 1, done.stderr
