"""How whoever waits reads the socket, sleeps and is woken, and when calls leave."""
