"""One study in five stages: format, head, templates, LoRA, and whether they had to be searched together."""
