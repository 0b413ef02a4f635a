"""Checks of a study's prompts, templates, sequences and rows, before anything is trained."""
