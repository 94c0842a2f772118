"""What is known: tasks, who is connected, what was granted, what has a time of its own."""
