"""``steadytune verify``: whether a server answers as the adapter that it serves was trained."""
