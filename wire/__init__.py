"""What the broker, the actors and the clients share: messages, codec, labels, errors, payloads."""
