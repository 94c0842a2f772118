"""The mediator: holds the backlog, places tasks by credit and labels, and never runs what a client sent."""
