"""`bench.toml` to plugin instances."""
