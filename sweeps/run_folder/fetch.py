"""Copy a run folder, or the files of it that people read, to this machine."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

import pyarrow.fs as pafs

from trainer.errors import UserError
from trainer.store import Store, StoreError


def fetch(run: str, to: str, parts: Sequence[str] | None) -> str:
    """Copy ``parts`` (files and folders) of the run folder, or all of it, into ``to``, and return ``to``. Existing
    files are replaced. Raises UserError if the folder cannot be read from here."""
    try:
        store = Store.open(run)
        if not store.exists("study.yaml"):
            raise UserError(f"{run}: {_why_not(run)}")
        names = list(_names(store, parts))
        os.makedirs(to, exist_ok=True)
        for name in names:
            target = os.path.join(to, *name.split("/"))
            os.makedirs(os.path.dirname(target), exist_ok=True)
            pafs.copy_files(
                store.path(*name.split("/")), os.path.abspath(target),
                source_filesystem=store.fs, destination_filesystem=pafs.LocalFileSystem(),
            )  # fmt: skip
    except StoreError as error:
        raise UserError(f"{error}. {_why_not(run)}") from None
    except OSError as error:
        raise UserError(f"{run} cannot be copied to {to} ({error})") from None
    return to


def _names(store: Store, parts: Sequence[str] | None) -> Iterator[str]:
    """The files of the run folder, as paths in it."""
    selector = pafs.FileSelector(store.root, recursive=True)
    for info in store.fs.get_file_info(selector):
        name = info.path[len(store.root) :].lstrip("/")
        if info.type != pafs.FileType.File or name.endswith((".part", ".corrupt")) or name == "lease.json":
            continue
        if ".." in name.split("/"):  # the name of an object in a bucket may contain anything
            continue
        if parts is None or name.split("/")[0] in parts:
            yield name


def _why_not(run: str) -> str:
    if "://" in run:
        return (
            "this machine sees no run folder there. Either nothing is written yet (steadytune status), or this machine "
            "may not read it: set the storage's credentials here as on the nodes"
        )
    return (
        "this machine sees no run folder there. Either nothing is written yet (steadytune status), or the path is on "
        "the cluster's disk: copy it from there, such as with `scp -r HEAD:RUN DIR`, or submit with --out s3://… or "
        "gs://…"
    )
