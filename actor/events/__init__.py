"""What is to be done when something is said, a run ends, or time has passed."""
