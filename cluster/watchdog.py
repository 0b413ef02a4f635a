"""A small process beside a run: when the run has ended, in whatever way, it ends what is left of the run's local Ray
and removes Ray's folder.

Ray's own agents look for their dead parent and then try for a minute to tell the control store about it, which is dead
too. This file is run as a script and uses the standard library only, so that it starts at once and stays small.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import sys
import time

KEEP = b"k"  # sent by a run whose folder must stay
PATIENCE = 20.0  # seconds for ending what is left


def main(folder: str) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # they are meant for the run
    keep = _wait_for_end(os.getppid())
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        left = processes_of(folder)
        if not left:
            break
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except OSError:
                continue
        time.sleep(0.1)
    if not keep:
        shutil.rmtree(folder, ignore_errors=True)


def _wait_for_end(run: int) -> bool:
    """Wait until the run ``run`` has closed our standard input, as its end does. Whether its folder must stay."""
    keep = False
    while True:
        if select.select([0], [], [], 1.0)[0]:
            said = os.read(0, 1)
            if not said:
                return keep
            keep = said == KEEP
        elif os.getppid() != run:  # a forked child of the run may hold the pipe open
            return keep


def processes_of(folder: str) -> list[int]:
    """Ray's processes that have a file of ``folder`` open."""
    found = []
    for name in os.listdir("/proc") if os.path.isdir("/proc") else []:
        if not name.isdigit() or int(name) == os.getpid():
            continue
        try:
            with open(f"/proc/{name}/cmdline", "rb") as f:
                command = f.read()
            if command.startswith(b"ray::") or os.fsencode(folder) in command:
                links = (os.readlink(f"/proc/{name}/fd/{n}") for n in os.listdir(f"/proc/{name}/fd"))
                if any(link.startswith(folder + os.sep) for link in links):
                    found.append(int(name))
        except OSError:  # another user's, or it has just ended
            continue
    return found


if __name__ == "__main__":
    main(sys.argv[1])
