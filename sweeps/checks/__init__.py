"""What is found before anything is trained: prompts, templates, sequences, rows."""
