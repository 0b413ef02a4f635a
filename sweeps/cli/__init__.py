"""The ``steadytune`` command."""

from sweeps.cli.exit_codes import main as main
