"""The passages of an index: ids and texts in memory-mapped Arrow, so that a search needs nothing else."""

from __future__ import annotations

from array import array
from pathlib import Path

import numpy as np
import pyarrow as pa

from stepwell.collection import Collection
from stepwell.collection.collection import IdIndex, Mapped, Strings, hash_text
from stepwell.collection.store import map_texts

BATCH = 2_048
"""Passages held in memory while writing."""


def write_passages(collection: Collection, folder: Path) -> None:
    """Write ids and texts of all passages (the title in front, as they are embedded) and the index of the ids."""
    hashes, starts = array("Q"), array("i")
    schema = pa.schema({"id": pa.string(), "text": pa.string()})
    with pa.ipc.new_file(str(folder / "passage.arrow"), schema) as writer:
        for start in range(0, collection.n_passages, BATCH):
            ids = list(collection.passage_ids[start : start + BATCH])
            hashes.extend(map(hash_text, ids))
            texts = collection.passages_slice(start, start + BATCH)
            starts.extend(collection.passage_starts(np.arange(start, start + len(texts))))
            writer.write_batch(pa.record_batch([pa.array(ids), pa.array(texts)], schema=schema))
    values = np.frombuffer(hashes, dtype=np.uint64)
    rows = np.argsort(values, kind="stable").astype(np.int32)
    schema = pa.schema({"hash": pa.uint64(), "row": pa.int32()})
    with pa.ipc.new_file(str(folder / "passage-index.arrow"), schema) as writer:
        writer.write_batch(pa.record_batch([pa.array(values[rows]), pa.array(rows)], schema=schema))
    schema = pa.schema({"start": pa.int32()})
    with pa.ipc.new_file(str(folder / "passage-start.arrow"), schema) as writer:
        writer.write_batch(pa.record_batch([pa.array(np.frombuffer(starts, dtype=np.int32))], schema=schema))


def open_passages(folder: Path, name: str, fingerprint: str) -> Collection:
    """Map what :func:`write_passages` wrote, as a collection without queries.

    Raises
    ------
    ValueError, OSError
        When a file is missing or damaged.
    """
    none = Strings(pa.chunked_array([], pa.string()))
    queries = IdIndex(none, np.zeros(0, np.uint64), np.zeros(0, np.int32)), none
    passages = map_texts(folder, "passage")
    return Collection(
        name=name,
        path=folder,
        fingerprint=fingerprint,
        passages=passages,
        queries=queries,
        starts=Mapped(folder / "passage-start.arrow").numbers("start"),
        qrels={},
    )
