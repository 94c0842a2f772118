"""Who holds what of which limit, who waits for it, and who waits in a circle."""
