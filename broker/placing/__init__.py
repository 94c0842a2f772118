"""Which actor gets a task, which copy of an environment is entered or left for it."""
