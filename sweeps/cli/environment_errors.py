"""What an error says about the machine, its network or its memory, in one line with what to do.

Such an error may come from any library and out of any process. It is no bug of ours, so it never becomes the line
"unexpected …".
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator

LONGEST = 1_000  # characters of a library's message that are shown
AGAIN = "and run the same command again to continue"
LOOK = "`steadytune doctor` looks at this machine"

_FULL = f"Free space, or choose another folder, {AGAIN}"
_DENIED = "Change its rights, or choose another folder"
_NETWORK = f"Check the address and the network, {AGAIN}"

# Words and advice for the numbers of the operating system.
ADVICE = {
    errno.ENOSPC: ("the disk is full", _FULL),
    errno.EDQUOT: ("the disk quota is used up", _FULL),
    errno.EFBIG: ("a file would be larger than is allowed here (ulimit -f)", _FULL),
    errno.EROFS: ("the file system is read-only", "Choose a folder that can be written"),
    errno.EACCES: ("this user may not read or write there", _DENIED),
    errno.EPERM: ("this user may not do that", _DENIED),
    errno.EMFILE: ("too many files are open in one process", f"Raise the limit with `ulimit -n 4096`, {AGAIN}"),
    errno.ENFILE: ("too many files are open on this machine", f"End other programs, {AGAIN}"),
    errno.ENOMEM: ("the memory of this machine is used up", f"End other programs, or make the study smaller, {AGAIN}"),
    errno.EAGAIN: ("no more processes or threads may be started (ulimit -u)", f"End other programs, {AGAIN}"),
    errno.EIO: ("the disk fails to read or write", f"Choose another folder, {AGAIN}"),
    errno.ESTALE: ("the network disk has lost this file", f"Mount it anew, {AGAIN}"),
    errno.ENOTCONN: ("the disk is not connected", f"Mount it anew, {AGAIN}"),
    errno.ENAMETOOLONG: ("the name is too long for this disk", "Choose a shorter one"),
    errno.ELOOP: ("the symbolic links go round in a circle", "Name the folder itself"),
    errno.ENOTDIR: ("a file is where a folder must be", "Choose another folder"),
    errno.EISDIR: ("a folder is where a file must be", "Name a file"),
    errno.EEXIST: ("this name is taken", "Choose another one"),
    errno.ECONNREFUSED: ("nobody answers there", _NETWORK),
    errno.ECONNRESET: ("the other side closed the connection", _NETWORK),
    errno.ETIMEDOUT: ("no answer in time", _NETWORK),
    errno.EHOSTUNREACH: ("no way leads to that host", _NETWORK),
    errno.ENETUNREACH: ("no way leads to that network", _NETWORK),
    errno.EADDRINUSE: ("a port is taken by another program", f"End that program, {AGAIN}"),
}
_NUMBER = re.compile(r"(?:os error|\[?[Ee]rrno:?) (\d+)")  # of Rust's libraries, of Arrow's
_NETWORK_LIBRARIES = ("requests", "urllib3", "httpx", "httpcore", "huggingface_hub", "aiohttp", "socket", "ssl")
_OURS = {"steadytune", "sweeps", "cluster", "trainer", "ray_configs"}
_RAY = {
    "OutOfMemoryError",
    "OutOfDiskError",
    "LocalRayletDiedError",
    "NodeDiedError",
    "ActorDiedError",
    "ActorUnavailableError",
    "RayActorError",
    "WorkerCrashedError",
    "RaySystemError",
    "RuntimeEnvSetupError",
    "ObjectLostError",
    "OwnerDiedError",
    "GetTimeoutError",
}


def environment_line(error: BaseException) -> str | None:
    """The line, or None if ``error`` says nothing about the environment."""
    for one in _with_causes(error):
        line = _line(one)
        if line is not None:
            return line
    return None


def _with_causes(error: BaseException) -> Iterator[BaseException]:
    """``error`` and what it was raised from: here, or in the worker whose error Ray wraps."""
    seen: set[int] = set()
    at: BaseException | None = error
    while at is not None and id(at) not in seen:
        seen.add(id(at))
        yield at
        inner = getattr(at, "cause", None)
        at = inner if isinstance(inner, BaseException) else at.__cause__


def _line(error: BaseException) -> str | None:
    name, module = type(error).__name__, type(error).__module__
    if isinstance(error, MemoryError) or (name == "OutOfMemoryError" and not module.startswith("ray")):
        what, advice = ADVICE[errno.ENOMEM]
        return f"{what if isinstance(error, MemoryError) else told(error)}. {advice}"
    if module.startswith("ray.") and name in _RAY:
        return f"Ray: {told(error)}. Run the same command again to continue; {LOOK}"
    if isinstance(error, ImportError):
        return _import_line(error)
    if isinstance(error, UnicodeEncodeError) and error.encoding.lower().replace("-", "") not in ("utf8", "utf16"):
        return (
            f"the locale ({error.encoding}) cannot write {error.object[error.start : error.end]!a}. "
            "Set LC_ALL=C.UTF-8 and run the same command again"
        )
    number = _number_of(error)
    if isinstance(error, FileNotFoundError) and error.filename is None and not _here():
        return "the current folder does not exist any more. Go to another one with `cd`"
    if number in ADVICE:
        what, advice = ADVICE[number]
        where = _where(error)
        return f"{where}{what}{'' if where and isinstance(error, OSError) else f' ({told(error)})'}. {advice}"
    if not isinstance(error, OSError):
        return None
    if module.split(".")[0] in _NETWORK_LIBRARIES:
        return f"the network: {told(error)}. {LOOK}"
    return f"{told(error)}. {LOOK}"


def _import_line(error: ImportError) -> str | None:
    package = (error.name or "").split(".")[0]
    if package in _OURS:
        return None
    if isinstance(error, ModuleNotFoundError):
        return f"the package {package} is not installed. Install Steadytune with all it needs: pip install -e ."
    return f"{package or 'a package'} cannot be loaded: {told(error)}. {LOOK}"


def _number_of(error: BaseException) -> int | None:
    """The operating system's number for what went wrong, also if a library tells it in words only."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    text = str(error)
    found = _NUMBER.search(text)
    if found:
        return int(found[1])
    spoken = (n for n in (errno.ENOSPC, errno.EMFILE, errno.EROFS, errno.ENOMEM) if os.strerror(n) in text)
    return next(spoken, None)


def _where(error: BaseException) -> str:
    paths = [getattr(error, n, None) for n in ("filename", "filename2")]
    named = [os.fsdecode(p) for p in paths if isinstance(p, str | bytes)]
    return f"{' and '.join(named)}: " if named else ""


def _here() -> bool:
    try:
        os.getcwd()
    except OSError:
        return False
    return True


def told(error: BaseException) -> str:
    """All that matters of a library's message, as one line: of a traceback its last line only, of a very long text its
    beginning and its end. The class's name if there is no message."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    start = next((i for i, line in enumerate(lines) if line.startswith("Traceback (most recent")), None)
    if start is not None:
        lines = [*lines[:start], lines[-1]]
    text = " ".join(lines).rstrip(".") or type(error).__name__
    half = LONGEST // 2
    return text if len(text) <= LONGEST else f"{text[:half]} … {text[-half:]}"
