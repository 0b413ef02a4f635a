"""An export goes to the hub as it lies in its folder; what cannot be pushed is refused before the work."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import tiny_run
import yaml
from checkout import ROOT
from hub_server import HubServer, Repo, card_faults

from sweeps.export.export import export
from sweeps.export.push import repository
from trainer.errors import UserError


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A hub to which this process is pointed, as HF_ENDPOINT does when it begins."""
    with HubServer() as server:
        for name, value in (("ENDPOINT", server.url), ("HF_HUB_OFFLINE", False), ("HF_HUB_DISABLE_XET", True)):
            monkeypatch.setattr(huggingface_hub.constants, name, value)
        monkeypatch.setenv("HF_TOKEN", server.token)
        yield server


def folder_of(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# Model\n")
    (folder / "model.safetensors").write_bytes(bytes(range(256)) * 100)
    return folder


def test_the_command_pushes_the_folder_as_it_is_into_a_private_repository(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    uri, trials = tiny_run.made("labels", tmp_path_factory)
    with HubServer() as hub:
        env = {k: v for k, v in os.environ.items() if not k.startswith("HF_")} | {
            "HF_ENDPOINT": hub.url, "HF_TOKEN": hub.token, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(tmp_path / "hf")
        }  # fmt: skip
        command = [sys.executable, "-m", "sweeps", "export", uri, "--trial", trials[-1].id]
        command += ["--to", str(tmp_path / "out"), "--merge", "--dtype", "bfloat16", "--push", "lab/tickets"]
        done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{hub.url}/lab/tickets\n"
    repo = hub.repos["lab/tickets"]
    assert repo.private
    assert {n: d for n, d in repo.files.items() if n != ".gitattributes"} == {
        p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()
    }
    assert "PUT /lfs" in hub.asked, "the weights come by LFS"
    card = repo.files["README.md"].decode()
    assert card_faults(card) == []
    header = yaml.safe_load(card.split("---")[1])
    assert header["library_name"] == "transformers"
    [results] = header["model-index"][0]["results"]
    assert [m["type"] for m in results["metrics"]] == ["accuracy"] * 3
    data = huggingface_hub.ModelCard(card).data
    assert [r.metric_value for r in data.eval_results or []] == [m["value"] for m in results["metrics"]]


def test_an_adapter_is_pushed_too_and_public_where_that_is_asked_for(
    hub: HubServer, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    uri, trials = tiny_run.made("labels", tmp_path_factory)
    said: list[str] = []
    url = export(uri, trials[0].id, str(tmp_path / "out"), push="ann/adapter", public=True, say=said.append)
    assert url == f"{hub.url}/ann/adapter"
    assert said == [f"uploading {tmp_path / 'out'} to ann/adapter"]
    repo = hub.repos["ann/adapter"]
    assert not repo.private
    assert repo.files["adapter_model.safetensors"] == (tmp_path / "out" / "adapter_model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("tickets", "is no name of a repository (it has no owner). Give OWNER/NAME"),
        ("ann/a b", "is no name of a repository (Repo id must use alphanumeric chars"),
        ("a/b/c", "is no name of a repository (Repo id must be in the form 'repo_name' or 'namespace/repo_name'"),
        ("labs/x", 'the token is of ann, who is no member of "labs". Did you mean "lab"? Known: ann, lab, other'),
        ("ann/full", "exists, and holds 1 files, such as model.safetensors. Give another name, or remove what is"),
        ("ann/open", "exists, empty and public. Change that on the hub, or add --public"),
    ],
)
def test_a_repository_that_cannot_be_pushed_to_is_refused_before_the_export(
    hub: HubServer, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path, name: str, said: str
) -> None:
    hub.repos |= {"ann/full": Repo(True, {"model.safetensors": b"x"}), "ann/open": Repo(False, {".gitattributes": b""})}
    uri, trials = tiny_run.made("labels", tmp_path_factory)
    with pytest.raises(UserError) as error:
        export(uri, trials[0].id, str(tmp_path / "out"), push=name)
    assert str(error.value).startswith(f'--push = "{name}"')
    assert said in str(error.value)
    assert len(str(error.value).splitlines()) == 1
    assert not (tmp_path / "out").exists()
    assert not [a for a in hub.asked if a.startswith(("POST", "PUT"))]


def test_an_empty_repository_of_the_same_kind_is_used(hub: HubServer, tmp_path: Path) -> None:
    hub.repos["ann/new"] = Repo(True, {".gitattributes": b""})
    repository("ann/new", public=False).upload(folder_of(tmp_path))
    assert set(hub.repos["ann/new"].files) == {".gitattributes", "README.md", "model.safetensors"}


def told(act: Any) -> str:
    with pytest.raises(UserError) as error:
        act()
    [line] = str(error.value).splitlines()
    return line


def test_tokens_that_do_not_do_are_told(hub: HubServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    hub.role = "read"
    said = told(lambda: repository("ann/x", False))
    assert said == '--push = "ann/x": the token of ann may only read. Make one on the hub that may write'
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    said = told(lambda: repository("ann/x", False))
    assert said.startswith('--push = "ann/x": the hub does not know the token (HTTP 401). Log in with `hf auth login`.')
    assert "hf_wrong" not in said
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    said = told(lambda: repository("ann/x", False))
    assert said.startswith('--push = "ann/x": there is no token for the hub. Log in with `hf auth login`')


def test_an_upload_that_fails_leaves_the_folder_and_says_how_to_go_on(hub: HubServer, tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    again = f"{folder} is written. Try again with: hf upload"
    said = told(lambda: repository("other/x", False).upload(folder))
    assert said == (
        '--push = "other/x": this token may not write there (HTTP 403: You don\'t have the rights to create a model '
        f"under this namespace). Take another. {again} other/x {folder} --private"
    )
    hub.faults["/preupload/"] = (413, "the repository would be too large")
    said = told(lambda: repository("ann/x", False).upload(folder))
    assert said == (
        f'--push = "ann/x": the hub refuses (HTTP 413: the repository would be too large). {again} ann/x {folder}'
    )
    hub.faults = {"/lfs/objects/batch": (403, "no space left in your plan")}
    said = told(lambda: repository("ann/x", False).upload(folder))
    assert "(HTTP 403: no space left in your plan)" in said
    hub.faults.clear()
    assert set(hub.repos["ann/x"].files) == {".gitattributes"}
    assert sorted(p.name for p in folder.iterdir()) == ["README.md", "model.safetensors"]
    repository("ann/x", False).upload(folder)
    assert hub.repos["ann/x"].files["model.safetensors"] == (folder / "model.safetensors").read_bytes()


def test_a_hub_that_does_not_answer_is_told(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    said = told(lambda: repository("ann/x", False))
    assert said.startswith('--push = "ann/x": no usable answer of the hub (')
    assert said.endswith("Check the network and HF_ENDPOINT. Nothing was exported")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert "offline mode is enabled" in told(lambda: repository("ann/x", False))
