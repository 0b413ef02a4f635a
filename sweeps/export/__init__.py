"""One trial as a folder that peft loads, and the answers that it gives."""
