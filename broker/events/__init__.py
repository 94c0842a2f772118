"""What is to be done when something is said or time has passed."""
