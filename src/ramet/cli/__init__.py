"""The command `ramet`: arguments in, text or JSON out.

One file a subcommand; everything else is the library's.
"""

from ramet.cli.main import main

__all__ = ["main"]
