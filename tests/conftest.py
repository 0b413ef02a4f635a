"""Fixtures: a two-layer Llama with random weights and a tokenizer made on the spot, so that tests need no network."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # tests start their own local Ray
os.environ.setdefault("DS_ACCELERATOR", "cpu")
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as shells leave it for "&"; commands under test inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)

import pytest
from local_head import head as head  # one Ray head for all tests that ask for it

# Files that take minutes go first: at the end one process would work alone.
LONG_FILES = (
    "test_run",
    "test_jobs",
    "test_cluster",
    "test_metrics_export",
    "test_packing",
    "test_engine",
    "test_staged_run",
)
SHARED = Path(__file__).resolve().parents[2] / "shared"


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
    from test_study import BASE

    from sweeps.study import load_study

    (tmp_path / "x.yaml").write_text(BASE)
    return lambda *overrides: load_study(tmp_path / "x.yaml", overrides, files=False)


def make_llama(hidden: int = 64, layers: int = 2, vocab: int = 256, seed: int = 0) -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocab,
        hidden_size=hidden,
        intermediate_size=hidden * 2,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    return LlamaForCausalLM(config).eval()


@pytest.fixture(scope="session")
def llama_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("llama")
    make_llama().save_pretrained(folder)
    return str(folder)
