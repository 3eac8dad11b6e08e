"""Makes `python -m bench` equivalent to `veilbench`."""

from bench.cli.main import main

if __name__ == "__main__":  # worker processes import this module but must not run it
    main()
