"""How a process starts, lives and ends."""
