"""When each trial takes an optimizer step, seen from outside: every Python process of the nodes gets a small piece of
code (as its ``sitecustomize``) that sends a datagram after each step, and nothing else is changed in it. A node that is
cut off is not heard, which is what it is to the others too."""

from __future__ import annotations

import math
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

SIGNALS = """
import importlib.abc, importlib.machinery, os, socket, sys

class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != "trainer.runner":
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        load = spec.loader.exec_module
        spec.loader.exec_module = lambda module: (load(module), wrap(module.Runner))
        return spec

def wrap(Runner):
    step, out, where = Runner._step, socket.socket(socket.AF_INET, socket.SOCK_DGRAM), socket.gethostname()
    def told(self, training):
        step(self, training)
        for r in training:
            try:
                out.sendto(f"{{r.trial.id}} {{where}} {{os.getpid()}} {{r.step}}".encode(), {address!r})
            except OSError:
                pass
    Runner._step = told

sys.meta_path.insert(0, Finder())
"""


@dataclass(frozen=True)
class Step:
    at: float
    trial: str
    node: str
    pid: int
    number: int  # of the trial's steps


class Steps:
    """The optimizer steps of all nodes, as they are told."""

    def __init__(self, address: str):
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind((address, 0))
        self.seen: list[Step] = []
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        while True:
            words = self.socket.recv(200).decode().split()
            self.seen.append(Step(time.monotonic(), words[0], words[1], int(words[2]), int(words[3])))

    def on(self, node: str, before: float = math.inf, seconds: float = 0.5) -> set[str]:
        """The trials that took a step on ``node`` just now, and nowhere else; but for those beyond step ``before``."""
        now = time.monotonic()
        late = [s for s in self.seen[-400:] if now - s.at < seconds]
        return {s.trial for s in late if s.node == node} - {
            s.trial for s in late if s.node != node or s.number > before
        }

    def first(self, since: float, trials: set[str], but: Callable[[Step], bool]) -> float | None:
        found = (s.at for s in reversed(self.seen) if s.at > since and s.trial in trials and not but(s))
        return min(found, default=None)


def listening_code(steps: Steps) -> str:
    """The text of ``sitecustomize.py`` for processes that are to tell ``steps``."""
    return SIGNALS.format(address=steps.socket.getsockname())
