"""Real servers for the tests, on free ports, each ended by its own process id."""
