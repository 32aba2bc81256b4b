"""The command line: `supportstream`. Exit codes: 0 done, 1 failed, 2 usage."""

from ops.cli.main import main

__all__ = ["main"]
