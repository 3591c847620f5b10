"""The folder for what can be made again."""

from __future__ import annotations

import os
from pathlib import Path


def default_cache() -> Path:
    """Return it: ``$STEPWELL_CACHE`` or ``~/.cache/stepwell``."""
    return Path(os.environ.get("STEPWELL_CACHE") or Path.home() / ".cache" / "stepwell")
