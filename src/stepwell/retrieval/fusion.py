"""Fuse runs by their ranks alone."""

from collections.abc import Sequence

import numpy as np

from stepwell.errors import RunError
from stepwell.retrieval.run import Run


def reciprocal_rank_fusion(runs: Sequence[Run], depth: int, k: int = 60) -> Run:
    """Fuse runs over the same queries: a passage scores the sum over the runs of 1 / (k + its rank there).

    Scores of different retrievers need no common scale, since ranks alone count. Equal sums are ordered by passage row,
    so that the order of the runs does not matter. Lists are at most ``depth`` long; a larger ``k`` lets the first ranks
    stand out less. From Cormack, Clarke and Büttcher: Reciprocal Rank Fusion outperforms Condorcet and individual Rank
    Learning Methods, SIGIR 2009.

    >>> def run(*passages):
    ...     scores = np.arange(len(passages), 0, -1, dtype=np.float32)
    ...     return Run(np.array([0], np.int32), np.array([passages], np.int32), scores[None])
    >>> reciprocal_rank_fusion([run(7, 5, 9), run(5, 8)], depth=3).passages
    array([[5, 7, 8]], dtype=int32)
    """
    if not runs:
        raise ValueError("no runs to fuse")
    first = runs[0]
    for other in runs[1:]:
        if not np.array_equal(np.sort(first.queries), np.sort(other.queries)):
            lacking = len(np.setxor1d(first.queries, other.queries))
            raise RunError(
                f"Runs over different queries cannot be fused: {lacking} queries are in one and not in "
                "the other, and would be ranked by half of the evidence. Retrieve all for the same queries."
            )
    aligned = [first, *(other.select(first.queries) for other in runs[1:])]
    candidates = np.concatenate([run.passages for run in aligned], axis=1)  # (Q, sum of depths)
    gains = np.concatenate([1.0 / (k + np.arange(1, run.depth + 1)) for run in aligned])  # (sum of depths,)
    depth = min(depth, candidates.shape[1])
    passages = np.full((len(first.queries), depth), -1, dtype=np.int32)
    scores = np.full(passages.shape, -np.inf, dtype=np.float32)
    for row, listed in enumerate(candidates):
        filled = listed >= 0
        found, at = np.unique(listed[filled], return_inverse=True)  # by passage row
        sums = np.bincount(at, weights=gains[filled], minlength=len(found)).astype(np.float32)
        best = np.argsort(-sums, kind="stable")[:depth]
        passages[row, : len(best)], scores[row, : len(best)] = found[best], sums[best]
    return Run(first.queries, passages, scores)
