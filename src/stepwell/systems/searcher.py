"""Searching with a finished run, with an index, or with any encoder over a collection."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from stepwell import distributed
from stepwell.collection import Collection, Qrels
from stepwell.display import progress, warn
from stepwell.errors import StepwellError
from stepwell.files import cache
from stepwell.indexes.folder import is_index, open_index
from stepwell.indexes.packages import Found
from stepwell.indexes.vector_index import VectorIndex
from stepwell.models.encoder import Encoder
from stepwell.retrieval.bm25 import BM25Index, bm25_of
from stepwell.retrieval.fusion import reciprocal_rank_fusion
from stepwell.retrieval.run import Run
from stepwell.retrieval.search import retrieve, top_k
from stepwell.retrieval.vectors import Vectors, write_queries, write_vectors
from stepwell.systems.folder import SEARCHED, opened_again, results_of

Mode = Literal["student", "asymmetric", "bm25", "fused"]


@dataclass(frozen=True)
class Hit:
    """A passage that was found; ``text`` begins with ``title`` where there is one."""

    rank: int
    passage_id: str
    score: float
    text: str
    title: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the hit as plain values."""
        return asdict(self)


class Searcher:
    """Answers queries over one collection.

    Parameters
    ----------
    collection
        What is searched.
    encoder
        Embeds the queries; None for BM25 alone.
    vectors
        The passages' vectors; of the encoder, or of a teacher whose space it was pulled to (asymmetric).
    bm25
        The BM25 index, for ``bm25`` and ``fused``.
    index
        What finds passages instead of ``vectors``.
    """

    def __init__(
        self,
        collection: Collection,
        encoder: Encoder | None,
        vectors: Vectors | None,
        bm25: BM25Index | None,
        index: VectorIndex | None = None,
    ) -> None:
        self.collection, self.encoder, self.vectors, self.bm25 = collection, encoder, vectors, bm25
        self.index = index

    @classmethod
    def open(cls, run: Path, mode: Mode = "student", collection: str | None = None) -> Searcher:
        """Open a finished run's folder, an index, or a model directory (give its ``collection``).

        Raises
        ------
        StepwellError
            When the folder is none of them, the run isn't finished, or it has no asymmetric retriever.
        """
        if is_index(run):
            return cls._open_index(run, mode, collection)
        facts = results_of(run, "search")
        place = collection or (facts["collection"]["path"] if facts else None)
        if place is None:
            raise StepwellError(
                f"{run} is no finished run, so what to search is not known: name the collection with --collection."
            )
        opened = opened_again(place, collection)
        if facts is not None and opened.fingerprint != facts["collection"]["fingerprint"]:
            raise StepwellError(
                f"the collection {place} is not the one that the run in {run} was made from (its content has changed): "
                "its vectors would name other passages. Run again, or search with the model: stepwell search "
                f"{run / 'model'} --collection {place}."
            )
        bm25 = bm25_of(opened) if mode in ("bm25", "fused") else None
        if mode == "bm25":
            return cls(opened, None, None, bm25)
        encoder = Encoder.open(run / "model" if facts else run)
        if facts is None:
            if mode == "asymmetric":
                raise StepwellError(
                    f"{run} is a model; the asymmetric mode needs a finished run with a teacher's vectors."
                )
            return cls(opened, encoder, vectors_of(encoder, opened), bm25)
        own = SEARCHED if SEARCHED in facts["stages"] else f"{facts['final']}.vectors"
        stage = facts["asymmetric"] if mode == "asymmetric" else own
        if stage is None:
            raise StepwellError(
                f"the run in {run} has no asymmetric retriever: its ladder has no embedding rung, or teacher and "
                "student differ in width. Search with --mode student."
            )
        if stage == SEARCHED:
            encoder.inference.be_exact()
        return cls(opened, encoder, Vectors.open(run / facts["stages"][stage]), bm25)

    @classmethod
    def _open_index(cls, folder: Path, mode: Mode, collection: str | None) -> Searcher:
        if mode == "asymmetric" or collection is not None:
            raise StepwellError(
                f"{folder} is an index, which has its model and its passages: it can't be searched with "
                f"{'--collection' if collection else 'the mode asymmetric'}. Leave that out."
            )
        opened = open_index(folder)
        bm25 = bm25_of(opened.collection) if mode in ("bm25", "fused") else None
        if mode == "bm25":
            opened.vectors.close()
            return cls(opened.collection, None, None, bm25)
        return cls(opened.collection, opened.encoder, None, bm25, opened.vectors)

    def close(self) -> None:
        """Let go of what an index holds open; a searcher without one has nothing to close."""
        if self.index is not None:
            self.index.close()

    def search(self, query: str, k: int = 10) -> list[Hit]:
        """Return the ``k`` best passages for a query, best first."""
        return self.search_many([query], k)[0]

    def search_many(self, queries: Sequence[str], k: int = 10) -> list[list[Hit]]:
        """Return the ``k`` best passages of each query, best first: embedded and searched together.

        Raises
        ------
        StepwellError
            When a query is empty.
        """
        if not all(query.strip() for query in queries):
            raise StepwellError("the query is empty: there is nothing to search for.")
        lists = self._lists(queries, k) if queries else []
        if len(lists) > 1:
            places = np.arange(len(queries), dtype=np.int32)
            fused = reciprocal_rank_fusion([Run(places, *found) for found in lists], k)
            lists = [(fused.passages, fused.scores)]
        return [hits for found in lists for hits in self._hits(*found, k)]

    def _lists(self, queries: Sequence[str], k: int) -> list[Found]:
        """Return rows (Q, k) and scores (Q, k) by the vectors, by BM25, or by both, deep enough to fuse."""
        lists = []
        depth = max(k, 100) if self.bm25 is not None and self.encoder is not None else k
        if self.encoder is not None:
            vectors = self.encoder.encode(self.encoder.tokenise(queries, "query"), "query")
            if self.index is not None:
                lists.append(self.index.search(vectors, depth))
            elif self.vectors is not None:
                lists.append(top_k(vectors, self.vectors.passages, depth))
        if self.bm25 is not None:
            lists.append(self.bm25.search(queries, depth))
        return lists

    def _hits(self, rows: NDArray[np.int32], scores: NDArray[np.float32], k: int) -> list[list[Hit]]:
        """Return the hits of each query (Q, k); the texts of all are read in one go."""
        kept = [np.flatnonzero(row >= 0)[:k] for row in rows]
        taken = [row[places] for row, places in zip(rows, kept, strict=True)]
        every = np.concatenate(taken)
        names = [self.collection.passage_ids[row] for row in every.tolist()]
        parts = zip(names, self.collection.passage_texts(every), self.collection.passage_starts(every), strict=True)
        return [
            [
                Hit(rank, name, score, text, text[:start].strip())
                for rank, (score, (name, text, start)) in enumerate(
                    zip(score_row[places].tolist(), parts, strict=False), start=1
                )
            ]
            for score_row, places in zip(scores, kept, strict=True)
        ]


