"""A study made ready to travel: its local files beside it in one parcel, its paths pointing there."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cluster.jobs.parcel import MOST, ParcelError, in_mib, size
from sweeps.run_folder.prompts import usage_file
from sweeps.study.load import resolved
from sweeps.study.overlay import Path as Key
from sweeps.study.overlay import StudyError, dotted, dump_yaml, is_local, missing_file
from sweeps.study.rules import named_files
from sweeps.study.schema import Study
from sweeps.trials.base_model import WHOLE

FOLDER = "study"  # in the parcel
FILE = f"{FOLDER}/study.yaml"


def travelling(study: Study, shared: Sequence[str] = (), most: int = MOST) -> dict[str, Path | bytes]:
    """The parcel of ``study``: path -> file or content. What lies under one of the folders ``shared`` stays where it is
    and keeps its path. Raises StudyError and ParcelError."""
    layer = resolved(study)
    kept = [os.path.abspath(os.path.expanduser(s)) for s in shared]
    parcel: dict[str, Path | bytes] = {}
    places: dict[tuple[str, bool], str] = {}  # the same file goes once
    wrong = []
    for key, text in list(named_files(layer)):
        if not is_local(text) or any(os.path.commonpath([text, folder]) == folder for folder in kept):
            continue
        missing = missing_file(text)
        if missing is not None:
            wrong.append(
                f'{dotted(key)} = "{text}" {missing} If it is on the nodes only, name its folder with --shared'
            )
            continue
        model = key == ("model", "path")
        if (text, model) not in places:
            places[text, model] = f"files/{len(places)}/{os.path.basename(text)}"
            found = _model(Path(text), most) if model else _files(text, dotted(key))
            parcel |= {f"{FOLDER}/{os.path.dirname(places[text, model])}/{name}": path for name, path in found.items()}
        _put(layer, key, places[text, model])
    if wrong:
        raise StudyError("\n".join(wrong))
    return {FILE: dump_yaml(layer).encode(), **parcel}


def _files(text: str, key: str) -> dict[str, Path]:
    """Path below the file's place -> file: one file, or a folder's."""
    path = Path(text)
    if path.is_file():
        spent = Path(usage_file(text))  # of generated prompts; for the report
        return {p.name: p for p in (path, *([spent] if spent.is_file() else []))}
    if path.is_dir():
        inside = {p.relative_to(path.parent).as_posix(): p for p in sorted(path.rglob("*")) if p.is_file()}
        return {name: p for name, p in inside.items() if not any(part.startswith(".") for part in name.split("/"))}
    raise ParcelError(f'{key} = "{text}" is neither a file nor a folder')


def _model(folder: Path, most: int) -> dict[str, Path]:
    """Config, tokenizer and safetensors: what the trainer reads of a model's folder, and no pickle beside it."""
    wanted = (*WHOLE, ".safetensors")
    found = {f"{folder.name}/{p.name}": p for p in sorted(folder.iterdir()) if p.is_file() and p.suffix in wanted}
    found = {name: p for name, p in found.items() if not p.name.startswith(".")}
    total = sum(size(p) for p in found.values())
    if total > most:
        raise ParcelError(
            f'model.path = "{folder}" is {in_mib(total)}, at most {in_mib(most)} travel with a job. Put the model on '
            "storage that every node sees at the same path and name that folder with --shared, or give its name on "
            "the hub"
        )
    return found


def _put(layer: dict[str, Any], key: Key, text: str) -> None:
    place: Any = layer
    for part in key[:-1]:
        place = place[part]
    place[key[-1]] = text
