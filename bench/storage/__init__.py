"""Stores records, artefacts, keys and files on disk."""
