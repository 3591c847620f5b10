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
        """Write the run as Parquet: columns query, passage (rows of the collection), score; best first.

        A query with an empty list is one row with passage -1.
        """
        filled = self.passages >= 0
        filled[:, 0] = True
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
        """Write a TREC run file: query-id Q0 passage-id rank score tag.

        trec_eval orders by score alone and equal scores by id. Equal scores are therefore lowered by the
        smallest step there is, so that it sees the order of this run.
        """
        with path.open("w", encoding="utf-8") as file:
            for query, passages, scores in zip(self.queries, self.passages, self.scores, strict=True):
                query_id, above = collection.query_ids[int(query)], np.float32(np.inf)
                for rank, (passage, score) in enumerate(zip(passages, scores, strict=True), start=1):
                    if passage < 0:
                        break
                    above = min(score, np.nextafter(above, np.float32(-np.inf)))
                    passage_id = collection.passage_ids[int(passage)]
                    file.write(f"{query_id} Q0 {passage_id} {rank} {above:.9g} {tag}\n")

    @classmethod
    def from_trec(cls, path: Path, collection: Collection, queries: NDArray[np.int32]) -> Run:
        """Read a TREC run file for ``queries`` (rows of the collection); lists are sorted by score.

        Raises
        ------
        StepwellError
            When a line has not six fields, a score is no number, or a passage is not in the collection.
        """
        lists: dict[int, list[tuple[float, int]]] = {int(query): [] for query in queries}
        known = {collection.query_ids[int(query)]: int(query) for query in queries}
        with path.open(encoding="utf-8", errors="replace") as file:
            for number, line in enumerate(file, start=1):
                fields = line.split()
                if len(fields) != 6:
                    raise StepwellError(
                        f"{path}:{number}: a line of a TREC run has six fields (query Q0 passage rank score tag), this "
                        f"one {len(fields)}. Write the run again."
                    )
                try:
                    score = float(fields[4])
                except ValueError:
                    raise StepwellError(
                        f"{path}:{number}: the score {fields[4]!r} is no number. Write the run again."
                    ) from None
                if fields[0] in known:
                    lists[known[fields[0]]].append((-score, collection.passage_row(fields[2])))
        depth = max([1, *(len(found) for found in lists.values())])
        passages = np.full((len(lists), depth), -1, dtype=np.int32)
        scores = np.full((len(lists), depth), -np.inf, dtype=np.float32)
        for i, found in enumerate(lists.values()):
            for j, (negative, passage) in enumerate(sorted(found)):
                passages[i, j], scores[i, j] = passage, -negative
        return cls(np.fromiter(lists, dtype=np.int32, count=len(lists)), passages, scores)
