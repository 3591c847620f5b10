"""A run: for each query, a ranked list of passages with scores."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from stepwell.collection import Collection
from stepwell.errors import StepwellError


@dataclass(frozen=True)
class Run:
    """Ranked lists of all queries, as rows of one collection, best first.

    Parameters
    ----------
    queries
        Query rows, shape (Q,), int32, each at most once.
    passages
        Passage rows, shape (Q, k), int32; -1 fills lists that are shorter than k.
    scores
        Scores, shape (Q, k), float32, falling along each row; -inf where ``passages`` is -1.
    """

    queries: NDArray[np.int32]
    passages: NDArray[np.int32]
    scores: NDArray[np.float32]

    def __post_init__(self) -> None:
        if self.passages.shape != self.scores.shape or len(self.queries) != len(self.passages):
            raise ValueError(
                f"queries {self.queries.shape}, passages {self.passages.shape} and scores "
                f"{self.scores.shape} do not belong together"
            )

    @property
    def depth(self) -> int:
        """Length k of the longest list."""
        return int(self.passages.shape[1])

    def top(self, k: int) -> Run:
        """Return the same run cut to its first ``k`` passages."""
        return Run(self.queries, self.passages[:, :k], self.scores[:, :k])

    def select(self, queries: NDArray[np.int32]) -> Run:
        """Return the lists of ``queries`` (rows of the collection), in that order; a missing query raises KeyError."""
        at = {int(query): i for i, query in enumerate(self.queries)}
        rows = np.fromiter((at[int(query)] for query in queries), dtype=np.int64, count=len(queries))
        return Run(self.queries[rows], self.passages[rows], self.scores[rows])

    def save(self, path: Path, collection: Collection) -> None:
        """Write the run as Parquet: columns query, passage (rows of the collection), score; best first."""
        filled = self.passages >= 0
        table = pa.table(
            {
                "query": np.repeat(self.queries, filled.sum(axis=1)),
                "passage": self.passages[filled],
                "score": self.scores[filled],
            }
        )
        metadata = {"stepwell.collection": collection.fingerprint, "stepwell.depth": str(self.depth)}
        pq.write_table(table.replace_schema_metadata(metadata), path, compression="zstd")

    @classmethod
    def load(cls, path: Path, collection: Collection) -> Run:
        """Read what :meth:`save` wrote.

        Raises
        ------
        StepwellError
            When the run belongs to another collection.
        """
        table = pq.read_table(path)
        metadata = table.schema.metadata or {}
        if metadata.get(b"stepwell.collection", b"").decode() != collection.fingerprint:
            raise StepwellError(
                f"{path} is a run over another collection than {collection.name}: its row numbers would name "
                "other texts. Retrieve again from this collection."
            )
        query = table["query"].to_numpy()
        starts = np.flatnonzero(np.r_[True, query[1:] != query[:-1]]) if len(query) else np.zeros(0, np.int64)
        lengths = np.diff(np.r_[starts, len(query)])
        depth = int(metadata[b"stepwell.depth"])
        passages = np.full((len(starts), depth), -1, dtype=np.int32)
        scores = np.full((len(starts), depth), -np.inf, dtype=np.float32)
        filled = np.arange(depth) < lengths[:, None]
        passages[filled] = table["passage"].to_numpy()
        scores[filled] = table["score"].to_numpy()
        return cls(query[starts].astype(np.int32), passages, scores)

    def to_trec(self, path: Path, collection: Collection, tag: str = "stepwell") -> None:
        """Write a TREC run file: query-id Q0 passage-id rank score tag."""
        with path.open("w", encoding="utf-8") as file:
            for query, passages, scores in zip(self.queries, self.passages, self.scores, strict=True):
                query_id = collection.query_ids[int(query)]
                for rank, (passage, score) in enumerate(zip(passages, scores, strict=True), start=1):
                    if passage < 0:
                        break
                    passage_id = collection.passage_ids[int(passage)]
                    file.write(f"{query_id} Q0 {passage_id} {rank} {score:.6f} {tag}\n")
