"""Scoring the pairs that a store has not, block by block, shared by the processes."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from stepwell import distributed
from stepwell.collection import Collection
from stepwell.models.reranker import Reranker
from stepwell.scores import ScoreStore

BLOCK = 2_048
"""Pairs a block: what an interrupted job loses at most, on each process."""

Rows = NDArray[np.int32]
Advance = Callable[[int], None]
Scorer = Callable[[Rows, Rows, Advance], NDArray[np.float32]]
"""Gives the logits (B,) of the pairs of some query rows (B,) and passage rows (B,)."""


def blocks(queries: Rows, passages: Rows) -> Iterator[tuple[Rows, Rows]]:
    """Yield pairs (B,) in blocks, in order."""
    for start in range(0, len(queries), BLOCK):
        yield queries[start : start + BLOCK], passages[start : start + BLOCK]


def block_scorer(reranker: Reranker, collection: Collection) -> Scorer:
    """Return a scorer that tokenises the texts of a block and no others: for a few pairs of a large collection."""

    def score(queries: Rows, passages: Rows, advance: Advance = lambda n: None) -> NDArray[np.float32]:
        query_rows, query_places = np.unique(queries, return_inverse=True)
        passage_rows, passage_places = np.unique(passages, return_inverse=True)
        tokens = (
            reranker.tokenise(collection.query_texts(query_rows)),
            reranker.tokenise(collection.passage_texts(passage_rows)),
        )
        return reranker.score(*tokens, query_places, passage_places, advance)

    return score


def missing(store: ScoreStore, queries: Rows, passages: Rows) -> tuple[Rows, Rows]:
    """Return the pairs without a score, each once: the same on every process, whoever adds to the store meanwhile."""
    while True:
        todo = store.missing(queries, passages)
        mark = torch.tensor([zlib.crc32(np.concatenate(todo).tobytes())], device=distributed.state().device)
        if len(set(distributed.gather_rows(mark).tolist())) == 1:
            return todo


def score_into(
    store: ScoreStore, scorer: Scorer, queries: Rows, passages: Rows, advance: Advance = lambda n: None
) -> None:
    """Score pairs and add them to the store.

    Each process scores every so-manieth block and the main one writes, so the scores are those of one process.

    Parameters
    ----------
    store
        Where the scores go; another process sees them when it opens the store again.
    scorer
        Scores a block.
    queries, passages
        Rows of the pairs, shape (B,), the same on every process.
    advance
        Told how many pairs were scored.
    """
    world = distributed.world_size()
    work = list(blocks(queries, passages))
    for start in range(0, len(work), world):
        now = work[start : start + world]
        scores, own = np.zeros(BLOCK, dtype=np.float32), 0
        if distributed.rank() < len(now):
            own = len(now[distributed.rank()][0])
            scores[:own] = scorer(*now[distributed.rank()], advance)
        everyone = distributed.gather_rows(torch.from_numpy(scores).to(distributed.state().device)).cpu().numpy()
        q, p = (np.concatenate(rows) for rows in zip(*now, strict=True))
        if distributed.is_main():
            store.add(q, p, everyone[: len(q)])
        advance(len(q) - own)
    distributed.barrier()
