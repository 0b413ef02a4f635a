"""Candidate prompts: a brief, the models that write wordings, the checks these must pass, the pools they end in."""
