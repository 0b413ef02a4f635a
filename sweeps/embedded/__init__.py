"""The quickstart's own model, yes/no task and prompt pools, all of the project's making."""
