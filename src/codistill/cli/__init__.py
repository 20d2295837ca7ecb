"""The command line: one verb a file, each of which parses, calls one function and prints."""

from codistill.cli.entry import main

__all__ = ["main"]
