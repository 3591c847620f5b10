"""What the ladder asks of a teacher, of whichever kind: scores of a query's candidates."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from stepwell.display import SILENT, Progress
from stepwell.errors import RecipeError

Rows = NDArray[np.int32]
Scores = NDArray[np.float32]


class Teacher(Protocol):
    """Scores the candidates of queries; both are row numbers of one collection."""

    def score(self, queries: Rows, candidates: Rows, progress: Progress = SILENT) -> Scores:
        """Return the logits of each query's candidates.

        Parameters
        ----------
        queries
            Shape (Q,).
        candidates
            Passages, shape (Q, K); -1 fills.
        progress
            Started with what there is to score, and advanced by it.

        Returns
        -------
        NDArray
            Shape (Q, K): 0 where there is no candidate, NaN where the teacher has no score of it.
        """


@dataclass(frozen=True)
class Several:
    """Several teachers at once, whose score is their mean; a pair that one of them has no score of has none."""

    teachers: Sequence[Teacher]
    standardise: bool  # bring each teacher's scores of a query's list to mean 0 and standard deviation 1 first

    def each(self, queries: Rows, candidates: Rows, progress: Progress = SILENT) -> Scores:
        """Return every teacher's own scores, shape (T, Q, K)."""
        progress.start(len(self.teachers), "teachers")
        tables = []
        for teacher in self.teachers:
            tables.append(teacher.score(queries, candidates, progress.part(1)))
            progress.advance()
        return np.stack(tables)

    def score(self, queries: Rows, candidates: Rows, progress: Progress = SILENT) -> Scores:
        """Return the mean, shape (Q, K); see :meth:`Teacher.score`."""
        tables = self.each(queries, candidates, progress)
        if self.standardise:
            there = (candidates >= 0) & ~np.isnan(tables).any(axis=0)
            tables = np.stack([np.where(there, standardised(table, there), table) for table in tables])
        mean: Scores = tables.mean(axis=0, dtype=np.float32)
        return mean


def standardised(scores: Scores, there: NDArray[np.bool_]) -> Scores:
    """Return the scores of each query (Q, K) with mean 0 and standard deviation 1 over what is there; 0 elsewhere.

    >>> standardised(np.float32([[1, 3, 0]]), np.array([[True, True, False]]))  # the last is no candidate
    array([[-1.,  1.,  0.]], dtype=float32)
    """
    count = np.maximum(there.sum(axis=1, keepdims=True), 1)
    kept = np.where(there, scores, 0)
    gap = np.where(there, kept - kept.sum(axis=1, keepdims=True) / count, 0)
    deviation = np.sqrt(np.square(gap).sum(axis=1, keepdims=True) / count)
    result: Scores = (gap / np.maximum(deviation, 1e-6)).astype(np.float32)
    return result


@dataclass(frozen=True)
class LogOdds:
    """A teacher that gives probabilities, as one that gives their logits."""

    teacher: Teacher
    name: str  # what the user calls it

    def score(self, queries: Rows, candidates: Rows, progress: Progress = SILENT) -> Scores:
        """Return log(p / (1 - p)) of the teacher's scores p (Q, K); one that is not between 0 and 1 is refused."""
        scores = self.teacher.score(queries, candidates, progress)
        there = candidates >= 0
        if ((scores < 0) | (scores > 1)).any():
            low, high = np.nanmin(scores[there]), np.nanmax(scores[there])
            raise RecipeError(
                f"the teacher {self.name!r} has `logit: true`, and its scores lie in {low:.3g} to {high:.3g}: they are "
                "no probabilities. Take `logit` out."
            )
        return np.where(there, log_odds(scores), 0).astype(np.float32)


def log_odds(probabilities: Scores) -> Scores:
    """Return log(p / (1 - p)), within the +-15 that single precision can tell.

    >>> log_odds(np.float32([0.5, 0.0])).round(2).tolist()
    [0.0, -15.0]
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        p = probabilities.astype(np.float64)
        return np.clip(np.log(p / (1 - p)), -15, 15).astype(np.float32)
