"""What was named: BM25, a TREC run file, a finished run, an index or a model; and what it retrieves."""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stepwell import distributed
from stepwell.collection import Collection, Qrels, open_collection
from stepwell.collection.readers.formats import Place
from stepwell.display import progress, warn
from stepwell.errors import RunError, StepwellError
from stepwell.files import cache, locked
from stepwell.indexes.folder import is_index
from stepwell.models.encoder import Encoder
from stepwell.models.token_store import side_tokens
from stepwell.retrieval.bm25 import bm25_of
from stepwell.retrieval.run import Run
from stepwell.retrieval.search import retrieve
from stepwell.retrieval.vectors import Vectors, write_texts, write_vectors
from stepwell.systems.folder import RunFolder


@dataclass(frozen=True)
class System:
    """What can be asked, judged, served or exported; ``run`` is the finished run that it is, else None."""

    name: str
    kind: Literal["bm25", "run file", "run", "index", "model"]
    run: RunFolder | None = None

    @property
    def model(self) -> str:
        """The directory or hub name of its model."""
        return str(self.run.model) if self.run else self.name

    @property
    def title(self) -> str:
        """What people call it."""
        place = Path(self.name)
        if self.run is not None:
            return self.run.results.name or place.name
        return place.resolve().name if place.is_dir() else place.name

    def open_collection(self, named: Place | None) -> Collection | None:
        """Open the collection that was named, else the run's own; None where neither is known."""
        if named is not None:
            return open_collection(named)
        return self.run.open_collection() if self.run else None

    def retrieve(self, collection: Collection, qrels: Qrels, depth: int) -> Run:
        """Retrieve for judged queries, with the vectors that a run has left where they are of this collection."""
        rows: NDArray[np.int32] = qrels.query_rows
        if self.kind == "bm25":
            return bm25_of(collection).run(collection, rows, depth)
        if self.kind == "run file":
            return _read_run(self.name, collection, rows)
        known = self.run.student_vectors() if self.run and self.run.is_over(collection) else None
        if known is None or not np.isin(rows, known.query_rows).all():
            known = vectors_of(Encoder.open(self.model), collection, rows, known)
        return retrieve(known, rows, depth)


def open_system(name: str | Path, then: str) -> System:
    """Return what was named, unless it is a run that is not finished; ``then`` is what to do once it is.

    The name ``bm25`` is the method; a path of that name is a place.
    """
    place = Path(name)
    if name == "bm25":
        return System("bm25", "bm25")
    if place.is_file():
        return System(str(name), "run file")
    if is_index(place):
        return System(str(name), "index")
    run = RunFolder.finished(place, then)
    return System(str(name), "run" if run else "model", run)


def retrieve_with(system: str, collection: Collection, qrels: Qrels, depth: int) -> Run:
    """Retrieve for a split's queries with ``bm25``, a TREC run file, a finished run's student, or any encoder."""
    return open_system(system, "name it again").retrieve(collection, qrels, depth)


def _read_run(file: str, collection: Collection, rows: NDArray[np.int32]) -> Run:
    run = Run.from_trec(Path(file), collection, rows)
    missing = int((run.passages[:, 0] < 0).sum())
    if missing and missing == len(rows):
        raise RunError(
            f"{file} has none of the {len(rows):,} queries that are asked for: it is a run over another split or "
            "another collection. Name the split with --split."
        )
    if missing:
        warn(f"{missing:,} of the {len(rows):,} queries are not in {file}: each counts as one without any hit.")
    return run


def vectors_of(
    encoder: Encoder, collection: Collection, query_rows: ArrayLike = (), known: Vectors | None = None
) -> Vectors:
    """Return the vectors of a collection under any encoder, from the cache where they are.

    Passages are encoded once, whatever queries come later, and not at all where vectors of them are ``known``: what a
    run has left of this encoder and collection.
    """
    if distributed.world_size() > 1:  # they would wait for one another
        raise StepwellError(
            "several processes were started for what one does (search, eval, compare, mine): start it without "
            "accelerate launch. run, encode and score share their work."
        )
    rows = np.unique(np.asarray(query_rows, dtype=np.int32))
    folder = cache() / "vectors" / f"{collection.texts_fingerprint[:16]}-{encoder.fingerprint[:16]}"
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        if known is None and not (folder / "vectors.json").is_file():
            with progress(collection.n_passages, "encoding passages") as bar:
                write_vectors(encoder, collection, np.zeros(0, np.int32), folder, bar)
        passages = known or Vectors.open(folder)
        if not len(rows):
            return passages
        file = folder / f"queries-{hashlib.sha256(rows.tobytes()).hexdigest()[:8]}.npy"
        with progress(len(rows), "encoding queries") as bar:
            write_texts(encoder, side_tokens(collection, encoder, "query"), rows, "query", file, bar)
    return replace(passages, queries=np.load(file, mmap_mode="r"), query_rows=rows)
