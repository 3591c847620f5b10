"""The systems that a run, an index or a model offers, each opened when it is first asked."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from pathlib import Path

import numpy as np

from stepwell.collection import Collection
from stepwell.errors import RunError
from stepwell.models.encoder import Encoder
from stepwell.models.reranker import Reranker
from stepwell.retrieval.bm25 import bm25_of
from stepwell.retrieval.vectors import Vectors
from stepwell.systems.folder import RunFolder
from stepwell.systems.opening import open_system
from stepwell.systems.records import Manifest
from stepwell.systems.searcher import Hit, Searcher

STUDENT = "student"
ORDER = (STUDENT, "contrastive", "first-", "straight-", "bm25", "reranked", "fused")
"""How the names of the systems begin, in the order in which a reader meets them; all others come behind."""


@dataclass
class System:
    """Something that answers queries."""

    name: str  # what requests call it
    label: str  # what people read
    quality: float | None  # its mean on the run's test queries
    open: Callable[[], Searcher]

    @cached_property
    def searcher(self) -> Searcher:
        """The searcher, opened once."""
        searcher = self.open()
        if searcher.encoder is not None:
            searcher.encoder.inference.settle()
        return searcher


@dataclass
class Second(System):
    """A cross-encoder that puts the first ``depth`` passages of the student in its own order."""

    depth: int
    model: Path
    tokens: int  # of a pair

    @cached_property
    def reranker(self) -> Reranker:
        """The cross-encoder, opened once."""
        reranker = Reranker.open(self.model, self.tokens)
        reranker.inference.settle()
        return reranker

    def rerank(self, query: str, hits: Sequence[Hit], k: int) -> list[Hit]:
        """Return the best ``k`` of the student's passages by the cross-encoder's logits."""
        if not hits:
            return []
        reranker, rows = self.reranker, np.arange(len(hits))
        passages = reranker.tokenise([hit.text for hit in hits])
        scores = reranker.score(reranker.tokenise([query]), passages, np.zeros_like(rows), rows)
        order = np.argsort(-scores, kind="stable")[:k]
        return [replace(hits[at], rank=rank, score=float(scores[at])) for rank, at in enumerate(order, start=1)]


@dataclass(frozen=True)
class Systems:
    """All systems over one collection; the first is the default."""

    collection: Collection
    encoder: Encoder  # the student, for embedding
    by_name: dict[str, System]
    measure: str | None  # of their quality

    def examples(self, n: int = 5) -> list[str]:
        """Return some of the collection's own queries, of the last split where there is one."""
        splits = self.collection.splits
        rows = self.collection.qrels(splits[-1]).query_rows if splits else np.arange(self.collection.n_queries)
        if not len(rows):
            return []
        return self.collection.query_texts(np.unique(rows[np.linspace(0, len(rows) - 1, n).astype(int)]))


def open_systems(place: Path, collection: str | None = None, only: Sequence[str] = ()) -> Systems:
    """Open a finished run, an index, or a model directory (give its ``collection``), with all its systems.

    ``only`` names those to offer, all when empty; the student is always there.
    """
    student = Searcher.open(place, "student", collection)
    if student.encoder is None:
        raise RunError(f"{place} has no model to embed queries with, so it can't be served.")
    run, searched = open_system(place, "serve").run, student.collection
    bm25 = cache(partial(bm25_of, searched))
    shared: dict[str, Callable[[], Searcher]] = {
        STUDENT: lambda: student,
        "bm25": lambda: Searcher(searched, None, None, bm25()),
        "fused": lambda: Searcher(searched, student.encoder, student.vectors, bm25(), student.index),
    }
    labels = zip(shared, ("student", "BM25", "BM25 and student, fused"), strict=True)
    plain = [System(name, label, None, shared[name]) for name, label in labels]
    found = _of_run(run, student, shared) if run is not None else plain
    names = [system.name for system in found]
    if unknown := sorted(set(only) - set(names)):
        raise RunError(f"{place} has no system {', '.join(unknown)}. It has {', '.join(names)}: choose among these.")
    chosen = {system.name: system for system in found if not only or system.name in {STUDENT, *only}}
    measures = run.results.comparison["measures"] if run else ()
    return Systems(searched, student.encoder, chosen, str(measures[0]) if measures else None)


def _of_run(run: RunFolder, student: Searcher, shared: Mapping[str, Callable[[], Searcher]]) -> list[System]:
    """Return the systems of a run's table of results, the student first, then as a reader meets them."""
    facts, comparison = run.results, run.results.comparison
    measured = {row["name"]: row["values"].get(comparison["measures"][0]) for row in comparison["rows"]}
    found: list[System] = []
    for label, stage in comparison["systems"].items():
        name, quality = stage.removesuffix(".test"), measured.get(label)
        if name == facts.final:
            found.append(System(STUDENT, f"student ({label})", quality, shared[STUDENT]))
        elif name in shared:
            found.append(System(name, label, quality, shared[name]))
        elif name == "asymmetric":
            vectors = run.folder_of(str(facts.asymmetric))
            found.append(System(name, label, quality, partial(_dense, student.collection, student.encoder, vectors)))
        elif name == "reranked":
            found += _second(run, label, quality, shared[STUDENT])
        elif f"{name}.vectors" in facts.stages:
            model, vectors = run.folder_of(name) / "model", run.folder_of(f"{name}.vectors")
            found.append(System(name, label, quality, partial(_dense, student.collection, model, vectors)))
    order = {system.name: [system.name.startswith(begin) for begin in (*ORDER, "")].index(True) for system in found}
    return sorted(found, key=lambda system: order[system.name])


def _dense(collection: Collection, model: Path | Encoder | None, vectors: Path) -> Searcher:
    encoder = Encoder.open(model) if isinstance(model, Path) else model
    return Searcher(collection, encoder, Vectors.open(vectors), None)


def _second(run: RunFolder, label: str, quality: float | None, student: Callable[[], Searcher]) -> list[Second]:
    """Return the re-ranking system with what its stage was made with; none where the teacher is no cross-encoder."""
    manifest = Manifest.load(run.folder_of("reranked.test"))
    teacher = run.folder_of(next(name for name in manifest.inputs if name.startswith("teacher.")))
    settings = Manifest.load(teacher).settings
    if settings.get("kind") != "cross-encoder":  # scores from a file know no new query
        return []
    depth, tokens = int(manifest.settings["rerank"]), settings["tokens"]["pair"]
    return [Second("reranked", label, quality, student, depth, teacher / "model", tokens)]
