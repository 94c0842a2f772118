"""What an actor grants and offers, what it hands back, and what it says of all that."""
