"""Serving a finished run or an index over HTTP, with a search page."""
