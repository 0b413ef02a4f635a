"""One line of `steadytune doctor`: what was looked at, what was found, and what to do about it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Diagnosis:
    what: str
    found: str
    remedy: str = ""  # empty: all is fine

    @property
    def fine(self) -> bool:
        return not self.remedy

    def __str__(self) -> str:
        end = "" if self.fine else f". {self.remedy}"
        return f"{'fine' if self.fine else 'mend'}  {self.what}: {self.found}{end}"


Check = Callable[[], Iterator[Diagnosis]]


def diagnoses(checks: dict[str, Check]) -> Iterator[Diagnosis]:
    """What the checks find. One that fails itself is a finding, and the others go on."""
    for what, check in checks.items():
        try:
            yield from check()
        except Exception as error:
            text = " ".join(str(error).split()) or type(error).__name__
            yield Diagnosis(what, text.rstrip("."), "Mend this, and look again")
