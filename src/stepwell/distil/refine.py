"""Data progressive distillation (PROD, section 3.3): the queries that the teacher gets right and the student does not.

The rule looks at two ranks of a query's first positive, 1 = best: in the student's list, and after the teacher has
reranked that list.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from stepwell.collection import Qrels
from stepwell.retrieval.run import Run

MISSING = 2**30
"""The rank of a positive that is not in the list: worse than any."""

EDGES = (1, 2, 4, 8, 16, MISSING)
RANK_GROUPS = ("1", "2-3", "4-7", "8-15", "16+", "missing")
"""The groups of ranks in the funnel of a selection, the best first: where each begins, and its name."""


def first_positive_ranks(run: Run, qrels: Qrels) -> NDArray[np.int64]:
    """Return the rank (Q,) of each query's best-placed positive, :data:`MISSING` when it has none in its list."""
    right = qrels.is_positive(run.queries[:, None], run.passages) & (run.passages >= 0)  # (Q, k)
    return np.where(right.any(axis=1), right.argmax(axis=1) + 1, MISSING).astype(np.int64)


def selected(teacher: NDArray[np.int64], student: NDArray[np.int64], rule: str, worst: int) -> NDArray[np.bool_]:
    """Return which queries a rule selects.

    Parameters
    ----------
    teacher, student
        Ranks of the first positive, shape (Q,).
    rule
        ``top``: teacher rank 1 and student rank 2 to ``worst`` (the paper's MS MARCO rule); ``better``: teacher
        rank smaller than the student's and at most ``worst`` (its NQ rule).

    Examples
    --------
    >>> teacher, student = np.array([1, 1, 3, 1]), np.array([1, 15, 4, 16])
    >>> selected(teacher, student, "top", 15).tolist(), selected(teacher, student, "better", 15).tolist()
    ([False, True, False, False], [False, True, True, True])
    """
    if rule == "top":
        chosen: NDArray[np.bool_] = (teacher == 1) & (student >= 2) & (student <= worst)
    else:
        chosen = (teacher < student) & (teacher <= worst)
    return chosen


def can_be_selected(student: NDArray[np.int64], rule: str, worst: int, depth: int) -> NDArray[np.bool_]:
    """Return the queries whose selection still depends on the teacher; only these are paid for."""
    bound = min(worst, depth) if rule == "top" else depth
    return (student >= 2) & (student <= bound)


def funnel(student: NDArray[np.int64], teacher: NDArray[np.int64]) -> list[dict[str, Any]]:
    """Count the queries at each pair of rank groups; teacher ``-`` where it was not asked."""
    groups = [_group(ranks) for ranks in (student, teacher)]
    pairs, counts = np.unique(np.array(groups), axis=1, return_counts=True)
    return [
        {"student": str(s), "teacher": str(t), "queries": int(n)} for (s, t), n in zip(pairs.T, counts, strict=True)
    ]


def _group(ranks: NDArray[np.int64]) -> list[str]:
    return ["-" if rank < 0 else RANK_GROUPS[int(np.searchsorted(EDGES, rank, side="right")) - 1] for rank in ranks]
