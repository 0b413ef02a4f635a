"""The table that a terminal shows while a study runs."""
