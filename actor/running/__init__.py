"""Where code of users runs, and what it sees there."""
