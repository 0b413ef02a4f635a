"""Folders of merged weights to serve, and ``transformers serve`` in a thread of this process, which loads the folder
that a request names as its model."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests


def merged(export: str, base: str, to: Path, adapter: bool = True) -> Path:
    """The base model's weights, with the export's adapter merged into them by peft, and its tokenizer."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model: Any = AutoModelForCausalLM.from_pretrained(base)
    if adapter:
        model = PeftModel.from_pretrained(model, export).merge_and_unload()
    model.save_pretrained(to)
    AutoTokenizer.from_pretrained(base).save_pretrained(to)
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


def change_json(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


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
