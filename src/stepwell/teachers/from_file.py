"""Teachers that only left files: scores as Parquet, TSV or a TREC run, read once into a score store."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from stepwell.collection import Collection
from stepwell.collection.readers.lines import read_lines
from stepwell.collection.readers.trec import own_id
from stepwell.collection.source import Problem
from stepwell.display import SILENT, Progress
from stepwell.errors import RunError
from stepwell.files import sha256
from stepwell.teachers.protocol import Rows, Scores
from stepwell.teachers.store import ScoreStore

BLOCK = 1 << 18  # lines that are read at a time
NAMES = (  # what the three columns may be called
    ("query-id", "query_id", "qid", "query"),
    ("corpus-id", "corpus_id", "passage-id", "passage_id", "docid", "doc_id", "pid", "passage"),
    ("score", "relevance_score", "logit"),
)
Block = tuple[Sequence[str], Sequence[str], NDArray[np.float64], Sequence[int]]
"""Query ids, passage ids, scores, and the lines or rows of the file that they are in, counted from 1."""


def content_fingerprint(path: Path) -> str:
    """Return the sha256 of a file of scores."""
    try:
        return sha256(path)
    except OSError as error:
        raise RunError(
            f"the file of scores {path} can't be read ({error.strerror or error}): give the right path in `file` of "
            "the teacher; a relative one counts from the recipe."
        ) from error


def import_scores(path: Path, store: ScoreStore, collection: Collection) -> tuple[Scores, dict[str, int]]:
    """Add the scores of a file to a store; of a pair that occurs twice the first counts.

    Returns the lowest score of each query of the collection (NaN for one without), and counts: ``pairs`` read, and
    ``unknown``: pairs of a query or passage that the collection has not, which are passed over.
    """
    floors = np.full(collection.n_queries, np.inf, dtype=np.float32)
    pairs = unknown = 0
    table = path.name.endswith(".parquet")
    for queries, passages, scores, numbers in _parquet(path) if table else _blocks(path):
        wrong = np.flatnonzero(~np.isfinite(scores))
        if len(wrong):
            where = f"{path}{', row ' if table else ':'}{numbers[wrong[0]]}"
            raise RunError(f"{where}: the score is {scores[wrong[0]]}, and a teacher's score is a finite number.")
        query_rows, passage_rows = _rows(queries, collection.find_query), _rows(passages, collection.find_passage)
        both = (query_rows >= 0) & (passage_rows >= 0)
        store.add(query_rows[both], passage_rows[both], scores[both])
        np.minimum.at(floors, query_rows[both], scores[both].astype(np.float32))
        pairs, unknown = pairs + len(both), unknown + int((~both).sum())
    if pairs == unknown:
        raise RunError(
            f"{path} has {pairs:,} scores and none of a pair of the collection {collection.name}: its ids are others. "
            f"The collection's look like {collection.query_ids[0]!r} and {collection.passage_ids[0]!r}."
        )
    return np.where(np.isfinite(floors), floors, np.nan).astype(np.float32), {"pairs": pairs, "unknown": unknown}


def _rows(ids: Sequence[str], find: Callable[[str], int]) -> Rows:
    known = {id_: find(own_id(id_, find)) for id_ in dict.fromkeys(ids)}
    return np.fromiter((known[id_] for id_ in ids), dtype=np.int32, count=len(ids))


def _blocks(path: Path) -> Iterator[Block]:
    lines = _lines(path)
    while batch := list(islice(lines, BLOCK)):
        numbers, queries, passages, scores = zip(*batch, strict=True)
        yield queries, passages, np.array(scores), numbers


def _lines(path: Path) -> Iterator[tuple[int, str, str, float]]:
    def report(problem: Problem) -> None:
        line = f":{problem.line}" if problem.line else ""
        raise RunError(f"{path}{line}: {problem.message}")

    for number, line in read_lines(path, path.name, report):
        fields = line.split("\t") if "\t" in line else line.split()
        if len(fields) == 6:  # a TREC run: query Q0 passage rank score tag
            fields = [fields[0], fields[2], fields[4]]
        try:
            query, passage, score = fields
            yield number, query, passage, float(score)
        except ValueError:
            if number == 1 and len(fields) == 3 and fields[2].strip().lower() in NAMES[2]:
                continue
            raise RunError(
                f"{path}:{number}: neither query-id, corpus-id and score with tabs between, nor a line of a TREC run "
                f"(query Q0 passage rank score tag): {line[:80]!r}."
            ) from None


def _parquet(path: Path) -> Iterator[Block]:
    try:
        with pq.ParquetFile(path) as file:
            there = file.schema_arrow.names
            columns = [next((name for name in names if name in there), "") for names in NAMES]
            if not all(columns):
                raise RunError(
                    f"{path} has the columns {', '.join(there)}, and scores need query-id, corpus-id and score."
                )
            first = 1
            for batch in file.iter_batches(BLOCK, columns=columns):
                ids = [[str(id_) for id_ in batch.column(name).cast(pa.string()).to_pylist()] for name in columns[:2]]
                scores = batch.column(columns[2]).cast(pa.float64()).to_numpy(zero_copy_only=False)
                yield ids[0], ids[1], scores, range(first, first + len(scores))
                first += len(scores)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
        raise RunError(f"{path} can't be read as a Parquet file of scores ({error}).") from error


@dataclass(frozen=True)
class FileTeacher:
    """A teacher of which only scores are there."""

    store: ScoreStore
    floors: Scores | None = None  # each query's lowest score (NaN: none), which its other candidates get

    def score(self, queries: Rows, candidates: Rows, progress: Progress = SILENT) -> Scores:
        """Return the logits of candidates (Q, K); see :meth:`stepwell.teachers.protocol.Teacher.score`."""
        scores = self.store.lookup(queries[:, None], candidates)
        if self.floors is not None:
            scores = np.where(np.isnan(scores), self.floors[queries][:, None], scores)
        return np.where(candidates >= 0, scores, 0).astype(np.float32)
