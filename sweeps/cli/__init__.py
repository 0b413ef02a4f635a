"""The ``steadytune`` command."""
