"""The built-in face recognisers, each split into a client and a server at a named layer."""
