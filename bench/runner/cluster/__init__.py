"""The same plan on many processes or machines, by Dask."""
