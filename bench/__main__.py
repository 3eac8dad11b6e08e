"""`python -m bench` is `veilbench`."""

from bench.cli import main

main()
