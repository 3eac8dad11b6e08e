"""Reads `bench.toml` and turns it into plugin instances."""
