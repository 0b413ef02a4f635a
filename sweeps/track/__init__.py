"""``steadytune track``: a run folder shown in MLflow, Weights & Biases or Trackio."""
