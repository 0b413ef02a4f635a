"""Folders of merged weights to serve; ``transformers serve`` in a thread of this process, which loads the folder that a
request names as its model; a gateway that changes what passes through it; and a server with log-probabilities."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import requests

Body = dict[str, Any]
Reply = tuple[int, Body]


def merged(export: str, base: str, to: Path, stop: str, adapter: bool = True) -> Path:
    """The base model's weights, with the export's adapter merged into them by peft, and its tokenizer. Answers end at
    the token ``stop``."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model: Any = AutoModelForCausalLM.from_pretrained(base)
    if adapter:
        model = PeftModel.from_pretrained(model, export).merge_and_unload()
    tokenizer = AutoTokenizer.from_pretrained(base)
    model.generation_config.eos_token_id = tokenizer.convert_tokens_to_ids(stop)
    model.save_pretrained(to)
    tokenizer.save_pretrained(to)
    return to


def with_tokenizer(folder: Path, to: Path, change: Callable[[Any], None]) -> Path:
    """The weights of ``folder`` with its tokenizer changed."""
    from transformers import AutoTokenizer

    to.mkdir()
    for file in folder.iterdir():
        if file.suffix == ".safetensors" or file.name in ("config.json", "generation_config.json"):
            (to / file.name).symlink_to(file)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    change(tokenizer)
    tokenizer.save_pretrained(to)
    return to


@contextmanager
def transformers_serve() -> Iterator[str]:
    """The address of a server that answers until the end of the block."""
    from transformers.cli.serve import Serve

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = Serve(host="127.0.0.1", port=port, device="cpu", dtype="float32", log_level="error", non_blocking=True)
    try:
        for _ in range(600):
            try:
                requests.get(f"http://127.0.0.1:{port}/health", timeout=5)
                break
            except requests.ConnectionError:
                time.sleep(0.05)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.kill_server()


@contextmanager
def serving(answer: Callable[[str, Body], Reply]) -> Iterator[str]:
    """The address of a server that answers a path and a body (empty for a GET) with a status and a body."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            status, value = answer(
                self.path, json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or b"{}")
            )
            data = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    finally:
        server.shutdown()
        server.server_close()


def gateway(url: str, change: Callable[[Body], Body]) -> Any:
    """A server that hands on to ``url`` what ``change`` makes of each request."""

    def answer(path: str, body: Body) -> Reply:
        method = "POST" if body else "GET"
        found = requests.request(
            method, url.removesuffix("/v1") + path, json=change(body) if body else None, timeout=60
        )
        return found.status_code, found.json()

    return serving(answer)


class WithProbabilities:
    """Answers greedily with the model in ``folder``, by transformers alone, and tells the log-probabilities of each
    token's ``top`` alternatives. ``counts``: whether it counts tokens."""

    def __init__(self, folder: Path, counts: bool = True) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.model: Any = AutoModelForCausalLM.from_pretrained(folder).eval()
        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        self.counts = counts
        self.stops = self.model.generation_config.eos_token_id
        self._lock = threading.Lock()

    def __call__(self, path: str, body: Body) -> Reply:
        if path.endswith("/models"):
            return 200, {"data": [{"id": "adapter"}]}
        if body["model"] != "adapter":
            return 404, {"error": {"message": f"The model `{body['model']}` does not exist."}}
        chat = path.endswith("/chat/completions")
        if chat:
            given = {"add_generation_prompt": True, "return_dict": True}
            ids = self.tokenizer.apply_chat_template(body["messages"], **given)["input_ids"]
        else:
            ids = self.tokenizer(body["prompt"]).input_ids
        with self._lock:
            new, tops = self._generate(
                list(ids), body["max_tokens"], body["top_logprobs"] if chat else body["logprobs"]
            )
        text = self.tokenizer.decode(new, skip_special_tokens=True)
        names = [self.tokenizer.decode([i]) for i in new]
        if chat:
            tokens = [
                {"token": n, "logprob": top[0][1], "top_logprobs": [{"token": t, "logprob": p} for t, p in top]}
                for n, top in zip(names, tops, strict=True)
            ]
            choice: Body = {"message": {"role": "assistant", "content": text}, "logprobs": {"content": tokens}}
        else:
            choice = {"text": text, "logprobs": {"tokens": names, "top_logprobs": [dict(reversed(t)) for t in tops]}}
        usage = {"usage": {"prompt_tokens": len(ids), "completion_tokens": len(new)}} if self.counts else {}
        return 200, {"choices": [choice], **usage}

    def _generate(self, ids: list[int], most: int, top: int) -> tuple[list[int], list[list[tuple[str, float]]]]:
        import torch

        new: list[int] = []
        tops = []
        while len(new) < most and self.stops not in new:
            with torch.no_grad():
                logs = torch.log_softmax(self.model(torch.tensor([[*ids, *new]])).logits[0, -1].double(), dim=-1)
            values, best = logs.topk(top)
            tops.append([(self.tokenizer.decode([i]), p) for i, p in zip(best.tolist(), values.tolist(), strict=True)])
            new.append(int(best[0]))
        return new, tops
