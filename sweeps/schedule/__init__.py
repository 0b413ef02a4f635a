"""Early stopping: ASHA's rule, and its scheduler for Tune."""
