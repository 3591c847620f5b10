"""Vectors without a ladder: all texts of a collection, into a folder of their own."""

from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

import numpy as np

from stepwell import distributed
from stepwell.collection import open_collection
from stepwell.display import Cell, Table, progress
from stepwell.files import claimed
from stepwell.jobs.cluster import Cluster, encode_on
from stepwell.models.encoder import Encoder
from stepwell.retrieval.vectors import Draft, Vectors, write_vectors


class Encoded(NamedTuple):
    """The vectors of a collection; and what their folder holds as a table, for the main process alone."""

    vectors: Vectors
    facts: Table | None


def encode(collection: str | Path, folder: str | Path, model: str | Path, cluster: Cluster | None = None) -> Encoded:
    """Encode all passages and queries of a collection, or go on with it."""
    facts = encode_collection(str(collection), Path(folder), str(model), cluster)
    return Encoded(Vectors.open(Path(folder)), facts)


def encode_collection(place: str, folder: Path, model: str, cluster: Cluster | None = None) -> Table | None:
    """Encode all passages and queries of a collection, here or on a cluster, into a folder for these vectors alone.

    :meth:`stepwell.retrieval.vectors.Vectors.open` maps the folder. What an earlier call left there, however it ended,
    is not made again. The table of what is in the folder is for the main process alone.
    """
    collection, encoder = open_collection(place), Encoder.open(model)
    rows = np.arange(collection.n_queries, dtype=np.int32)
    source = {"collection": collection.fingerprint, "model": encoder.fingerprint}
    with claimed(folder, source, "vectors") if distributed.is_main() else nullcontext():
        distributed.barrier()
        with progress(collection.n_passages + len(rows), "encoding") as bar:
            if cluster is None:
                write_vectors(encoder, collection, rows, folder, bar)
            else:
                encode_on(cluster, model, encoder, collection, Draft(encoder, collection, rows, folder), bar)
    if not distributed.is_main():
        return None
    cells: list[list[Cell]] = [
        ["passages", collection.n_passages],
        ["queries", len(rows)],
        ["dimensions", encoder.dimension],
        ["similarity", "cosine" if encoder.cosine else "dot product"],
    ]
    note = f"Written to {folder}: passages.npy and queries.npy, rows in the order of the collection's files."
    return Table(f"Vectors of {model}", ["", "value"], cells, (note,))
