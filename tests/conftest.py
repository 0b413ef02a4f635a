"""Fixtures: a two-layer Llama with random weights and a tokenizer made on the spot, so that tests need no network."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

from checkout import SHARED

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # tests start their own local Ray
os.environ.setdefault("DS_ACCELERATOR", "cpu")
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as shells leave it for "&"; commands under test inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)

import pytest
from local_head import head as head  # one Ray head for all tests that ask for it
from tiny_llama import make_llama

# Files that take minutes go first: at the end one process would work alone.
LONG_FILES = (
    "test_run",
    "test_jobs",
    "test_hosts",
    "test_prometheus",
    "test_packing",
    "test_engine",
    "test_staged_run",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    place = {name: i for i, name in enumerate(LONG_FILES)}
    items.sort(key=lambda item: place.get(item.path.stem, len(place)))  # stable: others keep their order


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of third-party data and models beside the checkout."""
    if not SHARED.is_dir():
        pytest.skip(f"{SHARED.name}/ with third-party data and models is not beside this checkout")
    return SHARED


@pytest.fixture
def study(tmp_path: Path) -> Any:
    """Loads the study of ``test_study`` with overrides, without its files: ``study("axes.lr=1e-3")``."""
    from study_text import BASE

    from sweeps.study.load import load_study

    (tmp_path / "x.yaml").write_text(BASE)
    return lambda *overrides: load_study(tmp_path / "x.yaml", overrides, files=False)


@pytest.fixture(scope="session")
def llama_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("llama")
    make_llama().save_pretrained(folder)
    return str(folder)
