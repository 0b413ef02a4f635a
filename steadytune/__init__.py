"""Steadytune finds the LoRA fine-tune that keeps working when the prompt is worded differently."""

__version__ = "0.1.0"
