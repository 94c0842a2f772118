"""What is known of calls: which have no outcome, what the broker has, what waits and why."""
