"""``python -m sweeps`` is ``steadytune``."""

from sweeps.cli import main

if __name__ == "__main__":
    main()
