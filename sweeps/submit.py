"""``steadytune submit``: send a study, with the local files that it names, to a cluster as a job.

The study and its files form one parcel, and the paths in the study are changed to where the files lie in it. The job's
id is made from the study's content and its run folder. If the same study is sent again, its running job is found; after
that job has ended, the next one goes on in the same run folder.
"""

from __future__ import annotations

import os
import re
import shlex
import socket
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.jobs.parcel import (
    MAX_BYTES,
    ParcelError,
    check_size,
    content_bytes,
    fingerprint,
    in_mib,
    source_files,
    write_parcel,
)
from sweeps.run_folder.find import usual_folder
from sweeps.run_folder.prompts import usage_file
from sweeps.study.load import resolved
from sweeps.study.overlay import Path as Key
from sweeps.study.overlay import StudyError, dotted, dump_yaml, is_local, missing_file
from sweeps.study.rules import named_files
from sweeps.study.study import Study
from sweeps.trials.base_model import WHOLE
from trainer.errors import UserError

if TYPE_CHECKING:
    from cluster.jobs.server import Job, JobServer

FOLDER = "study"  # in the parcel
FILE = f"{FOLDER}/study.yaml"
SCHEMES = ("s3", "gs", "gcs", "hdfs", "abfs", "abfss", "file")
DIGITS = 8  # of the fingerprint in a job's id


def submit(study: Study, out: str | None, shared: Sequence[str], connect: Callable[[], JobServer]) -> tuple[Job, bool]:
    """Send ``study`` to the job server that ``connect`` gives: the job, and whether it is new. Raises UserError."""
    own = travelling(study, shared)
    parcel = {**source_files(), **own}
    check_size(parcel)
    server = connect()
    run = run_folder(out, study.name, server)
    base = f"{in_job_id(study.name)}-{fingerprint({**own, 'out': run.encode()})[:DIGITS]}"
    command = f"python -m sweeps run {FILE} --out {shlex.quote(run)}"
    with tempfile.TemporaryDirectory(prefix="steadytune-job-") as folder:
        write_parcel(parcel, Path(folder))
        about = {"study": study.name, "run": run}
        return server.submit(base, command, folder, about, {"TOKENIZERS_PARALLELISM": "false"})


def travelling(study: Study, shared: Sequence[str] = (), most: int = MAX_BYTES) -> dict[str, Path | bytes]:
    """The parcel of ``study``: path -> file or content. Files under one of the folders ``shared`` are not sent and keep
    their paths. Raises StudyError and ParcelError."""
    layer = resolved(study)
    kept = [os.path.abspath(os.path.expanduser(s)) for s in shared]
    parcel: dict[str, Path | bytes] = {}
    places: dict[tuple[str, bool], str] = {}  # a file that is named twice is sent once
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
    """Path in the parcel's folder for ``text`` -> file: the file itself, or every file of the folder."""
    path = Path(text)
    if path.is_file():
        spent = Path(usage_file(text))  # what generating the prompts cost; the report shows it
        return {p.name: p for p in (path, *([spent] if spent.is_file() else []))}
    if path.is_dir():
        inside = {p.relative_to(path.parent).as_posix(): p for p in sorted(path.rglob("*")) if p.is_file()}
        return {name: p for name, p in inside.items() if not any(part.startswith(".") for part in name.split("/"))}
    raise ParcelError(f'{key} = "{text}" is neither a file nor a folder')


def _model(folder: Path, most: int) -> dict[str, Path]:
    """The files of a model's folder that the trainer reads (config, tokenizer, safetensors); no pickles."""
    wanted = (*WHOLE, ".safetensors")
    found = {f"{folder.name}/{p.name}": p for p in sorted(folder.iterdir()) if p.is_file() and p.suffix in wanted}
    found = {name: p for name, p in found.items() if not p.name.startswith(".")}
    total = sum(content_bytes(p) for p in found.values())
    if total > most:
        raise ParcelError(
            f'model.path = "{folder}" has {in_mib(total)}; at most {in_mib(most)} can be sent with a job. Put the '
            "model on storage that every node sees at the same path and name that folder with --shared, or give its "
            "name on the hub"
        )
    return found


def _put(layer: dict[str, Any], key: Key, text: str) -> None:
    place: Any = layer
    for part in key[:-1]:
        place = place[part]
    place[key[-1]] = text


def run_folder(out: str | None, name: str, server: JobServer) -> str:
    """``out`` as every node of the cluster can use it. Raises UserError if that is not certain."""
    if out is not None and "://" in out:
        scheme, _, rest = out.partition("://")
        if scheme not in SCHEMES:
            raise UserError(f'--out = "{out}": {scheme}:// is not known. Known: {", ".join(SCHEMES)}, or a path')
        if "@" in rest:
            raise UserError("--out carries a password, which the job's page would show. Set it on the nodes instead")
        return out.rstrip("/")
    nodes = server.nodes()
    if out is not None and os.path.isabs(out):
        if len(nodes) > 1:
            print(f"{out} must be a disk that all {len(nodes)} nodes share, at this path on each", file=sys.stderr)
        return os.path.normpath(out)
    given = f'--out = "{out}" is a relative path' if out is not None else "--out is missing"
    example = f"--out s3://BUCKET/{name}, gs://BUCKET/{name}, or a shared disk's path such as /SHARED/{name}"
    if len(nodes) != 1:
        raise UserError(f"{given}: {len(nodes)} nodes must see the run folder. Name storage that they share: {example}")
    if nodes[0].host != socket.gethostname():
        raise UserError(f"{given}, and the cluster is another machine ({nodes[0].host}). Say where on it: {example}")
    return os.path.abspath(out or usual_folder(name))


def in_job_id(name: str) -> str:
    """A study's name as part of a job's id, which is used in URLs and file names."""
    return re.sub(r"[^A-Za-z0-9_]+", "-", name).strip("-")[:40] or "study"
