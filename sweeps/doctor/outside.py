"""Checks of what a run talks to: Ray, the place of its run folder, the hub."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterator
from functools import partial

from cluster.address import ConnectError, is_local
from cluster.connect import connected, set_auth_mode, token_source
from sweeps.display.text import size
from sweeps.doctor.diagnosis import Check, Diagnosis
from sweeps.driver.session import quiet
from trainer.store import Store

SKEW = 60.0  # seconds by which the clock of a run folder's disk may be off before times in tables mislead
HUB_PATIENCE = 10.0


def token() -> Iterator[Diagnosis]:
    """The token for a cluster; a local run makes its own."""
    if is_local():
        off = os.environ.get("RAY_AUTH_MODE") == "disabled"
        yield Diagnosis(
            "token", "RAY_AUTH_MODE=disabled: a local Ray lets every user of this machine in" if off else "a local run "
            "makes its own", "Unset RAY_AUTH_MODE" if off else "",
        )  # fmt: skip
        return
    source = token_source()
    remedy = "" if source else "Set RAY_AUTH_MODE=token and put the cluster's token into RAY_AUTH_TOKEN, if it asks"
    yield Diagnosis("token", f"from {source}" if source else "none for the cluster that RAY_ADDRESS names", remedy)


def connection() -> Iterator[Diagnosis]:
    """Connects as a run does: with the cluster of RAY_ADDRESS, or with a local Ray that is started for this."""
    quiet()
    which = "a local one" if is_local() else os.environ["RAY_ADDRESS"]
    if not is_local():
        set_auth_mode()
    try:
        with connected(1):
            import ray

            have = ray.cluster_resources()
            memory = size(have.get("memory", 0))
            parts = [f"{have.get('CPU', 0):.0f} CPUs", f"{have.get('GPU', 0):.0f} GPUs", memory]
            yield Diagnosis("Ray", f"{ray.__version__}, {which}: {', '.join(parts)}")
    except ConnectError as error:
        yield Diagnosis("Ray", str(error), "Do that, and look again")


def clock(out: str) -> Iterator[Diagnosis]:
    """The time that the run folder's disk or storage gives a file, against this machine's."""
    store = Store.open(out)
    name = f"doctor-{uuid.uuid4().hex[:8]}.txt"
    before = time.time()
    store.write(name, b"steadytune doctor looks at the clock\n")
    after = time.time()
    try:
        (info,) = store.fs.get_file_info([store.path(name)])
    finally:
        store.fs.delete_file(store.path(name))
    yield Diagnosis("run folder", f"{store.uri} can be written")
    written = info.mtime.timestamp() if info.mtime is not None else before
    off = max(before - written, written - after, 0.0)
    remedy = "" if off <= SKEW else "Set both clocks by the same server (timedatectl, chronyc)"
    yield Diagnosis("clock", f"{off:.0f} s off the run folder's" if off > 2 else "that of the run folder", remedy)


def hub() -> Iterator[Diagnosis]:
    import requests
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        yield Diagnosis("hub", "not used (HF_HUB_OFFLINE): models and data come from this machine")
        return
    try:
        requests.head(constants.ENDPOINT, timeout=HUB_PATIENCE, allow_redirects=True)
    except requests.RequestException as error:
        why = " ".join(str(error).split())[:200]
        yield Diagnosis(
            "hub", f"{constants.ENDPOINT} cannot be reached ({why})",
            "Set HF_HUB_OFFLINE=1 to use what is on this machine without waiting, or HTTPS_PROXY",
        )  # fmt: skip
        return
    yield Diagnosis("hub", f"{constants.ENDPOINT} answers")


def checks(out: str) -> dict[str, Check]:
    """``out``: the run folder, or the folder in which it will be."""
    return {"token": token, "Ray": connection, "run folder": partial(clock, out), "hub": hub}
