"""Searches for one good prompt: TopAccuracy, BATprompt, ZOPO and random search over one scorer and one budget."""
