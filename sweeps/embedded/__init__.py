"""The quickstart's own model, yes/no task and prompt pools, all made for this project."""
