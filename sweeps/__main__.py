"""``python -m sweeps`` is ``steadytune``."""

from sweeps.cli.exit_codes import main

if __name__ == "__main__":
    main()
