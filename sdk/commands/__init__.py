"""The commands of `python -m sdk`, and how they print what the broker answers."""
