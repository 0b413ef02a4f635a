"""One sweep on Ray: its progress, its session, its trials under Tune, the test pool after it."""
