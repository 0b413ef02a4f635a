"""Rows and prompts, and the token ids that they become."""
