"""Checks of this machine: processors, memory, GPUs, limits, folders, locale."""

from __future__ import annotations

import locale
import os
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from cluster.limits import NEEDED as OPEN_FILES
from cluster.limits import WANTED as OPEN_FILES_WANTED
from cluster.local_folder import place
from cluster.ray_private import cpu_count, memory
from sweeps.display.text import size
from sweeps.doctor.diagnosis import Check, Diagnosis

MEMORY = 4 * 2**30  # Ray and two hosts with a small model
SHARED_MEMORY = 256 * 2**20  # Ray puts its objects there, and on the disk where it is smaller


def processors() -> Iterator[Diagnosis]:
    """As Ray counts them, within the quota of a container."""
    yield Diagnosis("processors", f"{cpu_count()}, as Ray counts them")


def memory_size() -> Iterator[Diagnosis]:
    found = memory()
    remedy = "" if found >= MEMORY else f"Give the machine or the container {size(MEMORY)}, or keep models small"
    yield Diagnosis("memory", f"{size(found)}, as Ray counts it", remedy)


def gpus() -> Iterator[Diagnosis]:
    import torch

    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    if names:
        yield Diagnosis("GPUs", ", ".join(names))
    elif Path("/proc/driver/nvidia/version").exists() and os.environ.get("CUDA_VISIBLE_DEVICES") != "":
        yield Diagnosis(
            "GPUs", "this machine has some, and torch finds none", "Install a torch for the driver's version of CUDA"
        )
    else:
        yield Diagnosis("GPUs", "none: studies with resources.gpus=0 run here")


def shared_memory() -> Iterator[Diagnosis]:
    if not os.path.isdir("/dev/shm"):
        yield Diagnosis("shared memory", "none on this system: Ray uses the disk")
        return
    free = shutil.disk_usage("/dev/shm").free
    remedy = "" if free >= SHARED_MEMORY else "Start the container with --shm-size=2g: Ray uses the slower disk else"
    yield Diagnosis("shared memory", f"{size(free)} free in /dev/shm", remedy)


def open_files() -> Iterator[Diagnosis]:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    found = "no limit" if hard == resource.RLIM_INFINITY else f"up to {hard}"
    few = hard != resource.RLIM_INFINITY and hard < OPEN_FILES
    yield Diagnosis("open files", found, f"Raise the limit to {OPEN_FILES_WANTED} (ulimit -Hn, as root)" if few else "")


def home() -> Iterator[Diagnosis]:
    """HOME and the folder where models and data sets of the hub are kept."""
    from huggingface_hub import constants

    for what, folder, name in (("home", os.path.expanduser("~"), "HOME"), ("cache", constants.HF_HOME, "HF_HOME")):
        why = _unwritable(folder)
        remedy = f"Set {name} to a folder that can be written" if why else ""
        yield Diagnosis(what, f"{folder} cannot be written ({why})" if why else folder, remedy)


def _unwritable(folder: str) -> str:
    """Why no file can be made in ``folder``, or in the nearest folder above it that exists; "" if one can."""
    at = Path(folder).absolute()
    while not at.exists() and at != at.parent:
        at = at.parent
    try:
        with tempfile.TemporaryFile(dir=at):
            return ""
    except OSError as error:
        return error.strerror or str(error)


def temporary_folder() -> Iterator[Diagnosis]:
    """Long enough to hold sockets, with room, and with programs that may run (which compiled kernels need)."""
    folder = place()
    yield Diagnosis("temporary folder", f"{folder}, {size(shutil.disk_usage(folder).free)} free")
    with tempfile.TemporaryDirectory(dir=folder) as inside:
        program = Path(inside, "program")
        program.write_text("#!/bin/sh\nexit 0\n", encoding="utf-8")
        program.chmod(0o700)
        try:
            subprocess.run([str(program)], check=True)
        except OSError:
            yield Diagnosis(
                "temporary folder", f"no program runs in {folder} (noexec)",
                "Set TMPDIR to a folder where one does, if a study compiles kernels (DeepSpeed's offload)",
            )  # fmt: skip


def text_encoding() -> Iterator[Diagnosis]:
    names = sys.stdout.encoding or "utf-8", locale.getpreferredencoding(False), sys.getfilesystemencoding()
    other = sorted({n for n in names if n.lower().replace("-", "") != "utf8"})
    found = f"{', '.join(other)}: other characters are printed as ?" if other else "UTF-8"
    yield Diagnosis("locale", found, "Set LC_ALL=C.UTF-8 to see them" if other else "")


def ports() -> Iterator[Diagnosis]:
    with socket.create_server(("127.0.0.1", 0)):
        yield Diagnosis("ports", "a local run can listen on the loopback")


CHECKS: dict[str, Check] = {
    "processors": processors,
    "memory": memory_size,
    "GPUs": gpus,
    "shared memory": shared_memory,
    "open files": open_files,
    "home": home,
    "temporary folder": temporary_folder,
    "locale": text_encoding,
    "ports": ports,
}
