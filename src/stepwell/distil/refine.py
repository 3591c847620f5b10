"""Data progressive distillation: only the queries that the teacher gets right and the student still gets wrong.

Source: PROD, section 3.3. The rule looks at two ranks of a query's first positive, 1 = best: in the
student's list, and after the teacher has reranked that list. Where queries have answers, the first passage that holds
one takes the place of the first positive (the paper's code on Natural Questions).
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from stepwell.collection import Qrels
from stepwell.display import SILENT, Progress
from stepwell.evaluation.answers import holding
from stepwell.retrieval.run import Run

Ranks = NDArray[np.int64]

MISSING = 2**30
"""The rank of a positive that is not in the list: worse than any."""

HEAD = 8
"""Passages of each list that are searched for answers first; then four times as many of those without, and so on."""

EDGES = (1, 2, 4, 8, 16, MISSING)
RANK_GROUPS = ("1", "2-3", "4-7", "8-15", "16+", "missing")
"""The rank groups of the funnel, the best first: where each begins, and its name."""


def first_positive_ranks(run: Run, qrels: Qrels) -> Ranks:
    """Return the rank of each query's best-placed positive (Q,), :data:`MISSING` when it has none in its list."""
    right = qrels.is_positive(run.queries[:, None], run.passages) & (run.passages >= 0)  # (Q, K)
    return np.where(right.any(axis=1), right.argmax(axis=1) + 1, MISSING).astype(np.int64)


def first_answer_ranks(run: Run, qrels: Qrels, progress: Progress = SILENT) -> Ranks:
    """Return the rank of each query's first passage that holds an answer (Q,), :data:`MISSING` when none does.

    A query without answers has that of its best-placed positive. Lists are read from the top, as far as is needed.
    """
    ranks, known = first_positive_ranks(run, qrels), qrels.answers
    assert known is not None
    answered = np.array([bool(known.answers(query)) for query in run.queries.tolist()], dtype=np.bool_)
    ranks[answered] = MISSING
    progress.start(run.depth)
    begin, width = 0, HEAD
    while begin < run.depth:
        open_ = np.flatnonzero(answered & (ranks == MISSING))
        part = run.passages[open_, begin : begin + width]
        row, column = np.nonzero(part >= 0)
        right = holding(known, run.queries[open_[row]], part[row, column], progress.part(part.shape[1]))
        np.minimum.at(ranks, open_[row[right]], begin + column[right] + 1)
        progress.advance(part.shape[1])
        begin, width = begin + width, 4 * width
    return ranks


def selected(teacher: Ranks, student: Ranks, rule: str, worst: int) -> NDArray[np.bool_]:
    """Return which queries a rule selects (Q,), from the ranks (Q,) of their first positive or answer.

    ``top``: teacher rank 1 and student rank 2 to ``worst`` (the paper's MS MARCO rule); ``better``: teacher rank
    smaller than the student's and at most ``worst`` (its NQ rule).

    Examples
    --------
    >>> teacher, student = np.array([1, 1, 3, 1]), np.array([1, 15, 4, 16])
    >>> selected(teacher, student, "top", 15).tolist(), selected(teacher, student, "better", 15).tolist()
    ([False, True, False, False], [False, True, True, True])
    """
    top: NDArray[np.bool_] = (teacher == 1) & (student >= 2) & (student <= worst)
    return top if rule == "top" else (teacher < student) & (teacher <= worst)


def can_be_selected(student: Ranks, rule: str, worst: int, depth: int) -> NDArray[np.bool_]:
    """Return the queries (Q,) whose selection still depends on the teacher; only these are paid for."""
    bound = min(worst, depth) if rule == "top" else depth
    return (student >= 2) & (student <= bound)


def funnel(student: Ranks, teacher: Ranks) -> list[dict[str, Any]]:
    """Count the queries at each pair of rank groups; teacher ``-`` where its rank is negative: it was not asked."""
    groups = np.array(["-", *RANK_GROUPS])[np.searchsorted(EDGES, [student, teacher], side="right")]
    pairs, counts = np.unique(groups, axis=1, return_counts=True)
    return [
        {"student": str(s), "teacher": str(t), "queries": int(n)} for (s, t), n in zip(pairs.T, counts, strict=True)
    ]
