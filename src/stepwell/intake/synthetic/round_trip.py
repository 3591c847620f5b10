"""The filter of synthetic queries: each must find the passage that it was made from (arXiv 1906.05416, 2209.11755)."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from stepwell.collection import Collection
from stepwell.display import progress
from stepwell.models.encoder import Encoder
from stepwell.retrieval.bm25 import BM25Index
from stepwell.retrieval.run import Run
from stepwell.retrieval.search import retrieve
from stepwell.retrieval.vectors import Vectors, write_vectors

By = Literal["bm25", "encoder", "either", "both"]


def come_back(collection: Collection, by: By, encoder: str, depth: int, folder: Path) -> NDArray[np.bool_]:
    """Say for each training query whether a passage of its own is in the first ranks.

    Parameters
    ----------
    collection
        The passages and the queries, as ``train``.
    by
        Who must find it.
    encoder
        A directory or a name on the Hub.
    depth
        How many ranks count.
    folder
        Where the encoder's vectors go.

    Returns
    -------
    NDArray
        Shape (Q,), bool, in the order of the training queries' rows.
    """
    qrels = collection.qrels("train")
    rows = qrels.query_rows
    runs: list[Run] = []
    if by != "encoder":
        runs.append(BM25Index.build(collection).run(collection, rows, depth))
    if by != "bm25":
        folder.mkdir(parents=True, exist_ok=True)
        with progress(collection.n_passages + len(rows), "encoding for the round trip") as bar:
            write_vectors(Encoder.open(encoder), collection, rows, folder, bar)
        runs.append(retrieve(Vectors.open(folder), rows, depth))
    hits = np.stack([qrels.is_positive(rows[:, None], run.passages).any(axis=1) for run in runs])  # (R, Q)
    return np.asarray(hits.all(axis=0) if by == "both" else hits.any(axis=0))
