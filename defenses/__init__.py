"""Ways to store features, one class a file."""
