"""The life of a task, its family and its named actor, from its queue to the end."""
