"""`python -m bench` is `veilbench`."""

from bench.cli.main import main

if __name__ == "__main__":  # worker processes import this module and must not run it
    main()
