"""One accelerator: rows and prompts in, adapters and score rows out. Never imports ray."""
