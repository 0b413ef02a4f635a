"""Folders of tiny base models, each with one trouble, and a study's model that names one."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from small_tokenizers import WORDS, word_level
from tiny_llama import make_llama

from trainer.trial import Model


def save_tiny(folder: Path, base: Any = None) -> Path:
    """``base``, or a small Llama, with a word tokenizer."""
    (base or make_llama(hidden=32, vocab=len(WORDS))).save_pretrained(folder)
    word_level().save_pretrained(folder)
    return folder


def model_in(folder: Path) -> Model:
    return Model(str(folder), "fingerprint")


def change_config(folder: Path, **changes: Any) -> None:
    at = folder / "config.json"
    at.write_text(json.dumps({**json.loads(at.read_text()), **changes}))


def change_weights(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Write the weights again after ``change`` has had them as a dict."""
    from safetensors.torch import load_file, save_file

    at = folder / "model.safetensors"
    tensors = load_file(at)
    change(tensors)
    save_file(tensors, at, metadata={"format": "pt"})


def header_of(text: bytes, length: int | None = None) -> bytes:
    """The beginning of a safetensors file: ``text`` as its header, said to have ``length`` bytes."""
    return struct.pack("<Q", len(text) if length is None else length) + text
