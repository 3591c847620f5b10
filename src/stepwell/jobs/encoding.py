"""Vectors without a ladder: all texts of a collection, into a folder of their own."""

from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

import numpy as np

from stepwell import distributed
from stepwell.collection import open_collection
from stepwell.display import Table, progress
from stepwell.files import claimed
from stepwell.jobs.cluster import Cluster, encode_on
from stepwell.models.encoder import Encoder
from stepwell.retrieval.vectors import Draft, Vectors, write_vectors


class Encoded(NamedTuple):
    """The vectors of a collection; and what their folder holds as a table, for the main process alone."""

    vectors: Vectors
    facts: Table | None


def encode(collection: str | Path, folder: str | Path, model: str | Path, cluster: Cluster | None = None) -> Encoded:
    """Encode all passages and queries of a collection, here or on a cluster, into a folder for these vectors alone.

    What an earlier call left there, however it ended, is not made again.
    """
    opened, encoder, folder = open_collection(str(collection)), Encoder.open(str(model)), Path(folder)
    rows = np.arange(opened.n_queries, dtype=np.int32)
    source = {"collection": opened.fingerprint, "model": encoder.fingerprint}
    with claimed(folder, source, "vectors") if distributed.is_main() else nullcontext():
        distributed.barrier()
        with progress(opened.n_passages + len(rows), "encoding") as bar:
            if cluster is None:
                write_vectors(encoder, opened, rows, folder, bar)
            else:
                encode_on(cluster, str(model), encoder, opened, Draft(encoder, opened, rows, folder), bar)
    facts = Table(
        f"Vectors of {model}",
        ["", "value"],
        [
            ["passages", opened.n_passages],
            ["queries", len(rows)],
            ["dimensions", encoder.dimension],
            ["similarity", "cosine" if encoder.cosine else "dot product"],
        ],
        [f"Written to {folder}: passages.npy and queries.npy, rows in the order of the collection's files."],
    )
    return Encoded(Vectors.open(folder), facts if distributed.is_main() else None)
