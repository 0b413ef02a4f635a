"""A model hub on the loopback interface: the calls with which huggingface_hub makes a repository and uploads a folder.

Small files come in the commit, the weights by Git LFS before it. Like the hub it refuses a card whose metadata it
cannot use, files whose checksum is not the one that was announced, and whoever may not write."""

from __future__ import annotations

import base64
import json
import re
import threading
from dataclasses import dataclass, field
from hashlib import sha1, sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import yaml

Body = dict[str, Any]


@dataclass
class Repo:
    private: bool
    files: dict[str, bytes] = field(default_factory=dict)


class HubServer:
    """``repos`` by name. ``role`` is what the token ``token`` of ``user`` may do; only members of ``writable`` are
    written to. ``faults``: path -> (status, message), as long as it stands there."""

    token, user = "hf_right", "ann"

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.orgs, self.writable, self.role = ["lab", "other"], {"ann", "lab"}, "write"
        self.faults: dict[str, tuple[int, str]] = {}
        self.objects: dict[str, bytes] = {}
        self.asked: list[str] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self) -> HubServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"


def card_faults(content: str) -> list[str]:
    """What the hub finds wrong with a model card's metadata."""
    about = yaml.safe_load(content.split("---")[1]) or {}
    found = []
    base = about.get("base_model")
    if base is not None and not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", base):
        found.append(f'"base_model" with value "{base}" is not valid. Use a model id from the hub')
    for model in about.get("model-index", []):
        for result in model["results"]:
            for part, keys in (("task", ["type"]), ("dataset", ["type", "name"])):
                found += [f"model-index: {part}.{key} is required" for key in keys if not result[part].get(key)]
            found += [
                f"model-index: metrics.{key} is required"
                for metric in result["metrics"]
                for key in ("type", "value")
                if metric.get(key) is None
            ]
    return found


def _handler(hub: HubServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            if not self._admitted():
                return
            if self.path == "/api/whoami-v2":
                orgs = [{"name": name} for name in hub.orgs]
                self._json({"name": hub.user, "orgs": orgs, "auth": {"accessToken": {"role": hub.role}}})
            elif found := re.fullmatch(r"/api/models/([^/]+/[^/?]+)(/revision/main)?", self.path.split("?")[0]):
                repo = hub.repos.get(found[1])
                if repo is None:
                    self._refuse(404, "Repository not found", "RepoNotFound")
                    return
                siblings = [{"rfilename": name} for name in repo.files]
                self._json({"id": found[1], "sha": "0" * 40, "private": repo.private, "siblings": siblings})
            else:
                self._refuse(404, f"no such path: {self.path}")

        def do_POST(self) -> None:
            data = self.rfile.read(int(self.headers.get("Content-Length") or 0)) or self._chunks()
            if not self._admitted():
                return
            path = self.path.split("?")[0]
            if path == "/api/repos/create":
                self._create(json.loads(data))
            elif path == "/api/validate-yaml":
                faults = [{"message": text} for text in card_faults(json.loads(data)["content"])]
                self._json({"errors": faults, "warnings": []}, 400 if faults else 200)
            elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/preupload/main", path):
                files = [
                    {"path": f["path"], "uploadMode": "lfs" if f["path"].endswith(".safetensors") else "regular",
                     "shouldIgnore": False, "oid": None}
                    for f in json.loads(data)["files"]
                ]  # fmt: skip
                self._json({"files": files})
            elif re.fullmatch(r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", path):
                objects = [
                    {**o, "actions": {"upload": {"href": f"{hub.url}/lfs/{o['oid']}"},
                                      "verify": {"href": f"{hub.url}/verify"}}}
                    for o in json.loads(data)["objects"]
                ]  # fmt: skip
                self._json({"transfer": "basic", "objects": objects})
            elif path == "/verify":
                about = json.loads(data)
                sound = len(hub.objects.get(about["oid"], b"")) == about["size"]
                self._json({}) if sound else self._refuse(400, "the object was not uploaded")
            elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/main", path):
                self._commit(found[1], [json.loads(line) for line in data.splitlines() if line.strip()])
            else:
                self._refuse(404, f"no such path: {path}")

        def do_PUT(self) -> None:
            data = self.rfile.read(int(self.headers.get("Content-Length") or 0)) or self._chunks()
            hub.asked.append("PUT /lfs")
            oid = self.path.rsplit("/", 1)[1]
            if sha256(data).hexdigest() != oid:
                self._refuse(400, "the object is not what was announced")
                return
            hub.objects[oid] = data
            self._json({})

        def _create(self, about: Body) -> None:
            name = f"{about['organization'] or hub.user}/{about['name']}"
            if name.split("/")[0] not in hub.writable:
                self._refuse(403, "You don't have the rights to create a model under this namespace")
            elif name in hub.repos:
                self._json({"error": "You already created this model repo", "url": f"{hub.url}/{name}"}, 409)
            else:
                hub.repos[name] = Repo(about.get("visibility") == "private", {".gitattributes": b""})
                self._json({"url": f"{hub.url}/{name}"})

        def _commit(self, name: str, lines: list[Body]) -> None:
            repo = hub.repos[name]
            for line in lines:
                value = line["value"]
                if line["key"] == "file":
                    repo.files[value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    repo.files[value["path"]] = hub.objects[value["oid"]]
            oid = sha1(repr(sorted(repo.files)).encode()).hexdigest()
            url = f"{hub.url}/{name}/commit/{oid}"
            self._json({"commitUrl": url, "commitOid": oid, "hookOutput": "", "success": True})

        def _admitted(self) -> bool:
            path = self.path.split("?")[0]
            hub.asked.append(f"{self.command} {path}")
            fault = next((hub.faults[p] for p in hub.faults if p in path), None)
            if fault is not None:
                self._refuse(*fault)
            elif self.headers["Authorization"] != f"Bearer {hub.token}":
                self._refuse(401, "Invalid credentials in Authorization header")
            else:
                return True
            return False

        def _chunks(self) -> bytes:
            """A body that came in chunks, as a stream does."""
            found = b""
            while self.headers.get("Transfer-Encoding") == "chunked" and (n := int(self.rfile.readline(), 16)) >= 0:
                found += self.rfile.read(n)
                self.rfile.readline()
                if n == 0:
                    break
            return found

        def _json(self, value: Body, status: int = 200) -> None:
            self._send(status, {}, json.dumps(value).encode())

        def _refuse(self, status: int, message: str, code: str = "") -> None:
            headers = {"X-Error-Message": message, **({"X-Error-Code": code} if code else {})}
            self._send(status, headers, json.dumps({"error": message}).encode())

        def _send(self, status: int, headers: dict[str, str], data: bytes) -> None:
            self.send_response(status)
            for name, value in {**headers, "Content-Type": "application/json"}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    return Handler
