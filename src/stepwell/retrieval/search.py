"""Exact search by inner product, in blocks: memory stays bounded whatever the corpus."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from stepwell import distributed
from stepwell.retrieval.run import Run
from stepwell.retrieval.vectors import Vectors

QUERY_BLOCK, PASSAGE_BLOCK = 1_024, 65_536


def top_k(
    queries: NDArray[np.float32],
    passages: NDArray[np.float32],
    k: int,
    advance: Callable[[int], None] = lambda n: None,
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Return the ``k`` passages with the largest inner product of each query, best first.

    Parameters
    ----------
    queries
        Shape (Q, D).
    passages
        Shape (N, D), may be memory-mapped.
    k
        How many; all N where there are fewer.

    Returns
    -------
    tuple
        Passage rows (Q, k), int32, and scores (Q, k), float32.
    """
    k = min(k, len(passages))
    device = distributed.state().device
    rows = np.empty((len(queries), k), dtype=np.int32)
    scores = np.empty((len(queries), k), dtype=np.float32)
    for start in range(0, len(queries), QUERY_BLOCK):
        block = torch.from_numpy(np.ascontiguousarray(queries[start : start + QUERY_BLOCK])).to(device)
        best = torch.full((len(block), 0), -torch.inf, device=device)
        where = torch.zeros((len(block), 0), dtype=torch.int64, device=device)
        for offset in range(0, len(passages), PASSAGE_BLOCK):
            part = torch.from_numpy(np.array(passages[offset : offset + PASSAGE_BLOCK])).to(device)
            found, at = torch.topk(block @ part.T, min(k, len(part)), dim=1)
            best, where = torch.cat([best, found], 1), torch.cat([where, at + offset], 1)
            best, order = torch.topk(best, min(k, best.shape[1]), dim=1)
            where = where.gather(1, order)
        rows[start : start + len(block)] = where.cpu().numpy()
        scores[start : start + len(block)] = best.cpu().numpy()
        advance(len(block))
    return rows, scores


def retrieve(
    vectors: Vectors,
    query_rows: NDArray[np.int32],
    depth: int,
    passages: Vectors | None = None,
    advance: Callable[[int], None] = lambda n: None,
) -> Run:
    """Retrieve ``depth`` passages for each of the queries; scores are similarities times the scale.

    With ``passages`` from another model (the embedding rung makes the spaces agree) this is the asymmetric
    retriever: queries by the student, passages by the teacher.
    """
    side = passages or vectors
    rows, scores = top_k(vectors.of_queries(query_rows), side.passages, depth, advance)
    return Run(query_rows.astype(np.int32), rows, scores * np.float32(vectors.scale))
