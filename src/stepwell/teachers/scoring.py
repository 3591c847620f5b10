"""Scoring the pairs that a store has not, block by block, shared by the processes; teachers that score this way."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from stepwell import distributed
from stepwell.collection import Collection
from stepwell.display import SILENT, Progress
from stepwell.errors import StepwellError
from stepwell.models.late_interaction import LateInteraction
from stepwell.models.reranker import Reranker
from stepwell.teachers.counts import count
from stepwell.teachers.store import ScoreStore

BLOCK = 2_048
"""Pairs a block: what an interrupted job loses at most, on each process."""

Rows = NDArray[np.int32]
Scorer = Callable[[Rows, Rows, Progress], NDArray[np.float32]]
"""Gives the logits (B,) of the pairs of some query rows (B,) and passage rows (B,)."""


def blocks(queries: Rows, passages: Rows, size: int | None = None) -> Iterator[tuple[Rows, Rows]]:
    """Yield pairs (B,) in blocks, in order."""
    size = size or BLOCK
    for start in range(0, len(queries), size):
        yield queries[start : start + size], passages[start : start + size]


def block_scorer(model: Reranker | LateInteraction, collection: Collection) -> Scorer:
    """Return a scorer that tokenises the texts of a block and no others: for a few pairs of a large collection."""

    def score(queries: Rows, passages: Rows, progress: Progress = SILENT) -> NDArray[np.float32]:
        query_rows, query_places = np.unique(queries, return_inverse=True)
        passage_rows, passage_places = np.unique(passages, return_inverse=True)
        texts = collection.query_texts(query_rows), collection.passage_texts(passage_rows)
        if isinstance(model, Reranker):
            tokens = model.tokenise(texts[0]), model.tokenise(texts[1])
        else:
            tokens = model.tokenise(texts[0], "query"), model.tokenise(texts[1], "document")
        return model.score(*tokens, query_places, passage_places, progress)

    return score


def missing(store: ScoreStore, queries: Rows, passages: Rows) -> tuple[Rows, Rows]:
    """Return the pairs without a score, each once: the same on every process, whoever adds to the store meanwhile.

    How many were asked for and how many are missing is counted (:mod:`stepwell.teachers.counts`).
    """
    while True:
        todo = store.missing(queries, passages)
        mark = torch.tensor([zlib.crc32(np.concatenate(todo).tobytes())], device=distributed.state().device)
        if len(set(distributed.gather_rows(mark).tolist())) == 1:
            count(len(queries), len(todo[0]))
            return todo


def score_into(
    store: ScoreStore,
    scorer: Scorer,
    queries: Rows,
    passages: Rows,
    progress: Progress = SILENT,
    block: int | None = None,
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
    progress
        Advanced by the pairs that are scored.
    block
        Pairs that are scored before they are kept; :data:`BLOCK` when None.
    """
    block = block or BLOCK
    world = distributed.world_size()
    work = list(blocks(queries, passages, block))
    for start in range(0, len(work), world):
        now = work[start : start + world]
        scores, own = np.zeros(block, dtype=np.float32), 0
        if distributed.rank() < len(now):
            own = len(now[distributed.rank()][0])
            scores[:own] = scorer(*now[distributed.rank()], progress)
        everyone = distributed.gather_rows(torch.from_numpy(scores).to(distributed.state().device)).cpu().numpy()
        q, p = (np.concatenate(rows) for rows in zip(*now, strict=True))
        if distributed.is_main():
            store.add(q, p, everyone[: len(q)])
        progress.advance(len(q) - own)
    distributed.barrier()


class Stored:
    """A teacher whose score of a pair is paid for once, ever: what its store has not is scored and kept.

    Parameters
    ----------
    root
        Folder of all score stores.
    fingerprint
        The teacher's.
    collection
        The fingerprint of the texts.
    scorer
        Called for the scorer of a block when there is something to score.
    block
        Pairs that are scored before they are kept, what an interrupted job pays for again at most; :data:`BLOCK` when
        None.
    """

    def __init__(
        self, root: Path, fingerprint: str, collection: str, scorer: Callable[[], Scorer], block: int | None = None
    ) -> None:
        self.root, self.fingerprint, self.collection = root, fingerprint, collection
        self.scorer, self.block = scorer, block

    def store(self) -> ScoreStore:
        """Open the store."""
        return ScoreStore.open(self.root, self.fingerprint, self.collection)

    def score(self, queries: Rows, candidates: Rows, progress: Progress = SILENT) -> NDArray[np.float32]:
        """Return the logits of candidates (Q, K); see :meth:`stepwell.teachers.protocol.Teacher.score`."""
        store = self.store()
        filled = candidates >= 0
        query_rows = np.broadcast_to(queries[:, None], candidates.shape)
        todo = missing(store, query_rows[filled], candidates[filled])
        if len(todo[0]):
            score_into(store, self.scorer(), *todo, progress.start(len(todo[0]), "pairs"), self.block)
            store = self.store()
        out = np.zeros(candidates.shape, dtype=np.float32)
        out[filled] = store.lookup(query_rows[filled], candidates[filled])
        if np.isnan(out).any():
            raise StepwellError(
                "scores that were just written are not in the store; another program may have removed them."
            )
        return out


def stored_reranker(root: Path, place: str, tokens: int, collection: Collection) -> Stored:
    """Open a cross-encoder (a directory or hub name) that reads pairs of at most ``tokens`` and keeps its scores."""
    reranker = Reranker.open(place, tokens)
    return Stored(root, reranker.fingerprint, collection.texts_fingerprint, lambda: block_scorer(reranker, collection))
