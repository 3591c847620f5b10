"""The systems that a run, an index or a model offers, each opened when it is first asked."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from stepwell.collection import Collection
from stepwell.errors import StepwellError
from stepwell.ladder.workspace import read_json
from stepwell.models.encoder import Encoder
from stepwell.models.reranker import Reranker
from stepwell.retrieval.bm25 import BM25Index, bm25_of
from stepwell.retrieval.vectors import Vectors
from stepwell.systems.folder import read_results
from stepwell.systems.searcher import Hit, Searcher

STUDENT = "student"


@dataclass
class System:
    """Something that answers queries.

    Parameters
    ----------
    name
        What requests call it.
    label
        What people read.
    quality
        Its mean on the run's test queries; None where there is none.
    open
        Opens its searcher.
    """

    name: str
    label: str
    quality: float | None
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
    teacher: Callable[[], Reranker]

    @cached_property
    def reranker(self) -> Reranker:
        """The cross-encoder, opened once."""
        reranker = self.teacher()
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
    """All systems over one collection; the first is the default.

    Parameters
    ----------
    collection
        What is searched.
    encoder
        The student, for embedding.
    by_name
        The systems.
    measure
        What their quality is measured by.
    """

    collection: Collection
    encoder: Encoder
    by_name: dict[str, System]
    measure: str | None

    def examples(self, n: int = 5) -> list[str]:
        """Return some of the collection's own queries, of the last split where there is one."""
        splits = self.collection.splits
        rows = self.collection.qrels(splits[-1]).query_rows if splits else np.arange(self.collection.n_queries)
        if not len(rows):
            return []
        return self.collection.query_texts(np.unique(rows[np.linspace(0, len(rows) - 1, n).astype(int)]))


def open_systems(place: Path, collection: str | None = None, only: Sequence[str] = ()) -> Systems:
    """Open a finished run, an index, or a model directory (give its ``collection``).

    Parameters
    ----------
    place
        The folder.
    collection
        Another place of the run's collection; what a model is to search.
    only
        Names of the systems to offer; all when empty. The student is always there.

    Raises
    ------
    StepwellError
        When the folder is none of these, or has no system of a name.
    """
    student = Searcher.open(place, "student", collection)
    if student.encoder is None:
        raise StepwellError(f"{place} has no model to embed queries with, so it can't be served.")
    bm25 = cache(partial(bm25_of, student.collection))
    found = [System(STUDENT, "student", None, lambda: student)]
    measure = None
    if (place / "results.json").is_file():
        facts = read_results(place)
        measure = str(facts["comparison"]["measures"][0]) if facts["comparison"]["measures"] else None
        found = _of_run(place, facts, student, bm25)
    else:
        found.append(System("bm25", "BM25", None, lambda: Searcher(student.collection, None, None, bm25())))
        found.append(System("fused", "BM25 and student, fused", None, lambda: _fused(student, bm25())))
    names = [system.name for system in found]
    if unknown := sorted(set(only) - set(names)):
        raise StepwellError(
            f"{place} has no system {', '.join(unknown)}. It has {', '.join(names)}: choose among these."
        )
    chosen = {system.name: system for system in found if not only or system.name in {STUDENT, *only}}
    return Systems(student.collection, student.encoder, chosen, measure)


def _of_run(place: Path, facts: dict[str, Any], student: Searcher, bm25: Callable[[], BM25Index]) -> list[System]:
    """Return the systems of a run's table of results, the student first, then as a reader meets them."""
    stages: dict[str, str] = facts["stages"]
    comparison = facts["comparison"]
    measured = {row["name"]: row["values"].get(comparison["measures"][0]) for row in comparison["rows"]}
    found: list[System] = []
    for label, stage in comparison["systems"].items():
        name, quality = stage.removesuffix(".test"), measured.get(label)
        if name == facts["final"]:
            found.insert(0, System(STUDENT, f"student ({label})", quality, lambda: student))
        elif name == "bm25":
            found.append(System(name, label, quality, lambda: Searcher(student.collection, None, None, bm25())))
        elif name == "fused":
            found.append(System(name, label, quality, lambda: _fused(student, bm25())))
        elif name == "asymmetric":
            vectors = place / stages[facts["asymmetric"]]
            found.append(System(name, label, quality, partial(_dense, student.collection, student.encoder, vectors)))
        elif name == "reranked":
            found += _second(place, stages, label, quality, student)
        elif f"{name}.vectors" in stages:
            model, vectors = place / stages[name] / "model", place / stages[f"{name}.vectors"]
            found.append(System(name, label, quality, partial(_dense, student.collection, model, vectors)))
    return sorted(found, key=_order)


def _order(system: System) -> int:
    name = system.name
    first = (STUDENT, "contrastive", "straight-", "bm25", "reranked", "fused")
    return next((at for at, begin in enumerate(first) if name.startswith(begin)), len(first))


def _dense(collection: Collection, model: Path | Encoder | None, vectors: Path) -> Searcher:
    encoder = Encoder.open(model) if isinstance(model, Path) else model
    return Searcher(collection, encoder, Vectors.open(vectors), None)


def _fused(student: Searcher, bm25: BM25Index) -> Searcher:
    fused = copy.copy(student)
    fused.bm25 = bm25
    return fused


def _second(place: Path, stages: dict[str, str], label: str, quality: float | None, student: Searcher) -> list[Second]:
    """Return the re-ranking system with what its stage was made with; none where the teacher is no cross-encoder."""
    manifest = read_json(place / stages["reranked.test"] / "manifest.json")
    teachers = [name for name in manifest["inputs"] if name.startswith("teacher.")]
    settings = read_json(place / stages[teachers[0]] / "manifest.json")["settings"]
    if settings.get("kind") != "cross-encoder":  # scores from a file know no new query
        return []
    open_teacher = partial(Reranker.open, place / stages[teachers[0]] / "model", settings["tokens"]["pair"])
    depth = int(manifest["settings"]["rerank"])
    return [Second("reranked", label, quality, lambda: student, depth, open_teacher)]
