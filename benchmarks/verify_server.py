"""`steadytune verify` against real servers of a fine-tuned SmolLM2: the right set-up, and wrong ones.

    python benchmarks/verify_server.py [--out DIR] [--rows 500] [--wrong-rows 50] [--vllm FILE] [--json FILE]

A trial of SmolLM2-135M-Instruct (4-bit weights made dense, benchmarks/smollm2.py) is trained on the quickstart's rows
in a chat template with a system text, and exported. Its merged weights are served by `transformers serve` with each
set-up, and `verify` has to give exit code 0 for the right one, and 1 with the right reason for the others. ``--vllm``
names the `vllm` command of another environment, if there is one: then that server serves base and adapter, with
log-probabilities. Run again in the same --out, it goes on behind what is done: the export, and each kind of server.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import yaml
from smollm2 import smollm2
from study_command import ROOT, steadytune

DATA = ROOT / "sweeps" / "embedded" / "data"
SYSTEM = "You read what customers write. Answer yes or no."
STOP = "<|im_end|>"
LLAMA_3 = (
    "{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
UNKNOWN = "{% for m in messages %}### {{ m.role | upper }}\n{{ m.content }}\n{% endfor %}### ASSISTANT\n"
Change = Callable[[Any], None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "verify-server", help="where models and run go")
    parser.add_argument("--rows", type=int, default=500, help="that the right set-up is asked, of all 500")
    parser.add_argument("--wrong-rows", type=int, default=50, help="that a wrong one is asked, of the study's 50")
    parser.add_argument("--vllm", type=Path, help="the vllm command of another environment")
    parser.add_argument("--json", type=Path, help="write the figures here")
    args = parser.parse_args()
    out: Path = args.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    base, export = smollm2(), out / "export"
    if not (export / "template.json").exists():
        steadytune("run", write_study(out, base), "--out", str(out / "run"))
        steadytune("export", str(out / "run"), "--to", str(export))
    found = Found(out / "found.json", export, args.rows, args.wrong_rows)
    by_transformers(out, base, found)
    if args.vllm:
        by_vllm(out, base, args.vllm, found)
    wrong = [name for name, of in found.of.items() if not of["as expected"]]
    for name, of in found.of.items():
        print(f"{name}: exit code {of['exit']}, {of['seconds']:.0f} s; {of['said'][-1]}")
    if args.json:
        about = {
            "claim": "verify passes the right set-up of a server and names each wrong one",
            "setups": found.of,
            "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
            "versions": {n: version(n) for n in ("torch", "transformers", "peft")},
        }
        args.json.write_text(json.dumps(about, indent=1) + "\n")
    sys.exit(f"not as expected: {', '.join(wrong)}" if wrong else 0)


def write_study(out: Path, model: Path) -> str:
    pools = DATA / "pools"
    study: dict[str, Any] = {
        "name": "verify-server",
        "model": {"path": str(model)},
        "task": {
            "rows": {
                "train": str(DATA / "train.jsonl"),
                "dev": {"path": str(DATA / "dev.jsonl"), "limit": 40},
                "test": {"path": str(DATA / "test.jsonl"), "limit": 50},
            },
            "fields": ["text"], "label": "label", "labels": {0: "no", 1: "yes"}, "id": "id", "max_length": 256,
        },
        "templates": {"chat": {"chat": True, "system": SYSTEM}},
        "pools": {
            "train": {"one": {"file": str(pools / "train.yaml"), "only": ["t01"]}},
            "dev": {"file": str(pools / "dev.yaml"), "limit": 2},
            "test": {"file": str(pools / "test.yaml"), "limit": 2},
        },
        "axes": {"lora": {"r": 16, "alpha": 16}, "lr": 1.0e-3, "steps": 120, "plw": 0.1, "pool": "one"},
        "training": {"batch_size": 6},
        "scheduler": {"name": "none"},
        "resources": {"slots": 1, "cpus": 2},
    }  # fmt: skip
    file = out / "verify-server.yaml"
    file.write_text(yaml.safe_dump(study, sort_keys=False))
    return str(file)


# folders to serve -------------------------------------------------------------------------------------------------


def merged(base: Path, export: Path, to: Path) -> Path:
    """Base and adapter in one, by peft, with tokenizer and stop token."""
    if to.exists():
        return to
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model: Any = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(export)).merge_and_unload()
    tokenizer: Any = AutoTokenizer.from_pretrained(base)
    model.generation_config.eos_token_id = tokenizer.convert_tokens_to_ids(STOP)
    model.save_pretrained(to)
    tokenizer.save_pretrained(to)
    return to


def changed(folder: Path, to: Path, template: Callable[[str], str] = str, **generation: Any) -> Path:
    """The weights of ``folder`` with another chat template or generation_config.json."""
    shutil.rmtree(to, ignore_errors=True)
    to.mkdir()
    for file in folder.iterdir():
        (to / file.name).symlink_to(file)
    for name, text in (
        ("chat_template.jinja", template((folder / "chat_template.jinja").read_text())),
        (
            "generation_config.json",
            json.dumps(json.loads((folder / "generation_config.json").read_text()) | generation),
        ),
    ):
        (to / name).unlink()
        (to / name).write_text(text)
    return to


# servers ----------------------------------------------------------------------------------------------------------


def by_transformers(out: Path, base: Path, found: Found) -> None:
    right = merged(base, found.export, out / "merged")
    hot = changed(right, out / "sampling", do_sample=True, temperature=1.0)
    folders: dict[str, tuple[Path, str]] = {
        "right": (right, ""),
        "adapter not loaded": (base, "the adapter is not loaded"),
        "other chat template": (changed(right, out / "llama3", lambda _: LLAMA_3), "another one, like Llama 3's"),
        "unknown chat template": (
            changed(right, out / "unknown", lambda _: UNKNOWN),
            "its chat template is another one",
        ),
        "system text dropped": (
            changed(right, out / "nosystem", lambda t: "{% set messages = messages[1:] %}" + t),
            "the system text is missing",
        ),
        "two bos": (changed(right, out / "bos", lambda t: "{{ bos_token }}" + t), "it puts one more beginning-of"),
    }
    with server(["transformers", "serve", "--device", "cpu", "--dtype", "float32"]) as url:
        for name, (folder, reason) in folders.items():
            found.ask(f"transformers serve: {name}", url, str(folder), reason)
        with gateway(url) as through:
            found.ask("transformers serve: sampling", through, str(hot), "sampling is on")


def by_vllm(out: Path, base: Path, command: Path, found: Found) -> None:
    small = ["--dtype", "float32", "--max-model-len", "512", "--enforce-eager"]
    given = [*small, "--enable-lora", "--max-lora-rank", "16"]
    serve = [str(command), "serve", str(base), *given, "--lora-modules", f"adapter={found.export}"]
    with server(serve) as url:
        found.ask("vllm: right", url, "adapter", "")
        found.ask("vllm: adapter not loaded", url, str(base), "the adapter is not loaded")
    wrong = out / "llama3.jinja"
    wrong.write_text(LLAMA_3)
    with server([*serve, "--chat-template", str(wrong)]) as url:
        found.ask("vllm: other chat template", url, "adapter", "another one, like Llama 3's")


@contextmanager
def server(command: list[str]) -> Iterator[str]:
    """The address of the server that ``command`` starts, once it answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = {"VLLM_CPU_KVCACHE_SPACE": "1", **os.environ, "PATH": path}  # GiB, of vLLM on a CPU
    started = subprocess.Popen(
        [*command, "--host", "127.0.0.1", "--port", str(port)], env=env,
        stdout=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    try:
        while started.poll() is None:
            try:
                urllib.request.urlopen(f"{url}/health", timeout=5).close()
                break
            except OSError:
                time.sleep(0.5)
        else:
            sys.exit(f"{' '.join(command)} ended with exit code {started.returncode}")
        yield f"{url}/v1"
    finally:
        started.terminate()
        started.wait(timeout=60)


@contextmanager
def gateway(url: str) -> Iterator[str]:
    """A server that hands on what it is sent without the temperature."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            kept = json.dumps({k: v for k, v in body.items() if k != "temperature"}).encode()
            sent = urllib.request.Request(
                url.removesuffix("/v1") + self.path, kept, {"Content-Type": "application/json"}
            )
            with urllib.request.urlopen(sent, timeout=300) as answer:
                data = answer.read()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    between = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=between.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{between.server_address[1]}/v1"
    finally:
        between.shutdown()


class Found:
    """What `steadytune verify` said of each set-up, in a file, so that another run goes on behind it."""

    def __init__(self, file: Path, export: Path, rows: int, wrong_rows: int) -> None:
        self.file, self.export, self.rows, self.wrong_rows = file, export, rows, wrong_rows
        self.of: dict[str, dict[str, Any]] = json.loads(file.read_text()) if file.exists() else {}

    def ask(self, name: str, url: str, model: str, reason: str) -> None:
        """``reason``: what a wrong set-up must be given; "" of the right one, which is asked all test rows."""
        if name in self.of:
            return
        rows = self.wrong_rows if reason else self.rows
        words = ["--url", url, "--model", model, "--rows", str(rows)]
        words += [] if reason else ["--data", str(DATA / "test.jsonl")]
        command = [sys.executable, "-m", "sweeps", "verify", str(self.export), *words]
        began = time.perf_counter()
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        lines = [line for line in done.stdout.splitlines() if not line.startswith(("[", "asked: "))]
        last = lines[-1] if lines else done.stderr[-500:]
        self.of[name] = {
            "rows": rows,
            "exit": done.returncode,
            "as expected": done.returncode == 1 and reason in last if reason else done.returncode == 0,
            "seconds": round(time.perf_counter() - began, 1),
            "said": lines or [last],
        }
        self.file.write_text(json.dumps(self.of))


if __name__ == "__main__":
    main()
