"""From score rows to numbers: the grid of scores, samples of it, metrics. Imports no torch."""
