"""Records, artefacts, keys and files on disk."""
