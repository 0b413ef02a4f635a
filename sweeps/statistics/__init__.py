"""Estimates with intervals over prompts and rows."""
