"""The tables of a run folder: robustness and averages."""
