"""What is said of a function or a class: options, code, version, what may run together."""
