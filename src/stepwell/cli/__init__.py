"""The command line, without logic: a verb reads its options, calls one function of ``api`` and shows the result."""

from stepwell.cli import data, ladder, use
from stepwell.cli.app import app, main

__all__ = ["app", "data", "ladder", "main", "use"]
