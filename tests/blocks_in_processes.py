"""Encode and score a small collection block by block, in one process or in one of several."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np

from stepwell import distributed
from stepwell.collection import open_collection
from stepwell.models.encoder import Encoder
from stepwell.models.reranker import Reranker
from stepwell.retrieval import vectors
from stepwell.teachers import scoring
from stepwell.teachers.store import ScoreStore

PAIRS = np.divmod(np.arange(0, 40 * 60, 7, dtype=np.int32), np.int32(60))
"""Query rows and passage rows of 343 pairs."""


def work(model: str, scorer: str, place: str, cache: str, folder: Path, stop: str | None = None) -> ScoreStore:
    """Write the vectors to ``folder`` and score the pairs into ``folder/scores``; return the store.

    With ``stop`` the process sends SIGKILL to itself: before its sixth block when ``encoding``, before the next block
    when ``scoring`` and something is in the store.
    """
    vectors.BLOCK, scoring.BLOCK = 4, 16
    collection = open_collection(place, Path(cache))
    encoder = Encoder.open(model)
    encode = encoder.encode

    def encode_block(*arguments: object) -> np.ndarray:
        if stop == "encoding" and len(list(folder.glob("shards/passages-*.npy"))) == 5:
            os.kill(os.getpid(), signal.SIGKILL)
        return encode(*arguments)  # type: ignore[arg-type]

    encoder.encode = encode_block  # type: ignore[method-assign]
    folder.mkdir(exist_ok=True)
    distributed.barrier()
    vectors.write_vectors(encoder, collection, np.arange(collection.n_queries, dtype=np.int32), folder)
    reranker = Reranker.open(scorer, 56)
    score = scoring.block_scorer(reranker, collection)

    def score_block(*arguments: object) -> np.ndarray:
        if stop == "scoring" and list(folder.glob("scores/*/*/*.arrow")):
            os.kill(os.getpid(), signal.SIGKILL)
        return score(*arguments)  # type: ignore[arg-type]

    store = ScoreStore.open(folder / "scores", reranker.fingerprint, collection.texts_fingerprint)
    scoring.score_into(store, score_block, *scoring.missing(store, *PAIRS))
    return store