def vectors_of(encoder: Encoder, collection: Collection, query_rows: Any = (), known: Vectors | None = None) -> Vectors:
    """Return the vectors of a collection under any encoder, from the cache where they are.

    Passages are encoded once, whatever queries come later, and not at all where vectors of them are ``known``: what a
    run has left of this encoder and collection.

    Raises
    ------
    StepwellError
        When several processes ask for them: they would wait for one another.
    """
    if distributed.world_size() > 1:
        raise StepwellError(
            "several processes were started for what one does (search, eval, compare, mine): start it without "
            "accelerate launch. run, encode and score share their work."
        )
    rows = np.unique(np.asarray(query_rows, dtype=np.int32))
    folder = cache() / "vectors" / f"{collection.texts_fingerprint[:16]}-{encoder.fingerprint[:16]}"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):
        if known is None and not (folder / "vectors.json").is_file():
            with progress(collection.n_passages, "encoding passages") as bar:
                write_vectors(encoder, collection, np.zeros(0, np.int32), folder, bar)
        passages = known or Vectors.open(folder)
        if not len(rows):
            return passages
        file = folder / f"queries-{hashlib.sha256(rows.tobytes()).hexdigest()[:8]}.npy"
        with progress(len(rows), "encoding queries") as bar:
            write_queries(encoder, collection, rows, file, bar)
    return replace(passages, queries=np.load(file, mmap_mode="r"), query_rows=rows)


def retrieve_with(system: str, collection: Collection, qrels: Qrels, depth: int) -> Run:
    """Retrieve for a split's queries with ``bm25``, a TREC run file, a finished run's student, or any encoder."""
    rows: NDArray[np.int32] = qrels.query_rows
    place = Path(system)
    if system == "bm25":
        return bm25_of(collection).run(collection, rows, depth)
    if place.is_file():
        run = Run.from_trec(place, collection, rows)
        missing = int((run.passages[:, 0] < 0).sum())
        if missing and missing == len(rows):
            raise StepwellError(
                f"{place} has none of the {len(rows):,} queries that are asked for: it is a run over another split or "
                "another collection. Name the split with --split."
            )
        if missing:
            warn(f"{missing:,} of the {len(rows):,} queries are not in {place}: each counts as one without any hit.")
        return run
    facts, known = results_of(place, "name it again"), None
    if facts is not None and facts["collection"]["fingerprint"] == collection.fingerprint:
        kept = place / facts["stages"][f"{facts['final']}.vectors"]
        known = Vectors.open(kept) if kept.is_dir() else None
    if known is None or not known.has_queries(rows):
        encoder = Encoder.open(str(place / "model" if facts else place) if place.is_dir() else system)
        known = vectors_of(encoder, collection, rows, known)
    return retrieve(known, rows, depth)
