"""One search over all kinds of indexes: a first list, and where wanted its best scored again."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from stepwell.display import SILENT, Progress
from stepwell.indexes import packages
from stepwell.indexes.codes import Codes, narrow, narrowed, write_codes
from stepwell.indexes.milvus import FILE, MilvusIndex
from stepwell.indexes.packages import Found
from stepwell.indexes.settings import IndexSettings

GRAPH_FILE = "index.bin"
AGAIN = "again"
"""Folder of the vectors to score again with."""


class Finder(Protocol):
    """What gives a first list."""

    def search(self, queries: NDArray[np.float32], k: int) -> Found:
        """Return rows and scores of queries (Q, D), both (Q, k), best first; -1 and -inf pad."""


class VectorIndex:
    """Finds passages by the vectors of queries.

    Parameters
    ----------
    settings
        How; resolved.
    normalise
        Whether vectors that are cut get the length 1.
    first
        What gives the first list.
    again
        The vectors that the best of it are scored again with.
    """

    def __init__(self, settings: IndexSettings, normalise: bool, first: Finder, again: Codes | None) -> None:
        self.settings, self.normalise, self.first, self.again = settings, normalise, first, again

    def search(self, queries: NDArray[np.float32], k: int) -> Found:
        """Return the ``k`` best passages of queries, vectors as the model gives them (Q, width), best first.

        Returns
        -------
        tuple
            Passage rows (Q, k), int32, and scores (Q, k), float32; -1 and -inf where fewer were found. There are
            fewer columns than k where there are fewer passages.
        """
        queries = np.ascontiguousarray(narrow(queries, self.settings.dimension or queries.shape[1], self.normalise))
        rows, scores = self.first.search(queries, k * max(1, self.settings.rescore or 0))
        if self.again is None:
            return rows, scores
        scores = self.again.scores(queries, rows)
        order = np.lexsort((rows, -scores), axis=1)[:, :k]
        return np.take_along_axis(rows, order, axis=1), np.take_along_axis(scores, order, axis=1)

    def close(self) -> None:
        """Let go of what a back end holds open."""
        if isinstance(self.first, MilvusIndex):
            self.first.close()


def make(
    settings: IndexSettings,
    vectors: NDArray[np.float32],
    normalise: bool,
    folder: Path,
    name: str,
    progress: Progress = SILENT,
) -> VectorIndex:
    """Write the files of an index of passages' vectors (N, width) into ``folder``; Milvus gets a collection ``name``.

    Parameters
    ----------
    settings
        Resolved.
    vectors
        Read block by block.
    normalise
        Whether vectors that are cut get the length 1 (cosine).
    folder
        Its own alone; made when missing. A Milvus collection in it is gone on with, other files are written again.
    name
        Tells this index from others in the same Milvus.
    progress
        Advanced by the passages that are done.
    """
    folder.mkdir(parents=True, exist_ok=True)
    width = settings.dimension or vectors.shape[1]
    if settings.rescore_with is not None:
        (folder / AGAIN).mkdir(exist_ok=True)
        write_codes(vectors, folder / AGAIN, settings.rescore_with, width, normalise)
    if settings.kind == "exact":
        assert settings.precision is not None and settings.precision != "pq"
        write_codes(vectors, folder, settings.precision, width, normalise, progress)
    elif settings.kind.startswith("milvus"):
        milvus = MilvusIndex(settings, folder, name)
        try:
            milvus.load(narrowed(vectors, width, normalise), len(vectors), progress)
        finally:
            milvus.close()
    else:
        _make_graph(settings, vectors, width, normalise, folder, progress)
    return read(settings, normalise, folder, name, len(vectors))


def _make_graph(
    settings: IndexSettings,
    vectors: NDArray[np.float32],
    width: int,
    normalise: bool,
    folder: Path,
    progress: Progress,
) -> None:
    cut = folder / "cut"  # the vectors that it is made from, where they are not those of the model
    if width < vectors.shape[1]:
        cut.mkdir(exist_ok=True)
        vectors = write_codes(vectors, cut, "fp32", width, normalise).values
    index = packages.make(settings.graph(), vectors)
    for start in range(0, len(vectors), packages.BLOCK):
        part = np.ascontiguousarray(vectors[start : start + packages.BLOCK], dtype=np.float32)
        index.add(start, part)
        progress.advance(len(part))
    index.save(folder / "index.draft")
    (folder / "index.draft").replace(folder / GRAPH_FILE)
    (cut / "fp32.npy").unlink(missing_ok=True)
    if cut.is_dir():
        cut.rmdir()


def read(settings: IndexSettings, normalise: bool, folder: Path, name: str, count: int) -> VectorIndex:
    """Open what :func:`make` made of ``count`` passages.

    Raises
    ------
    StepwellError
        When a package is missing, or Milvus has not what it should have.
    ValueError, OSError, RuntimeError
        When a file is missing or damaged.
    """
    width, again = settings.dimension or 0, None
    if settings.rescore_with is not None:
        again = Codes.open(folder / AGAIN, settings.rescore_with, width)
        _whole(again, count)
    first: Finder
    if settings.kind == "exact":
        assert settings.precision is not None and settings.precision != "pq"
        first = Codes.open(folder, settings.precision, width)
        _whole(first, count)
    elif settings.kind.startswith("milvus"):
        first = MilvusIndex(settings, folder, name)
        try:
            first.check(count)
        except BaseException:
            first.close()
            raise
    else:
        first = packages.read(settings.graph(), folder / GRAPH_FILE)
    return VectorIndex(settings, normalise, first, again)


def _whole(codes: Codes, count: int) -> None:
    if len(codes.values) != count:
        raise ValueError(f"{codes.precision}.npy holds {len(codes.values)} vectors, not {count}")


def sizes(settings: IndexSettings, folder: Path, count: int) -> tuple[int, int]:
    """Return the bytes of what is searched, and of the vectors to score again with; a cluster's are reckoned."""
    again = sum(path.stat().st_size for path in (folder / AGAIN).rglob("*") if path.is_file())
    if settings.uri is not None:
        return count * (settings.dimension or 0) * (2 if settings.precision == "fp16" else 4), again
    files = folder / FILE if settings.kind.startswith("milvus") else folder
    return sum(path.stat().st_size for path in files.rglob("*") if path.is_file()) - (
        again if files == folder else 0
    ), again
