"""The folder of an index: what is in it, whether all of it is there, and how it is opened."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from stepwell.collection import Collection
from stepwell.errors import RunError
from stepwell.indexes.milvus import FILE
from stepwell.indexes.passages import open_passages
from stepwell.indexes.settings import IndexSettings
from stepwell.indexes.vector_index import VectorIndex, read
from stepwell.models.encoder import Encoder

MANIFEST = "index.json"
FORMAT, VERSION = "stepwell-index", 1
MODEL, PASSAGES, VECTORS = "model", "passages", "vectors"


@dataclass
class OpenIndex:
    """An index, opened.

    Parameters
    ----------
    collection
        Its passages.
    encoder
        Its model.
    vectors
        What finds passages.
    facts
        Its manifest.
    """

    collection: Collection
    encoder: Encoder
    vectors: VectorIndex
    facts: dict[str, Any]


def is_index(folder: Path) -> bool:
    """Return whether a folder says that it is an index."""
    return (folder / MANIFEST).is_file()


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read and check the manifest of an index.

    Raises
    ------
    StepwellError
        When it is missing, damaged, of something else, or of a later version.
    """
    with _damage(folder):
        facts = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if facts["format"] != FORMAT:
            raise ValueError(f"its format is {facts['format']!r}")
        if facts["version"] > VERSION:
            raise RunError(
                f"the index in {folder} was made by a later stepwell (version {facts['version']} of the format, and "
                f"this one reads {VERSION}): update stepwell, or build it again."
            )
        types = {"settings": dict, "model": dict, "collection": dict, "files": dict, "name": str, "key": str}
        wrong = [key for key, kind in types.items() if not isinstance(facts[key], kind)]
        if wrong:
            raise ValueError(f"{', '.join(wrong)} can't be read")
        checked: dict[str, Any] = facts
        return checked


def settings_of(facts: dict[str, Any]) -> IndexSettings:
    """Return the settings in a manifest; ValueError when they can't be."""
    settings = IndexSettings(**facts["settings"])
    if settings != settings.resolve(int(facts["model"]["dimension"])):
        raise ValueError("its settings are not complete")
    return settings


def open_index(folder: Path) -> OpenIndex:
    """Open an index, wherever it lies now.

    Raises
    ------
    StepwellError
        When something of it is missing, damaged or not what it was made with, or a package is missing.
    """
    facts = read_manifest(folder)
    with _damage(folder):
        for name, size in facts["files"].items():
            if (folder / name).stat().st_size != size:
                raise ValueError(f"{name} has another size than it was written with")
        model, texts = facts["model"], facts["collection"]
        settings, count = settings_of(facts), int(texts["passages"])
        collection = open_passages(folder / PASSAGES, str(texts["name"]), str(texts["fingerprint"]))
        if collection.n_passages != count:
            raise ValueError(f"it has {collection.n_passages} passages, not {count}")
        encoder = Encoder.open(folder / MODEL, float(model["scale"]))
        if encoder.fingerprint != model["fingerprint"]:
            raise ValueError("its model is another one than the vectors were made with")
        vectors = read(settings, encoder.cosine, folder / VECTORS, facts["name"], count)
        return OpenIndex(collection, encoder, vectors, facts)


def files_of(folder: Path) -> dict[str, int]:
    """Return the sizes of an index's files; Milvus Lite's change when they are opened and don't count."""
    named = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    kept = (MODEL, PASSAGES, VECTORS)
    return {name: path.stat().st_size for name, path in named.items() if name.startswith(kept) and FILE not in name}


@contextmanager
def _damage(folder: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError, pa.ArrowException) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise RunError(
            f"{folder} holds no whole index of stepwell ({reason.rstrip('.')}): copy it again, or build it again with "
            "`stepwell index` into another folder."
        ) from error
