"""The mediator: places tasks by credit and labels, and never runs what a client sent."""
