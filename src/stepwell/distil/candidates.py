"""The passages that each query is trained on, and which of them a step uses."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from stepwell.collection import Collection
from stepwell.collection.row_tables import read_lists, read_rows, write_rows
from stepwell.models.tokens import Rows


@dataclass(frozen=True)
class Candidates:
    """M candidates of each of Q queries, as rows of one collection."""

    queries: NDArray[np.int32]  # (Q,), each at most once
    passages: NDArray[np.int32]  # (Q, M): positives first, best grade first; -1 fills
    grades: NDArray[np.int32]  # (Q, M): 0 is a negative (and where there is no passage)

    def __post_init__(self) -> None:
        if self.passages.shape != self.grades.shape or len(self.queries) != len(self.passages):
            raise ValueError(
                f"queries {self.queries.shape}, passages {self.passages.shape} and grades "
                f"{self.grades.shape} do not belong together"
            )

    def __len__(self) -> int:
        return len(self.queries)

    @property
    def positives(self) -> NDArray[np.bool_]:
        """Which candidates are positives, (Q, M)."""
        return self.grades > 0

    def save(self, path: Path, collection: Collection) -> None:
        """Write as Parquet: columns query, passage (rows of the collection), grade, in order."""
        filled = self.passages >= 0
        query = np.repeat(self.queries, filled.sum(axis=1))
        columns = {"query": query, "passage": self.passages[filled], "grade": self.grades[filled]}
        write_rows(path, columns, collection, width=self.passages.shape[1])

    @classmethod
    def load(cls, path: Path, collection: Collection) -> Self:
        """Read what :meth:`save` wrote; candidates over another collection are refused."""
        table = read_rows(path, collection, "candidates")
        queries, filled = read_lists(table, "width")
        passages = np.full(filled.shape, -1, dtype=np.int32)
        grades = np.zeros(filled.shape, dtype=np.int32)
        passages[filled], grades[filled] = table["passage"].to_numpy(), table["grade"].to_numpy()
        return cls(queries, passages, grades)


@dataclass(frozen=True)
class Draw:
    """Which candidates a step uses: K of the M that a query has, all where M <= K, by (seed, epoch, query) alone."""

    k: int
    seed: int

    def columns(self, candidates: Candidates, examples: Rows, epoch: int) -> Rows:
        """Return the columns (B, K) to use: positives first (at most half of K), then negatives."""
        width = candidates.passages.shape[1]
        if width <= self.k:
            return np.broadcast_to(np.arange(width), (len(examples), width))
        out = np.empty((len(examples), self.k), dtype=np.int64)
        for i, example in enumerate(examples):
            random = np.random.default_rng([self.seed, epoch, int(candidates.queries[example])])
            grades, filled = candidates.grades[example], candidates.passages[example] >= 0
            positives = random.permutation(np.flatnonzero(grades > 0))[: max(1, self.k // 2)]
            negatives = random.permutation(np.flatnonzero((grades <= 0) & filled))[: self.k - len(positives)]
            chosen = np.concatenate([positives, negatives])
            padding = np.flatnonzero(~filled)[: self.k - len(chosen)]
            rest = np.setdiff1d(np.arange(width), np.concatenate([chosen, padding]))
            out[i] = np.concatenate([chosen, padding, rest])[: self.k]
        return out
