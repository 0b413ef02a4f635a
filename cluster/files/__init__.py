"""The files that describe a cluster: checked, and written for a study."""
