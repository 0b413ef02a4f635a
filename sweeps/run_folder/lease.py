"""One run at a time in a run folder: the driver holds a lease, ``lease.json``, and renews it while it works.

No kind of lock works both on a shared disk and on S3, and the clocks of two machines differ, so the age of a lease says
nothing. A run that finds a lease therefore watches it. If it is renewed, the folder is in use. If its process has ended
on this machine, or if nobody renews it for ``PATIENCE`` seconds, the run takes the lease over. Before each renewal a
driver reads the lease: if another run has taken it over (this laptop was suspended, or the storage was out of reach),
the driver ends.

The lease prevents two runs from training the same trials twice. Results would be right without it, since files are
written whole and trials are idempotent.
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
from trainer.store import Store, StoreError, UnwritableError

log = logging.getLogger("steadytune")

NAME = "lease.json"
EVERY = 5.0  # seconds between renewals
MOST_FAILED = 3  # renewals that a full or read-only disk refuses, after which the run ends: nothing else is kept either
PATIENCE = 30.0  # seconds without a renewal, that is six missing ones, after which a lease may be taken over
SIGNAL = signal.SIGUSR2  # not SIGINT: Ray's jobs block it, and programs that a shell starts with "&" ignore it
SETTLE = 0.3  # seconds after which two runs that start at the same moment read which of their leases stayed


class LeaseError(UserError):
    """Another run holds the folder, or took it over."""


class _Taken(BaseException):
    """Raised in the main thread when the lease is lost, or the folder takes no files. A BaseException, so that no
    handler of errors catches it."""


@dataclass(frozen=True)
class Holder:
    """The process that holds a run folder, as written in ``lease.json``."""

    token: str  # random, different at each start
    host: str
    machine: str  # distinguishes machines and containers with the same host name
    pid: int
    born: str  # when the process started, to distinguish it from a later process with the same number
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
        """Whether its process ran on this machine and has ended. False if that cannot be known."""
        return self.machine == _machine() and not _alive(self.pid, self.born)

    def __str__(self) -> str:
        job = f", job {self.job}" if self.job else ""
        return f"host {self.host}, process {self.pid}{job}, started {_ago(time.time() - self.started)}"


class Lease:
    """Use as ``with Lease(store): …``. Raises LeaseError if another run works in the folder."""

    def __init__(self, store: Store, every: float = EVERY, patience: float = PATIENCE, settle: float = SETTLE):
        self.store, self.every, self.patience, self.settle = store, every, patience, settle
        self.mine = Holder.this()
        self.lost: Holder | None = None
        self.unwritable: UnwritableError | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._renew_on, name="lease", daemon=True)

    def __enter__(self) -> Lease:
        self._wait_for_the_other()
        self._write(self.mine)
        time.sleep(self.settle)
        found = read_holder(self.store)
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
                f"{self.store.uri}: another run took this folder over ({self.lost}), since this one did not renew its "
                f"lease for {self.patience:.0f} s. All finished work is kept, and the other run goes on from it"
            ) from None
        if self.unwritable is not None:
            raise self.unwritable from None
        try:
            found = read_holder(self.store)
            if found is not None and found.token == self.mine.token:
                self.store.fs.delete_file(self.store.path(NAME))
        except (StoreError, OSError) as failure:
            log.warning("%s/%s: cannot be removed (%s). It expires by itself", self.store.uri, NAME, failure)

    # taking the lease -----------------------------------------------------------------------------------------------

    def _wait_for_the_other(self) -> None:
        """Wait until nobody holds the folder. Renewals are numbered, so no clocks are compared."""
        first = seen = read_holder(self.store)
        if first is None or first.gone:
            return
        if first.machine == self.mine.machine:
            raise LeaseError(_in_use(self.store, first, "and still runs"))
        log.warning(
            "%s: %s",
            self.store.uri,
            f"was in use ({first}); watching for up to {self.patience:.0f} s whether it still is",
        )
        end = time.monotonic() + self.patience
        while time.monotonic() < end:
            time.sleep(min(1.0, self.patience / 10))
            seen = read_holder(self.store)
            if seen is None or seen.gone:
                return
            if (seen.token, seen.renewals) != (first.token, first.renewals):
                raise LeaseError(_in_use(self.store, seen, "renewed while this run waited"))
        log.warning("%s: its lease was not renewed; taken over", self.store.uri)

    # renewing it ----------------------------------------------------------------------------------------------------

    def _renew_on(self) -> None:
        failed = 0
        while not self._over.wait(self.every):
            try:
                found = read_holder(self.store)
                if found is not None and found.token != self.mine.token:
                    self.lost = found
                    self._end_the_run()
                    return
                self.mine = replace(self.mine, renewed=time.time(), renewals=self.mine.renewals + 1)
                self._write(self.mine)
                failed = 0
            except StoreError as error:  # if that lasts, the run itself fails; a short outage is no reason to end
                if not failed:
                    log.warning("the lease cannot be renewed: %s", error)
                failed += 1
                if isinstance(error, UnwritableError) and failed == MOST_FAILED:
                    self.unwritable = error
                    self._end_the_run()
                    return

    def _end_the_run(self) -> None:
        if self._main:
            signal.pthread_kill(threading.main_thread().ident or 0, SIGNAL)

    def _leave(self, number: int, frame: FrameType | None) -> None:
        if (self.lost is not None or self.unwritable is not None) and not self._over.is_set():
            raise _Taken

    def _write(self, holder: Holder) -> None:
        self.store.write(NAME, json.dumps(asdict(holder)).encode())


def read_holder(store: Store) -> Holder | None:
    """The holder of the folder; None if there is none, or if the file is no lease."""
    if not store.exists(NAME):
        return None
    try:
        return _holder(json.loads(store.read(NAME)))
    except StoreError:
        if store.exists(NAME):
            raise
        return None  # released since ``exists``
    except (ValueError, TypeError, KeyError, AttributeError):
        log.warning("%s/%s: is not readable and is ignored", store.uri, NAME)
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
        f"twice. Let it finish, stop it ({stop}), or give this run another folder with --out. After it has ended, the "
        "same command goes on from what is there"
    )


def _ago(seconds: float) -> str:
    seconds = max(0.0, seconds)  # clocks of two machines may differ
    for size, unit in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{seconds:.0f} s ago"


# this machine -------------------------------------------------------------------------------------------------------


def _machine() -> str:
    """Equal for processes that see each other's numbers: those of one container since one boot of one machine."""
    parts = [socket.gethostname()]
    try:
        with open("/proc/sys/kernel/random/boot_id") as f:
            parts.append(f.read().strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    except OSError:  # not Linux: only the host name is known
        pass
    return " ".join(parts)


def _born(pid: int) -> str:
    """When a process started, in the kernel's ticks since boot; "" if that is unknown, and "ended" if the process has
    ended but its parent has not collected it."""
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
    except OSError:  # a process of another user
        pass
    return _born(pid) == born
