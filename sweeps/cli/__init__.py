"""The ``steadytune`` command. Its entry point is ``sweeps.cli:main``."""

from sweeps.cli.exit_codes import main

__all__ = ["main"]
