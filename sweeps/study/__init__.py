"""The study file: its keys, their rules, and how it is read."""
