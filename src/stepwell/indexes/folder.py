"""The folder of an index: what is in it, whether all of it is there, and how it is opened."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from stepwell.collection import Collection
from stepwell.collection.collection import hash_text, write_columns, write_index
from stepwell.errors import RunError
from stepwell.files import read_json
from stepwell.indexes.milvus import FILE
from stepwell.indexes.settings import IndexSettings, of_manifest
from stepwell.indexes.vector_index import VectorIndex, read
from stepwell.models.encoder import Encoder

MANIFEST = "index.json"
FORMAT, VERSION = "stepwell-index", 1
MODEL, PASSAGES, VECTORS = "model", "passages", "vectors"
BATCH = 2_048  # passages held in memory while writing


def is_index(folder: Path) -> bool:
    """Return whether a folder says that it is an index."""
    return (folder / MANIFEST).is_file()


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read the manifest of an index; one that is missing, damaged or of a later version is refused."""
    with _damage(folder):
        facts: dict[str, Any] = read_json(folder / MANIFEST)
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
        return facts


def settings_of(facts: dict[str, Any]) -> IndexSettings:
    """Return the settings in a manifest; ValueError when they can't be."""
    settings = of_manifest(facts["settings"], int(facts["collection"]["passages"]))
    if settings != settings.resolve(int(facts["model"]["dimension"])):
        raise ValueError("its settings are not complete")
    return settings


def open_index(folder: Path) -> tuple[Collection, Encoder, VectorIndex]:
    """Open an index, wherever it lies now: its passages (no queries), model and vectors; damage is refused."""
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
        return collection, encoder, read(settings, encoder.cosine, folder / VECTORS, facts["name"], count)


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


def write_passages(collection: Collection, folder: Path) -> None:
    """Write ids and texts of all passages (the title in front, as they are embedded) and the index of the ids."""
    count, schema = collection.n_passages, pa.schema({"id": pa.string(), "text": pa.string()})
    folder.mkdir(exist_ok=True)
    with pa.ipc.new_file(str(folder / "passage.arrow"), schema) as writer:
        for start in range(0, count, BATCH):
            texts = collection.passages_slice(start, start + BATCH)
            ids = collection.passage_ids[start : start + BATCH]
            writer.write_batch(pa.record_batch([pa.array(ids), pa.array(texts)], schema=schema))
    write_index(folder / "passage-index.arrow", np.fromiter(map(hash_text, collection.passage_ids), np.uint64, count))
    write_columns(folder / "passage-start.arrow", start=np.array(collection.passage_starts(np.arange(count)), np.int32))


def open_passages(folder: Path, name: str, fingerprint: str) -> Collection:
    """Map what :func:`write_passages` wrote, as a collection without queries; ValueError or OSError when damaged."""
    return Collection(folder, {"fingerprint": fingerprint}, name, folder, str(folder))
