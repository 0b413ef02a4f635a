"""The trials of one accelerator: its host, the Tune trainable that takes a slot there, what the host shows of it."""
