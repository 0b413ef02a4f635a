"""The prompt-loss-weight study: its rows, its axis, its benchmarks, the models and tests, its part of the report."""
