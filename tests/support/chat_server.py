"""A chat-completions server on the loopback interface, that answers as it is told and fails as it is told."""

from __future__ import annotations

import itertools
import json
import random
import re
import socket
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Body = dict[str, Any]
OPENINGS = (
    "Look at this message from a customer.",
    "You sort the letters of a town hall.",
    "Somebody left these words behind:",
    "Here comes the next entry of the log.",
    "A colleague forwards a note to you.",
    "Think about tone, never about facts.",
    "Our hotline recorded the following call.",
    "First read slowly what stands below.",
)
QUESTIONS = (
    "Is the writer unhappy with something?", "Would you call the author upset?", "Does it sound like they complain?",
    "Can you hear an unhappy person speaking?", "Tell me if its sender feels upset at all.",
    "Decide whether somebody has reason to complain here.", "Must we expect an upset reply later?",
    "Am I right that they were unhappy while typing?",
)  # fmt: skip


def some_wordings(body: Body) -> str:
    """A JSON array of as many wordings as were asked for, another one for another seed."""
    text = body["messages"][-1]["content"]
    n = int(re.search(r"array of (\d+) strings", text)[1])  # type: ignore[index]
    draw = random.Random(f"{body['model']} {body.get('seed')} {text}")
    pairs = draw.sample([(a, b) for a in OPENINGS for b in QUESTIONS], n)
    forms = (
        "{a}\n{{{{ text }}}}\n{b}",
        "{b} {{{{ text }}}} {a}",
        "{a} {b}\n\n{{{{ text }}}}",
        "{{{{ text }}}}\n{b} {a}",
    )
    return json.dumps([draw.choice(forms).format(a=a, b=b) for a, b in pairs])


def distinct_wordings() -> Callable[[Body], str]:
    """Answers of which no two hold near duplicates, for tests of commands that count wordings: a command's seeds depend
    on the server's port, which changes from run to run, and with another seed ``some_wordings`` may repeat a pair."""
    pairs = iter([(a, b) for a in OPENINGS for b in QUESTIONS])

    def answer(body: Body) -> str:
        n = int(re.search(r"array of (\d+) strings", body["messages"][-1]["content"])[1])  # type: ignore[index]
        return json.dumps([f"{a}\n{{{{ text }}}}\n{b}" for a, b in itertools.islice(pairs, n)])

    return answer


class ChatServer:
    """``faults`` are used up one by one before anything is answered: a status, (status, headers, body), or "cut" (the
    connection), "short" (half an answer), "slow" (no answer for ``slow`` seconds), "html". ``asked``: what came in."""

    def __init__(self, answer: Callable[[Body], str] = some_wordings, usage: bool = True, key: str | None = None):
        self.answer, self.usage, self.key, self.slow = answer, usage, key, 1.0
        self.faults: list[Any] = []
        self.asked: list[tuple[dict[str, str], Body]] = []
        self.finish = "stop"
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self) -> ChatServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self._server.server_address[1]}"

    def spec(self, model: str = "writer-1") -> str:
        return f"{model}@http://{self.host}/v1"

    def next_fault(self, headers: dict[str, str], body: Body) -> Any:
        with self._lock:
            self.asked.append((headers, body))
            return self.faults.pop(0) if self.faults else None


def _handler(server: ChatServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            fault = server.next_fault(dict(self.headers), body)
            if fault == "cut":
                self.connection.shutdown(socket.SHUT_RDWR)
                self.close_connection = True
            elif fault == "slow":
                time.sleep(server.slow)
                self.close_connection = True
            elif fault == "html":
                self._send(200, {"Content-Type": "text/html"}, b"<html><body>proxy</body></html>")
            elif isinstance(fault, int):
                self._send(fault, {}, json.dumps({"error": {"message": f"fault {fault}"}}).encode())
            elif isinstance(fault, tuple):
                self._send(*fault)
            elif self.path != "/v1/chat/completions":
                self._send(404, {}, b'{"error": {"message": "no such path"}}')
            elif server.key and self.headers["Authorization"] != f"Bearer {server.key}":
                said = f"Incorrect API key provided: {self.headers['Authorization']}"
                self._send(401, {}, json.dumps({"error": {"message": said}}).encode())
            else:
                self._answer(body, short=fault == "short")

        def _answer(self, body: Body, short: bool) -> None:
            text = server.answer(body)
            message = {"role": "assistant", "content": text}
            value: Body = {"choices": [{"index": 0, "message": message, "finish_reason": server.finish}]}
            if server.usage:
                words = sum(len(m["content"].split()) for m in body["messages"])
                value["usage"] = {"prompt_tokens": words, "completion_tokens": len(text.split())}
            data = json.dumps(value).encode()
            self._send(200, {}, data[: len(data) // 2] if short else data)

        def _send(self, status: int, headers: dict[str, str], data: bytes) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    return Handler
