"""The report of a run folder: one HTML page, made from the folder's files."""
