"""An S3 server on this machine: moto's, in a process of its own, that can be told to fail.

``python s3_server.py HOST PORT``. ``POST /-/fail`` with JSON sets what fails: ``status`` for ``seconds``, only for
requests whose ``METHOD path?query`` holds ``match``; ``GET /-/log`` gives what was asked since the start.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BUCKET = "studies"
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "someone",
    "AWS_SECRET_ACCESS_KEY": "something",
    "AWS_EC2_METADATA_DISABLED": "true",
}


@dataclass(frozen=True)
class S3:
    """A running server."""

    endpoint: str
    process: subprocess.Popen[bytes]

    @property
    def environment(self) -> dict[str, str]:
        """What a client needs, as a user would set it."""
        return {**CREDENTIALS, "AWS_ENDPOINT_URL": self.endpoint, "AWS_DEFAULT_REGION": "us-east-1"}

    def fail(self, seconds: float, match: str = "", status: int = 503) -> None:
        self.ask("POST", "/-/fail", {"seconds": seconds, "match": match, "status": status})

    def log(self) -> list[str]:
        return list(json.loads(self.ask("GET", "/-/log")))

    def ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> bytes:
        data = json.dumps(body).encode() if body is not None else None
        with urllib.request.urlopen(urllib.request.Request(self.endpoint + path, data, method=method)) as answer:
            return bytes(answer.read())


@contextlib.contextmanager
def s3_server(log: Path, host: str = "127.0.0.1") -> Iterator[S3]:
    """A server with one empty bucket."""
    with socket.socket() as s:
        s.bind((host, 0))
        port = s.getsockname()[1]
    with log.open("wb") as out:
        process = subprocess.Popen([sys.executable, __file__, host, str(port)], stdout=out, stderr=out)
    server = S3(f"http://{host}:{port}", process)
    try:
        end = time.monotonic() + 60
        while True:
            try:
                server.ask("GET", "/-/log")
                break
            except (urllib.error.URLError, OSError):
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < end, log.read_text()
                time.sleep(0.05)
        server.ask("PUT", f"/{BUCKET}")
        yield server
    finally:
        process.kill()
        process.wait()


class Failing:
    """WSGI around moto."""

    def __init__(self, app: Any):
        self.app = app
        self.asked: list[str] = []
        self.until, self.match, self.status = 0.0, "", 503

    def __call__(self, environ: dict[str, Any], start: Any) -> Iterable[bytes]:
        path, query = environ["PATH_INFO"], environ.get("QUERY_STRING", "")
        if path.startswith("/-/"):
            return self.told(path, environ, start)
        asked = f"{environ['REQUEST_METHOD']} {path}?{query}"
        self.asked.append(asked)
        if time.monotonic() < self.until and self.match in asked:
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            code = "AccessDenied" if self.status == 403 else "SlowDown"
            text = f"<Error><Code>{code}</Code><Message>as told</Message></Error>".encode()
            start(f"{self.status} Told To Fail", [("Content-Type", "application/xml")])
            return [text]
        return self.app(environ, start)

    def told(self, path: str, environ: dict[str, Any], start: Any) -> Iterable[bytes]:
        if path == "/-/fail":
            body = json.loads(environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"])))
            self.until = time.monotonic() + body["seconds"]
            self.match, self.status = body["match"], body["status"]
        start("200 OK", [("Content-Type", "application/json")])
        return [json.dumps(self.asked).encode()]


def main(host: str, port: str) -> None:
    os.environ.update(CREDENTIALS)
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import run_simple

    run_simple(host, int(port), Failing(DomainDispatcherApplication(create_backend_app)), threaded=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
