"""Loaders of face sets on disk, and the alignment that they share."""
