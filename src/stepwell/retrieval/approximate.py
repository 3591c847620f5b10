"""Approximate search, by usearch or FAISS: faster than exact search on large corpora, at a recall that is measured.

An index is a folder: the package's own file, and ``index.json`` with the settings and what :func:`measure` found on
the user's vectors and queries.
"""

from __future__ import annotations

import hashlib
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stepwell.errors import StepwellError
from stepwell.retrieval import packages
from stepwell.retrieval.packages import BLOCK, Found, Index, Settings
from stepwell.retrieval.search import pair_scores, top_k

SAMPLE = 1_000
"""Queries that recall is measured with, at most."""
ALONE = 100
"""Queries that are timed one by one, at most."""


@dataclass(frozen=True)
class Measured:
    """How an index does against exact search, on ``queries`` queries of the user's.

    Parameters
    ----------
    recall
        Share of the k passages that are among the true k best, or score as well as the last of them.
    alone, exact_alone
        Seconds of a query that comes alone (median).
    together, exact_together
        Seconds a query when all come in one call.
    """

    k: int
    queries: int
    recall: float
    alone: float
    exact_alone: float
    together: float
    exact_together: float

    @property
    def faster_alone(self) -> float:
        """Time of exact search by time of the index, for a query alone."""
        return self.exact_alone / self.alone

    @property
    def faster_together(self) -> float:
        """Time of exact search by time of the index, for many queries."""
        return self.exact_together / self.together


class ApproximateIndex:
    """Finds passages; made by :func:`build` or :func:`open_index`.

    Parameters
    ----------
    index
        The package's own.
    settings
        How it was made.
    measured
        What :func:`measure` found when it was made.
    passages
        The full vectors, shape (N, D).
    """

    def __init__(
        self, index: Index, settings: Settings, measured: Measured | None, passages: NDArray[np.float32]
    ) -> None:
        self._index, self.settings, self.measured, self.passages = index, settings, measured, passages

    def search(self, queries: NDArray[np.float32], k: int) -> Found:
        """Return about the ``k`` best passages of queries (Q, D), best first.

        Returns
        -------
        tuple
            Passage rows (Q, k), int32, and scores (Q, k), float32; -1 and -inf where fewer were found.
        """
        queries = np.ascontiguousarray(queries, dtype=np.float32)
        rows, scores = self._index.search(queries, k * max(1, self.settings.rescore))
        if self.settings.rescore:
            scores = pair_scores(queries, self.passages, rows)
        order = np.lexsort((rows, -scores), axis=1)[:, :k]
        return np.take_along_axis(rows, order, axis=1), np.take_along_axis(scores, order, axis=1)


def build(
    passages: NDArray[np.float32],
    folder: Path,
    settings: Settings,
    queries: NDArray[np.float32],
    k: int = 10,
    advance: Callable[[int], None] = lambda n: None,
) -> ApproximateIndex:
    """Make an index in ``folder`` and measure it; an index that is there is replaced.

    A graph is not the same twice when several threads make it, as they add passages in any order.

    Parameters
    ----------
    passages
        Shape (N, D), may be memory-mapped; read block by block.
    folder
        Where it goes.
    settings
        Which kind, and how.
    queries
        Real queries, shape (Q, D), that recall is measured with.
    k
        Depth of the recall.
    advance
        Is told the passages that were added.

    Raises
    ------
    StepwellError
        When the package is not installed, or the settings don't fit the vectors.
    """
    if not len(queries) or not len(passages):
        raise StepwellError(
            f"an index needs passages ({len(passages)} given), and queries to measure its recall ({len(queries)} "
            "given): without a measurement nobody knows what it loses."
        )
    draft = packages.make(settings, passages)
    for start in range(0, len(passages), BLOCK):
        part = np.ascontiguousarray(passages[start : start + BLOCK], dtype=np.float32)
        draft.add(start, part)
        advance(len(part))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "index.json").unlink(missing_ok=True)
    draft.save(folder / "index.draft")
    del draft  # what is measured is what will be opened
    (folder / "index.draft").replace(folder / "index.bin")
    index = ApproximateIndex(packages.read(settings, folder / "index.bin"), settings, None, passages)
    index.measured = measure(index, passages, queries, k)
    package = "usearch" if settings.kind == "usearch" else "faiss-cpu"
    facts = {
        "settings": asdict(settings),
        "vectors": _identity(passages),
        "measured": asdict(index.measured),
        "package": [package, _version(package)],
    }
    (folder / "index.json.draft").write_text(json.dumps(facts, indent=1), encoding="utf-8")
    (folder / "index.json.draft").replace(folder / "index.json")  # the last: where it is, all is
    return index


def open_index(folder: Path, passages: NDArray[np.float32]) -> ApproximateIndex:
    """Open what :func:`build` made of ``passages``.

    Raises
    ------
    StepwellError
        When it is missing, damaged or of other vectors, or its package is not installed.
    """
    try:
        facts = json.loads((folder / "index.json").read_text(encoding="utf-8"))
        settings, measured = Settings(**facts["settings"]), Measured(**facts["measured"])
        same = facts["vectors"] == _identity(passages)
        index = packages.read(settings, folder / "index.bin") if same else None
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise StepwellError(f"the index in {folder} is missing or damaged ({error}): build it again.") from error
    if index is None:
        raise StepwellError(
            f"the index in {folder} is of other vectors than these (the collection or the model has changed), so it "
            "would name other passages: build it again."
        )
    return ApproximateIndex(index, settings, measured, passages)


def measure(
    index: ApproximateIndex, passages: NDArray[np.float32], queries: NDArray[np.float32], k: int = 10
) -> Measured:
    """Compare an index with exact search, in recall and time, on :data:`SAMPLE` of the queries, spread evenly."""
    k = min(k, len(passages))
    chosen = np.unique(np.linspace(0, len(queries) - 1, min(len(queries), SAMPLE)).astype(np.int64))
    sample = np.ascontiguousarray(queries[chosen], dtype=np.float32)

    def exact(some: NDArray[np.float32]) -> Found:
        return top_k(some, passages, k)

    def approximate(some: NDArray[np.float32]) -> Found:
        return index.search(some, k)

    for search in (approximate, exact):
        search(sample[:64])  # the first call imports, probes, reads files
    alone = [sample[i : i + 1] for i in range(min(len(sample), ALONE))]
    singles = [[_timed(search, query)[0] for query in alone] for search in (approximate, exact)]
    together, (rows, _) = _timed(approximate, sample)
    exact_together, (_, best) = _timed(exact, sample)
    last = best[:, -1:]
    good = pair_scores(sample, passages, rows) >= last - 1e-5 * np.abs(last)  # fp32 sums differ in the last digits
    times = [statistics.median(singles[0]), statistics.median(singles[1])]
    times += [together / len(sample), exact_together / len(sample)]
    return Measured(k, len(sample), float(good.mean()), *times)


def _timed(search: Callable[[NDArray[np.float32]], Found], queries: NDArray[np.float32]) -> tuple[float, Found]:
    start = time.perf_counter()
    found = search(queries)
    return time.perf_counter() - start, found


def _identity(passages: NDArray[np.float32]) -> list[Any]:
    """Return rows, width and a hash of some vectors: tells other vectors apart without reading all."""
    some = np.unique(np.linspace(0, len(passages) - 1, 64).astype(np.int64))
    return [*passages.shape, hashlib.sha256(np.asarray(passages[some], dtype=np.float32).tobytes()).hexdigest()[:16]]


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:  # built from source, or under another name
        return None
