"""A real MLflow tracking server on the loopback interface, with its database and artifacts in a folder."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TABLES = ("experiments", "experiment_tags", "runs", "metrics", "latest_metrics", "params", "tags")


@dataclass(frozen=True)
class Server:
    url: str
    database: Path

    def rows(self) -> dict[str, list[tuple[Any, ...]]]:
        """Every row of what the server holds of runs."""
        with contextlib.closing(sqlite3.connect(self.database)) as db:
            return {t: sorted(db.execute(f"SELECT * FROM {t}").fetchall(), key=repr) for t in TABLES}

    def fetch(self, experiment: str, run: str, file: str) -> bytes:
        """An artifact, as the pages of the server get it."""
        address = f"{self.url}/api/2.0/mlflow-artifacts/artifacts/{experiment}/{run}/artifacts/{file}"
        with urllib.request.urlopen(address) as answer:
            return bytes(answer.read())


@contextlib.contextmanager
def mlflow_server(folder: Path) -> Iterator[Server]:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    database = folder / "mlflow.db"
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{database}", "--artifacts-destination", str(folder / "artifacts")]
    alone = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            command, env=os.environ | alone, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            url = f"http://127.0.0.1:{port}"
            _wait(url, process, folder / "server.log")
            yield Server(url, database)
        finally:
            os.killpg(process.pid, signal.SIGTERM)  # it and the worker that it started
            process.wait()


def _wait(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + 180
    while time.monotonic() < end:
        assert process.poll() is None, log.read_text()
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/health", timeout=5):
            return
        time.sleep(0.2)
    raise AssertionError(f"no answer: {log.read_text()}")
