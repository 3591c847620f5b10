"""What a local model is made of, as a digest: a model that changed in its place is another one."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

FILES = frozenset({".safetensors", ".json", ".txt", ".model"})
"""Endings of the files that a model is opened from: weights, configurations, vocabularies."""


def content_digest(base: str) -> str | None:
    """Return the sha256 (hex) of the model files in a directory and the folders of its modules.

    Parameters
    ----------
    base
        As in a recipe's ``from``.

    Returns
    -------
    str | None
        None for a hub name and for ``demo`` (whose weights are checked against a known digest): the name says it all.
    """
    folder = Path(base).expanduser()
    if base == "demo" or not folder.is_dir():
        return None
    digest = hashlib.sha256()
    for path in sorted([*folder.glob("*"), *folder.glob("*_*/*"), *folder.glob("*_*/*_*/*")]):
        if path.suffix in FILES and path.is_file():
            facts = path.stat()
            digest.update(f"{path.relative_to(folder)}:{_digest(path, facts.st_mtime_ns, facts.st_size)}\n".encode())
    return digest.hexdigest()


@lru_cache(maxsize=1024)
def _digest(path: Path, changed: int, size: int) -> str:
    """Return the sha256 of a file, read once while it is as old and as large as it was."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
