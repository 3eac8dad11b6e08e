"""Runs the same plan on many processes or machines with Dask."""
