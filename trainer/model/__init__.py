"""The base model on one accelerator, and the slots of adapters in it."""
