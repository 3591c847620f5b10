"""Searching with a finished run, with an index, or with any encoder over a collection."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from stepwell.collection import Collection
from stepwell.errors import RunError, StepwellError
from stepwell.indexes.folder import open_index
from stepwell.indexes.vector_index import VectorIndex
from stepwell.models.encoder import Encoder
from stepwell.retrieval.bm25 import BM25Index, bm25_of
from stepwell.retrieval.run import Found, Run, reciprocal_rank_fusion
from stepwell.retrieval.search import top_k
from stepwell.retrieval.vectors import Vectors
from stepwell.systems.folder import SEARCHED, RunFolder
from stepwell.systems.opening import open_system, vectors_of

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
        self.collection, self.encoder, self.vectors = collection, encoder, vectors
        self.bm25, self.index = bm25, index

    @classmethod
    def open(cls, run: Path, mode: Mode = "student", collection: str | None = None) -> Self:
        """Open a finished run's folder, an index, or a model directory (give its ``collection``).

        Raises
        ------
        StepwellError
            When the folder is none of them, the run isn't finished, or it has no asymmetric retriever.
        """
        system = open_system(Path(run), "search")
        if system.kind == "index":
            return cls._open_index(Path(run), mode, collection)
        searched = system.open_collection(collection)
        if searched is None:
            raise RunError(
                f"{run} is no finished run, so what to search is not known: name the collection with --collection."
            )
        if system.run is not None and not system.run.is_over(searched):
            raise RunError(
                f"the collection {searched.place} is not the one that the run in {run} was made from (its content has "
                "changed): its vectors would name other passages. Run again, or search with the model: stepwell search "
                f"{system.model} --collection {searched.place}."
            )
        bm25 = bm25_of(searched) if mode in ("bm25", "fused") else None
        if mode == "bm25":
            return cls(searched, None, None, bm25)
        if system.run is not None:
            return cls(searched, *_encoder_and_vectors(system.run, mode), bm25)
        encoder = Encoder.open(system.model)
        if mode == "asymmetric":
            raise RunError(f"{run} is a model; the asymmetric mode needs a finished run with a teacher's vectors.")
        return cls(searched, encoder, vectors_of(encoder, searched), bm25)

    @classmethod
    def _open_index(cls, folder: Path, mode: Mode, collection: str | None) -> Self:
        if mode == "asymmetric" or collection is not None:
            raise RunError(
                f"{folder} is an index, which has its model and its passages: it can't be searched with "
                f"{'--collection' if collection else 'the mode asymmetric'}. Leave that out."
            )
        passages, encoder, index = open_index(folder)
        bm25 = bm25_of(passages) if mode in ("bm25", "fused") else None
        if mode == "bm25":
            index.close()
            return cls(passages, None, None, bm25)
        return cls(passages, encoder, None, bm25, index)

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


def _encoder_and_vectors(run: RunFolder, mode: Mode) -> tuple[Encoder, Vectors]:
    """Return the encoder of a finished run's queries, and the vectors of the passages that it searches."""
    facts, encoder = run.results, Encoder.open(run.model)
    own = SEARCHED if SEARCHED in facts.stages else f"{facts.final}.vectors"
    stage = facts.asymmetric if mode == "asymmetric" else own
    if stage is None:
        raise RunError(
            f"the run in {run.place} has no asymmetric retriever: its ladder has no embedding rung, or teacher and "
            "student differ in width. Search with --mode student."
        )
    if stage == SEARCHED:
        encoder.inference.be_exact()
    return encoder, Vectors.open(run.folder_of(stage))
