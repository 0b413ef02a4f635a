"""Where trials run: the host that holds a base model, the Tune trainable that takes a slot in it."""
