"""The PAFT study: the score and cost of each training arm, its tables and figures, its part of the report."""
