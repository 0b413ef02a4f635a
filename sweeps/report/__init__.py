"""The report of a run folder: one page, from files alone."""
