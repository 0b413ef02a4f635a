"""What a study will cost, and what it needs of a cluster."""
