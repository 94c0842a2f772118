"""What the journal has of it, as rows; the file, and what time it is in there."""
