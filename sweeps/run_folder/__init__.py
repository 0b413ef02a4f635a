"""The run folder: who may write in it, how it is read, found and fetched."""
