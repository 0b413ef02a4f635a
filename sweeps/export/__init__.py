"""Export a trial as a folder that peft loads, and answer rows with it."""
