"""From a study to what it reads, its base model and its trials."""
