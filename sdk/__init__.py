"""What a user imports: clients, futures, environments, the task's own side, errors."""
