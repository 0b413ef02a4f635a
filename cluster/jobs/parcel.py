"""What travels with a job: a folder of few files, made for one submission, its size known before it is sent."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path

from trainer.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("trainer", "cluster", "sweeps")
LEFT = ("sweeps/embedded/", "sweeps/studies/")  # a shipped study's files travel with the study, as any other's do
MIB = 1024 * 1024
MOST = 90 * MIB  # Ray's job server takes 100 MiB
NAMED = 5  # largest files of a message

Files = Mapping[str, Path | bytes]  # path in the parcel -> where it is, or what it holds


class ParcelError(UserError):
    """What was to travel with a job is too large or cannot be read."""


def code(root: Path = ROOT) -> dict[str, Path | bytes]:
    """The source of these packages. In a git checkout without what .gitignore names; caches never."""
    names = _in_git(root) or _on_disk(root)
    return {name: root / name for name in sorted(names) if not name.startswith(LEFT) and (root / name).is_file()}


def _in_git(root: Path) -> list[str]:
    """Tracked files and new ones that are not ignored; none where ``root`` is no checkout or there is no git."""
    listing = ["git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *PACKAGES]
    if not (root / ".git").exists():  # installed packages may lie inside someone else's checkout
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


def size(content: Path | bytes) -> int:
    return len(content) if isinstance(content, bytes) else content.stat().st_size


def check_size(files: Files, most: int = MOST) -> None:
    """ParcelError with the largest files where all together are more than ``most`` bytes."""
    sizes = {name: size(content) for name, content in files.items()}
    total = sum(sizes.values())
    if total <= most:
        return
    largest = sorted(sizes, key=lambda n: -sizes[n])[:NAMED]
    listed = ", ".join(f"{_source(files[n], n)} ({in_mib(sizes[n])})" for n in largest)
    raise ParcelError(
        f"what this study needs is {in_mib(total)}, and at most {in_mib(most)} travel with a job. Largest: {listed}. "
        "Put large files on storage that every node sees and name it with --shared FOLDER, or use a name on the hub"
    )


def pack(files: Files, folder: Path) -> None:
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
    """Stands for names and contents."""
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
