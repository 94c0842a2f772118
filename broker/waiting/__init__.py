"""Who waits for whom: an index of queued tasks and of those that could take them."""
