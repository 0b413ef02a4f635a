"""One run at a time in a run folder: a lease, ``lease.json``, that the driver renews while it works.

Storage has no lock that works on a shared disk and on S3 alike, and clocks of two machines differ, so that a lease's
age cannot be trusted. Whoever finds a lease therefore watches it: one that is renewed is in use; one whose process is
gone from this machine, or that nobody renews for ``PATIENCE`` seconds, is taken over. Every renewal reads first: a
driver that was taken for dead (a suspended laptop, storage out of reach) finds the other's lease and ends.

This keeps two runs from training the same trials twice. It is not what keeps results right: files are whole and
trials idempotent without it.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from types import FrameType, TracebackType
from typing import Any

from cluster.ray_private import job_submission_id
from trainer.errors import UserError
from trainer.store import Store, StoreError

log = logging.getLogger("steadytune")

NAME = "lease.json"
EVERY = 5.0  # seconds between renewals
PATIENCE = 30.0  # seconds without one until a lease counts as left behind: six renewals that did not come
SIGNAL = signal.SIGUSR2  # Ray's jobs block SIGINT, shells ignore it in what they start with "&"
SETTLE = 0.3  # seconds after which two that began at the same moment see which of their writes stayed


class LeaseError(UserError):
    """Another run holds the folder, or took it over."""


class _Taken(BaseException):
    """Raised where the main thread is when the lease was lost; nothing on the way out is to catch it."""


@dataclass(frozen=True)
class Holder:
    """Who holds a run folder, as ``lease.json`` says it."""

    token: str  # of this one start
    host: str
    machine: str  # tells machines and containers apart whose host names are equal
    pid: int
    born: str  # when the process started, so that another process with its number is not taken for it
    job: str  # Ray's submission id; "" outside of jobs
    started: float  # seconds since 1970
    renewed: float
    renewals: int = 0

    @classmethod
    def this(cls) -> Holder:
        now = time.time()
        return cls(
            uuid.uuid4().hex,
            socket.gethostname(),
            _machine(),
            os.getpid(),
            _born(os.getpid()),
            job_submission_id(),
            now,
            now,
        )

    @property
    def gone(self) -> bool:
        """Whether it is a process of this machine that has ended. False where that cannot be known."""
        return self.machine == _machine() and not _alive(self.pid, self.born)

    def __str__(self) -> str:
        job = f", job {self.job}" if self.job else ""
        return f"host {self.host}, process {self.pid}{job}, started {_ago(time.time() - self.started)}"


class Lease:
    """Use as ``with Lease(store): …``. Raises LeaseError where another run is at work in the folder."""

    def __init__(self, store: Store, every: float = EVERY, patience: float = PATIENCE, settle: float = SETTLE):
        self.store, self.every, self.patience, self.settle = store, every, patience, settle
        self.mine = Holder.this()
        self.lost: Holder | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._renew_on, name="lease", daemon=True)

    def __enter__(self) -> Lease:
        self._wait_for_the_other()
        self._write(self.mine)
        time.sleep(self.settle)
        found = read(self.store)
        if found is not None and found.token != self.mine.token:
            raise LeaseError(_in_use(self.store, found, "started at the same moment"))
        self._main = threading.current_thread() is threading.main_thread()
        if self._main:
            self._before = signal.signal(SIGNAL, self._leave)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {SIGNAL})
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._over.set()
        self._thread.join()
        if self._main:
            signal.signal(SIGNAL, self._before)
        if self.lost is not None:
            raise LeaseError(
                f"{self.store.uri}: another run took this folder over ({self.lost}), since this one was not heard "
                f"of for {self.patience:.0f} s. What is done is kept, the other goes on from it"
            ) from None
        try:
            found = read(self.store)
            if found is not None and found.token == self.mine.token:
                self.store.fs.delete_file(self.store.path(NAME))
        except (StoreError, OSError) as failure:
            log.warning("%s/%s: cannot be removed (%s). It ends by itself", self.store.uri, NAME, failure)

    # before the work ------------------------------------------------------------------------------------------

    def _wait_for_the_other(self) -> None:
        """Return when nobody holds the folder. A renewal is seen by its number: no clock is compared."""
        first = seen = read(self.store)
        if first is None or first.gone:
            return
        if first.machine == self.mine.machine:
            raise LeaseError(_in_use(self.store, first, "and still runs"))
        log.warning("%s: %s", self.store.uri, f"was in use ({first}); looking for up to {self.patience:.0f} s if it is")
        end = time.monotonic() + self.patience
        while time.monotonic() < end:
            time.sleep(min(1.0, self.patience / 10))
            seen = read(self.store)
            if seen is None or seen.gone:
                return
            if (seen.token, seen.renewals) != (first.token, first.renewals):
                raise LeaseError(_in_use(self.store, seen, "renewed while this run waited"))
        log.warning("%s: nothing was heard of it; taken over", self.store.uri)

    # while it goes on -----------------------------------------------------------------------------------------

    def _renew_on(self) -> None:
        failed = False
        while not self._over.wait(self.every):
            try:
                found = read(self.store)
                if found is not None and found.token != self.mine.token:
                    self.lost = found
                    if self._main:
                        signal.pthread_kill(threading.main_thread().ident or 0, SIGNAL)
                    return
                self.mine = replace(self.mine, renewed=time.time(), renewals=self.mine.renewals + 1)
                self._write(self.mine)
                failed = False
            except StoreError as error:  # the run itself ends if that lasts; a moment is lived with
                if not failed:
                    log.warning("the lease cannot be renewed: %s", error)
                failed = True

    def _leave(self, number: int, frame: FrameType | None) -> None:
        if self.lost is not None and not self._over.is_set():
            raise _Taken

    def _write(self, holder: Holder) -> None:
        self.store.write(NAME, json.dumps(asdict(holder)).encode())


def read(store: Store) -> Holder | None:
    """Who holds the folder; None where nobody does. A file that is no lease counts as none."""
    if not store.exists(NAME):
        return None
    try:
        return _holder(json.loads(store.read(NAME)))
    except StoreError:
        if store.exists(NAME):
            raise
        return None  # released between the two looks
    except (ValueError, TypeError, KeyError, AttributeError):
        log.warning("%s/%s: is not readable and counts as left behind", store.uri, NAME)
        return None


def _holder(about: dict[str, Any]) -> Holder:
    kinds: dict[str, Callable[[Any], Any]] = {
        "token": str, "host": str, "machine": str, "pid": int, "born": str, "job": str,
        "started": float, "renewed": float, "renewals": int,
    }  # fmt: skip
    return Holder(**{name: kind(about[name]) for name, kind in kinds.items()})


def _in_use(store: Store, holder: Holder, sign: str) -> str:
    stop = f"steadytune stop {holder.job}" if holder.job else f"kill {holder.pid} on {holder.host}"
    return (
        f"run folder {store.uri} is in use: {holder}, {sign}. Two runs in one folder would train the same trials "
        f"twice. Let it finish, end it ({stop}), or give this run a folder of its own with --out. After its end the "
        "same command goes on from what is there"
    )


def _ago(seconds: float) -> str:
    seconds = max(0.0, seconds)  # clocks of two machines may differ
    for size, unit in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{seconds:.0f} s ago"


# this machine ---------------------------------------------------------------------------------------------------


def _machine() -> str:
    """Equal for processes that see each other's numbers: the same boot and the same container."""
    parts = [socket.gethostname()]
    try:
        with open("/proc/sys/kernel/random/boot_id") as f:
            parts.append(f.read().strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    except OSError:  # not Linux: the host's name must do
        pass
    return " ".join(parts)


def _born(pid: int) -> str:
    """When a process started, in the kernel's ticks since boot; "" where that is not told, "ended" of one whose
    parent has not looked yet."""
    try:
        with open(f"/proc/{pid}/stat") as f:
            fields = f.read().rsplit(")", 1)[1].split()
        return "ended" if fields[0] in "ZX" else fields[19]
    except (OSError, IndexError):
        return ""


def _alive(pid: int, born: str) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        pass
    return _born(pid) == born
