"""The parcel of a job: the files that are sent with it, and their size, which is known before anything is sent."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path

from trainer.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("steadytune", "trainer", "cluster", "sweeps")
LEFT_OUT = ("sweeps/embedded/", "sweeps/studies/")  # a shipped study brings its files itself, like any other
MIB = 1024 * 1024
MAX_BYTES = 90 * MIB  # Ray's job server takes 100 MiB
LISTED = 5  # the largest files that an error message lists

Files = Mapping[str, Path | bytes]  # path in the parcel -> the file on this machine, or its content


class ParcelError(UserError):
    """The files of a job are too large or cannot be read."""


def source_files(root: Path = ROOT) -> dict[str, Path | bytes]:
    """The source files of these packages, without caches; in a git checkout also without what .gitignore names."""
    names = _in_git(root) or _on_disk(root)
    return {name: root / name for name in sorted(names) if not name.startswith(LEFT_OUT) and (root / name).is_file()}


def _in_git(root: Path) -> list[str]:
    """Tracked files and new ones that are not ignored; an empty list if ``root`` is no checkout or git is missing."""
    listing = ["git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *PACKAGES]
    if not (root / ".git").exists():  # the packages may be installed inside the checkout of another project
        return []
    try:
        done = subprocess.run(listing, capture_output=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [os.fsdecode(n) for n in done.stdout.split(b"\0") if n] if done.returncode == 0 else []


def _on_disk(root: Path) -> Iterator[str]:
    for package in PACKAGES:
        for path in (root / package).rglob("*"):
            name = path.relative_to(root)
            if not any(part.startswith(".") or part == "__pycache__" for part in name.parts):
                yield name.as_posix()


def content_bytes(content: Path | bytes) -> int:
    return len(content) if isinstance(content, bytes) else content.stat().st_size


def check_size(files: Files, most: int = MAX_BYTES) -> None:
    """Raise ParcelError, which lists the largest files, if all files together have more than ``most`` bytes."""
    sizes = {name: content_bytes(content) for name, content in files.items()}
    total = sum(sizes.values())
    if total <= most:
        return
    largest = sorted(sizes, key=lambda n: -sizes[n])[:LISTED]
    listed = ", ".join(f"{_source(files[n], n)} ({in_mib(sizes[n])})" for n in largest)
    raise ParcelError(
        f"the files of this study have {in_mib(total)}, and at most {in_mib(most)} can be sent with a job. "
        f"Largest: {listed}. Put large files on storage that every node sees and name it with --shared FOLDER, or use "
        "a name on the hub"
    )


def write_parcel(files: Files, folder: Path) -> None:
    """Write the parcel's files under ``folder``."""
    for name, content in files.items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            if isinstance(content, bytes):
                target.write_bytes(content)
            else:
                shutil.copyfile(content, target)
        except OSError as error:
            raise ParcelError(f"{_source(content, name)}: cannot be read ({error.strerror})") from None


def fingerprint(files: Files) -> str:
    """A hash of the files' names and contents."""
    state = sha256()
    for name in sorted(files):
        content = files[name]
        inside = sha256(content if isinstance(content, bytes) else content.read_bytes()).hexdigest()
        state.update(f"{name}\n{inside}\n".encode())
    return state.hexdigest()


def in_mib(n: int) -> str:
    return f"{n / MIB:.1f} MiB"


def _source(content: Path | bytes, name: str) -> str:
    return name if isinstance(content, bytes) else str(content)
