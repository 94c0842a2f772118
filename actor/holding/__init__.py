"""What an actor holds: what waits, who has a slot, environments, limits, outcomes."""
