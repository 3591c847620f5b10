"""Encode and score a small collection block by block; run as one process or by ``accelerate launch``.

``blocks_in_processes.py MODEL SCORER COLLECTION CACHE FOLDER [SECONDS]``: vectors go to ``FOLDER``, scores to the store
``FOLDER/scores``. A block takes ``SECONDS`` at least, so that it can be killed.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np

from stepwell import distributed, scoring
from stepwell.collection import open_collection
from stepwell.models.encoder import Encoder
from stepwell.models.reranker import Reranker
from stepwell.retrieval import vectors
from stepwell.scores import ScoreStore

PAIRS = np.divmod(np.arange(0, 40 * 60, 7, dtype=np.int32), np.int32(60))
"""Query rows and passage rows of 343 pairs."""


def work(model: str, scorer: str, place: str, cache: str, folder: Path, seconds: float = 0.0) -> ScoreStore:
    """Write the vectors and score the pairs; return the store."""
    vectors.BLOCK, scoring.BLOCK = 4, 16
    collection = open_collection(place, Path(cache))
    encoder = Encoder.open(model)
    encode = encoder.encode
    encoder.encode = lambda *arguments: time.sleep(seconds) or encode(*arguments)  # type: ignore[method-assign]
    folder.mkdir(exist_ok=True)
    distributed.barrier()
    vectors.write_vectors(encoder, collection, np.arange(collection.n_queries, dtype=np.int32), folder)
    reranker = Reranker.open(scorer, 56)
    score = scoring.block_scorer(reranker, collection)

    def slow(*arguments: object) -> np.ndarray:
        time.sleep(seconds)
        return score(*arguments)  # type: ignore[arg-type]

    store = ScoreStore.open(folder / "scores", reranker.fingerprint, collection.texts_fingerprint)
    scoring.score_into(store, slow, *scoring.missing(store, *PAIRS))
    return store


if __name__ == "__main__":
    work(*sys.argv[1:5], Path(sys.argv[5]), *map(float, sys.argv[6:]))
