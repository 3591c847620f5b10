"""A run: for each query, a ranked list of passages with scores; and the fusion of several."""

import io
import math
import zlib
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from stepwell.collection import Collection
from stepwell.collection.readers.lines import open_bytes
from stepwell.collection.readers.trec import own_id, run_id
from stepwell.collection.row_tables import read_lists, read_rows, write_rows
from stepwell.errors import CollectionError, RunError, StepwellError

Floats = NDArray[np.float32]
Found = tuple[NDArray[np.int32], Floats]
"""Passage rows and scores of queries, both (Q, k), best first; -1 and -inf pad."""
Integers = NDArray[np.integer]


@dataclass(frozen=True)
class Run:
    """Ranked lists of all queries, as rows of one collection, best first."""

    queries: NDArray[np.int32]  # query rows (Q,), each at most once
    passages: NDArray[np.int32]  # passage rows (Q, k); -1 fills lists that are shorter than k
    scores: Floats  # (Q, k), falling along each row; -inf where ``passages`` is -1

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

    def top(self, k: int) -> "Run":
        """Return the same run cut to its first ``k`` passages."""
        return Run(self.queries, self.passages[:, :k], self.scores[:, :k])

    def select(self, queries: NDArray[np.int32]) -> "Run":
        """Return the lists of ``queries`` (rows of the collection), in that order; a missing query raises KeyError."""
        at = {query: row for row, query in enumerate(self.queries.tolist())}
        rows = np.array([at[query] for query in queries.tolist()], dtype=np.int64)
        return Run(self.queries[rows], self.passages[rows], self.scores[rows])

    def save(self, path: Path, collection: Collection) -> None:
        """Write the run as Parquet: columns query, passage (rows of the collection), score; best first."""
        filled = self.passages >= 0
        filled[:, 0] = True  # an empty list is one row with passage -1
        query = np.repeat(self.queries, filled.sum(axis=1))
        columns = {"query": query, "passage": self.passages[filled], "score": self.scores[filled]}
        write_rows(path, columns, collection, depth=self.depth)

    @classmethod
    def load(cls, path: Path, collection: Collection) -> Self:
        """Read what :meth:`save` wrote; a run over another collection is refused."""
        table = read_rows(path, collection, "a run")
        queries, filled = read_lists(table, "depth")
        passages = np.full(filled.shape, -1, dtype=np.int32)
        scores = np.full(filled.shape, -np.inf, dtype=np.float32)
        passages[filled], scores[filled] = table["passage"].to_numpy(), table["score"].to_numpy()
        return cls(queries, passages, scores)

    def to_trec(self, path: Path, collection: Collection, tag: str = "stepwell") -> None:
        """Write a TREC run file: query-id Q0 passage-id rank score tag; ids with white space are percent-encoded.

        trec_eval orders by score alone and equal scores by id. Equal scores are therefore lowered by the
        smallest step there is, so that it sees the order of this run.
        """
        with path.open("w", encoding="utf-8") as file:
            for query, passages, scores in zip(self.queries, self.passages, self.scores, strict=True):
                query_id, above = run_id(collection.query_ids[int(query)], collection.find_query), np.float32(np.inf)
                for rank, (passage, score) in enumerate(zip(passages, scores, strict=True), start=1):
                    if passage < 0:
                        break
                    above = min(score, np.nextafter(above, np.float32(-np.inf)))
                    passage_id = run_id(collection.passage_ids[int(passage)], collection.find_passage)
                    file.write(f"{query_id} Q0 {passage_id} {rank} {above:.9g} {tag}\n")

    @classmethod
    def from_trec(cls, path: Path, collection: Collection, queries: NDArray[np.int32]) -> Self:
        """Read a run file for ``queries`` (rows of the collection), also ``.gz``; lists are sorted by score.

        A line is one of three kinds: TREC's (query Q0 passage rank score tag), MS MARCO's (query, passage, rank),
        or a candidate of MS MARCO's ``top1000`` (query, passage and their two texts, with tabs between; these have
        no score and keep their order). An id counts as it stands where the collection has it, else percent-decoded.
        A line that is none of these is refused by its number, as is a passage that a list names twice.
        """
        known = {collection.query_ids[int(query)]: at for at, query in enumerate(queries)}
        owners, passages, scores = array("i"), array("i"), array("d")
        number = 0
        try:
            with io.TextIOWrapper(open_bytes(path), encoding="utf-8-sig", errors="replace") as file:
                for number, line in enumerate(file, start=1):
                    if not line.strip():
                        continue
                    query, passage, score = _entry(line, number)
                    query = query if query in known else own_id(query, collection.find_query)
                    if query in known:
                        passages.append(collection.passage_row(own_id(passage, collection.find_passage)))
                        owners.append(known[query])
                        scores.append(score)
        except (ValueError, StepwellError) as error:
            raise RunError(f"{path}:{number}: {error}") from None
        except (EOFError, zlib.error) as error:
            raise RunError(f"{path} is cut off or damaged after line {number} ({error}): copy it again.") from None
        run = cls._of_entries(np.asarray(queries, dtype=np.int32), *map(np.array, (owners, passages, scores)))
        ordered = np.sort(run.passages, axis=1)
        twins = np.argwhere((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0))
        if len(twins):  # they would take two ranks
            row, column = twins[0].tolist()
            raise RunError(
                f"{path} names the passage {collection.passage_ids[int(ordered[row, column])]!r} twice for the query "
                f"{collection.query_ids[int(run.queries[row])]!r}, and a list holds each once: leave one of the lines "
                "out."
            )
        return run

    @classmethod
    def given(cls, collection: Collection, split: str) -> Self:
        """Return the negatives that came with a split, in their order, with scores that fall by one a rank."""
        found = collection.given(split)
        if found is None:
            raise CollectionError(
                f"No negatives came with the split {split!r} of {collection.name}: only files of DPR and tuples have "
                "some. Mine them, with `bm25` or an encoder."
            )
        queries, owners = np.unique(found.queries, return_inverse=True)
        run = cls._of_entries(queries, owners, found.passages, -np.arange(len(owners), dtype=np.float64))
        ranks = np.arange(run.depth, 0, -1, dtype=np.float32)
        return cls(run.queries, run.passages, np.where(run.passages >= 0, ranks, -np.inf).astype(np.float32))

    @classmethod
    def _of_entries(
        cls, queries: NDArray[np.int32], owners: Integers, passages: Integers, scores: NDArray[np.float64]
    ) -> Self:
        """Return the run of entries in any order, (E,) each: which query it belongs to, passage, score."""
        order = np.lexsort((passages, -scores, owners))
        owners = owners[order].astype(np.int64)
        counts = np.bincount(owners, minlength=len(queries))
        ranks = np.arange(len(owners)) - np.repeat(np.cumsum(counts) - counts, counts)
        shape = len(queries), max(1, int(counts.max(initial=0)))
        ranked, scored = np.full(shape, -1, dtype=np.int32), np.full(shape, -np.inf, dtype=np.float32)
        ranked[owners, ranks], scored[owners, ranks] = passages[order], scores[order]
        return cls(queries, ranked, scored)


def _entry(line: str, number: int) -> tuple[str, str, float]:
    """Return query, passage and score of a line; ValueError says what is wrong with it."""
    columns = line.rstrip("\r\n").split("\t")
    if len(columns) == 4:
        return columns[0], columns[1], -float(number)
    fields = line.split()
    if len(fields) not in (3, 6):
        raise ValueError(
            "a line of a TREC run has six fields (query Q0 passage rank score tag), one of MS MARCO three (query "
            f"passage rank), this one {len(fields)}. Write the run again."
        )
    where, name = (4, "score") if len(fields) == 6 else (2, "rank")
    try:
        value = float(fields[where])
    except ValueError:
        raise ValueError(f"the {name} {fields[where]!r} is no number. Write the run again.") from None
    if math.isnan(value):
        raise ValueError(f"the {name} is nan, which has no rank. Write the run again.")
    return (fields[0], fields[2], value) if len(fields) == 6 else (fields[0], fields[1], -value)


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
