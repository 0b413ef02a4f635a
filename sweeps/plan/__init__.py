"""What a study will cost, and what it asks of a cluster."""
