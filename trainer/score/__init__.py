"""Log-probabilities and generated answers of rows under prompts."""
