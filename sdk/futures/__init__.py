"""Who waits for outcomes: futures, tasks that wait, calls that need results first."""
