"""The base model's files: the fingerprint that goes into a trial's id, and tensor shapes, without loading the model."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

from sweeps.study.overlay import StudyError
from sweeps.study.schema import ModelSection
from trainer import trial as t
from trainer.errors import UserError, nearest
from trainer.model.weights import LONGEST_HEADER, index_names, refuse_adapter, tensor_heads

MIB = 1024 * 1024
WHOLE = (".json", ".model", ".txt", ".jinja", ".tiktoken", ".py")  # config, tokenizer, remote code: read to the end
PICKLED = (".bin", ".pt", ".pth", ".ckpt")


def model_of(model: ModelSection) -> t.Model:
    """The base model with its fingerprint; a hub name is pinned to the commit it stands for today."""
    revision = model.revision if _is_folder(model.path) else _hub_commit(model.path, model.revision)
    fingerprint = _fingerprint_folder(Path(model.path)) if _is_folder(model.path) else _of_commit(model.path, revision)
    return t.Model(
        model.path, fingerprint, revision, model.dtype, model.head, model.trust_remote_code, model.quantization
    )


def fingerprint_model(path: str, revision: str | None = None) -> str:
    """The fingerprint of the model in a local folder or under a hub name.

    Of a folder it covers config and tokenizer files whole, and weight files by name, size, safetensors header and their
    first and last MiB: that tells another model, or the same model trained further, apart without reading gigabytes. Of
    a hub name it covers the commit. Raises StudyError."""
    return _fingerprint_folder(Path(path)) if _is_folder(path) else _of_commit(path, _hub_commit(path, revision))


def _of_commit(name: str, commit: str | None) -> str:
    return t.digest({"hub": name, "commit": commit})


def _is_folder(path: str) -> bool:
    """False for a hub name; StudyError for a local path that is no folder."""
    if os.path.isabs(path) and not os.path.isdir(path):
        folder, name = os.path.split(path)
        inside = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
        beside = [n for n in inside if os.path.isdir(os.path.join(folder, n))]
        raise StudyError(f'model.path = "{path}" is no folder.{nearest(name, beside)}')
    return os.path.isdir(path)


def _fingerprint_folder(folder: Path) -> str:
    with _study_errors():
        refuse_adapter(folder, str(folder))
    files = sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))
    weights = [p for p in files if p.suffix == ".safetensors"]
    if not weights:
        pickled = [p.name for p in files if p.suffix in PICKLED]
        if pickled:
            raise StudyError(
                f'model.path = "{folder}" holds pickled weights ({pickled[0]}), which can run code when opened. '
                "Save them again with model.save_pretrained(folder), which writes model.safetensors"
            )
        raise StudyError(f'model.path = "{folder}" has no weights: no *.safetensors file is in it')
    if not (folder / "config.json").is_file():
        raise StudyError(f'model.path = "{folder}" has no config.json. Give the folder that save_pretrained wrote')
    with _study_errors():
        index_names(folder)
    parts: dict[str, Any] = {p.name: sha256(p.read_bytes()).hexdigest() for p in files if p.suffix in WHOLE}
    return t.digest({**parts, **{p.name: _fingerprint_weights(p) for p in weights}})


def _fingerprint_weights(path: Path) -> list[Any]:
    size = path.stat().st_size
    with path.open("rb") as f:
        start = f.read(8)
        length = int.from_bytes(start, "little")
        if start == b"version " or size < 10 or length + 8 > size or length > LONGEST_HEADER:
            raise StudyError(f"{path}: is not a safetensors file (cut short, or a Git LFS pointer). Download it again")
        state = sha256(start)
        state.update(f.read(length + MIB))
        f.seek(max(8 + length, size - MIB))
        state.update(f.read(MIB))
    return [size, state.hexdigest()]


def _hub_commit(name: str, revision: str | None) -> str:
    """The commit of a hub name, from the hub; if the hub cannot be reached, that of the downloaded copy."""
    import huggingface_hub
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        if not huggingface_hub.constants.HF_HUB_OFFLINE:
            sha = huggingface_hub.model_info(name, revision=revision, timeout=10).sha
            if sha:
                return sha
    except (RepositoryNotFoundError, RevisionNotFoundError, HFValidationError) as error:
        reason = str(error).strip().splitlines()[0]
        raise StudyError(
            f'model.path = "{name}" is no folder, and the hub has no such model or revision ({reason})'
        ) from None
    except Exception:  # no network, a proxy, a hub that is down: take the downloaded copy
        pass
    try:
        return Path(huggingface_hub.snapshot_download(name, revision=revision, local_files_only=True)).name
    except Exception:  # huggingface_hub's errors for a cache without the model have no common parent
        raise StudyError(
            f'model.path = "{name}" is no folder, and as a hub name it is neither reachable nor downloaded. Give the '
            f"model's folder, or download it first where there is a network: hf download {name}"
        ) from None


def tensor_shapes(folder: str) -> Mapping[str, tuple[int, ...]]:
    """Name -> shape of every tensor that transformers would load from a model folder, from the files' headers alone;
    none where it has no weights."""
    if not any(Path(folder).glob("*.safetensors")):
        return {}
    with _study_errors():
        return {name: head.shape for name, head in tensor_heads(Path(folder), folder).items()}


@contextmanager
def _study_errors() -> Iterator[None]:
    """What is wrong with the model is a mistake of the study that names it."""
    try:
        yield
    except UserError as error:
        raise StudyError(str(error)) from None
