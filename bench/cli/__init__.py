"""The command line: one module of options and output per group of commands."""

from bench.cli.main import main as main
