"""The command line: one file of options and printing a group of commands."""

from bench.cli.main import main as main
