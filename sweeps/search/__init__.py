"""Which points of the axes are trials: grid, random, TPE."""
