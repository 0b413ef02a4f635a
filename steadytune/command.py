"""The ``steadytune`` command: it starts only where the packages that Python finds are Steadytune's."""

from __future__ import annotations

import sys

from steadytune.installed import refuse_foreign_packages


def main() -> None:
    try:
        refuse_foreign_packages()
    except ImportError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    from sweeps.cli import main as command

    command()
