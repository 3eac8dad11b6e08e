"""Veilbench: how much of a face leaks with its stored features, and what hiding it costs."""

__version__ = "0.1.0"
