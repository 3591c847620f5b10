"""Relevance judgements as parallel arrays of row numbers, and answers for queries that have those instead."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from hashlib import sha256

import numpy as np
from numpy.typing import ArrayLike, NDArray


def pair_keys(queries: ArrayLike, passages: ArrayLike) -> NDArray[np.int64]:
    """Join query and passage rows into one sortable number each: ``query << 32 | passage``."""
    return (np.asarray(queries, dtype=np.int64) << 32) | np.asarray(passages, dtype=np.int64)


@dataclass(frozen=True)
class Answers:
    """Answers to queries, and the passages that they are looked for in, read on demand."""

    answers: Callable[[int], list[str]]  # those of a query (a row); any of them will do
    bodies: Callable[[Sequence[int] | NDArray[np.integer]], list[str]]  # passages at rows, without their titles


@dataclass(frozen=True)
class Given:
    """Negatives that came with a collection, in their order: parallel arrays of query rows and passage rows."""

    queries: NDArray[np.int32]
    passages: NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class Qrels:
    """Which passage answers which query, and how well: E judgements, sorted by (query, passage).

    >>> qrels = Qrels([7, 3, 7], [1, 5, 2], [1, 1, 3])
    >>> qrels.query_rows.tolist(), qrels.positives(7).tolist()
    ([3, 7], [2, 1])
    >>> qrels.is_positive([3, 7], [5, 5]).tolist()
    [True, False]
    """

    queries: NDArray[np.int32]  # (E,)
    passages: NDArray[np.int32]  # (E,)
    grades: NDArray[np.int32]  # (E,); 0 is judged and not relevant
    # Query rows that count though no passage is judged relevant to them: their answers decide what is, or they count 0.
    asked: NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))
    # From which grade binary measures count a passage as relevant; above 1 where grades say so (TREC DL).
    # Training and mining take every grade above 0 for relevant.
    relevant_from: int = 1
    answers: Answers | None = None  # evaluation goes by them, see :mod:`stepwell.evaluation.answers`

    def __post_init__(self) -> None:
        arrays = [np.asarray(array, dtype=np.int32) for array in (self.queries, self.passages, self.grades)]
        if len({array.shape for array in arrays}) != 1 or arrays[0].ndim != 1:
            raise ValueError(f"queries, passages and grades differ in shape: {[a.shape for a in arrays]}")
        keys = pair_keys(arrays[0], arrays[1])
        order = np.argsort(keys, kind="stable")
        if (keys[order][1:] == keys[order][:-1]).any():
            raise ValueError("a (query, passage) pair is judged twice")
        for name, array in zip(("queries", "passages", "grades"), arrays, strict=True):
            ordered = array[order]
            ordered.flags.writeable = False
            object.__setattr__(self, name, ordered)
        object.__setattr__(self, "asked", np.asarray(self.asked, dtype=np.int32))

    def __len__(self) -> int:
        return len(self.queries)

    @property
    def fingerprint(self) -> str:
        """The sha256 of all that is judged, and of how it counts; over the rows of one collection."""
        arrays = self.queries, self.passages, self.grades, self.asked
        told = [len(self.asked), self.relevant_from, self.answers is not None]
        return sha256(b"".join([repr(told).encode(), *(array.tobytes() for array in arrays)])).hexdigest()

    @cached_property
    def query_rows(self) -> NDArray[np.int32]:
        """Queries with a grade above 0, and those asked: shape (Q,), int32, rising."""
        return np.union1d(self.queries[self.grades > 0], self.asked)

    @cached_property
    def answered(self) -> bool:
        """Whether any of these queries has an answer."""
        return self.answers is not None and any(map(self.answers.answers, self.query_rows.tolist()))

    @cached_property
    def _positive_keys(self) -> NDArray[np.int64]:
        positive = self.grades > 0
        return pair_keys(self.queries[positive], self.passages[positive])

    def positives(self, query: int) -> NDArray[np.int32]:
        """Return the passages with a grade above 0, best grade first, then in row order."""
        span = slice(*np.searchsorted(self.queries, [query, query + 1]).tolist())
        passages, grades = self.passages[span], self.grades[span]
        order = np.argsort(-grades, kind="stable")
        return passages[order[grades[order] > 0]]

    def is_positive(self, queries: ArrayLike, passages: ArrayLike) -> NDArray[np.bool_]:
        """Say for each pair whether its grade is above 0; the two broadcast, e.g. (B, 1) with (N,).

        A passage of -1 (padding) is never positive.
        """
        queries, passages = np.broadcast_arrays(queries, passages)
        keys, wanted = self._positive_keys, pair_keys(queries, passages)
        if not len(keys):
            return np.zeros(wanted.shape, dtype=np.bool_)
        at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        return np.asarray((keys[at] == wanted) & (passages >= 0) & (queries >= 0), dtype=np.bool_)

    def complete(self) -> "Qrels":
        """Return the same where every judged query counts, also one without a relevant passage, as in trec_eval -c.

        >>> qrels = Qrels([3, 7], [5, 1], [0, 1])
        >>> qrels.query_rows.tolist(), qrels.complete().query_rows.tolist()
        ([7], [3, 7])
        """
        return replace(self, asked=np.union1d(self.queries, self.asked))

    def restrict(self, query_rows: ArrayLike) -> "Qrels":
        """Return the judgements of ``query_rows`` only."""
        rows = np.asarray(query_rows)
        kept, asked = np.isin(self.queries, rows), self.asked[np.isin(self.asked, rows)]
        queries, passages, grades = self.queries[kept], self.passages[kept], self.grades[kept]
        return replace(self, queries=queries, passages=passages, grades=grades, asked=asked)
