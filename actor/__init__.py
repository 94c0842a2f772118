"""The actor and its host: run what the broker assigns, next to what stays loaded."""
