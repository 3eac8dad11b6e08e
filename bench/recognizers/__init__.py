"""Face recognisers, each cut into a client and a server at a named layer."""
