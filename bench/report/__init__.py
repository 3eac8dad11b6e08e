"""Renders tables and figures of a finished run."""
