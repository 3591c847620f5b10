"""One search over all kinds of indexes: a first list, and where wanted its best scored again."""

from contextlib import closing
from pathlib import Path

import numpy as np

from stepwell.display import SILENT, Progress
from stepwell.files import whole
from stepwell.indexes.codes import Codes, narrow, narrowed, write_codes
from stepwell.indexes.milvus import FILE, MilvusIndex
from stepwell.indexes.packages import Faiss, Usearch
from stepwell.indexes.settings import IndexSettings
from stepwell.retrieval.run import Floats, Found

PACKAGE_FILE = "index.bin"  # what usearch or FAISS wrote
AGAIN = "again"  # folder of the vectors to score again with
Finder = Codes | Usearch | Faiss | MilvusIndex  # what gives a first list


class VectorIndex:
    """Finds passages by the vectors of queries, with resolved settings."""

    def __init__(self, settings: IndexSettings, normalise: bool, first: Finder, again: Codes | None) -> None:
        self.settings, self.normalise = settings, normalise  # normalise: vectors that are cut get the length 1
        self.first, self.again = first, again

    def search(self, queries: Floats, k: int) -> Found:
        """Return rows and scores (Q, min(k, N)) of the best passages of queries (Q, width); -1 and -inf pad."""
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
    settings: IndexSettings, vectors: Floats, normalise: bool, folder: Path, name: str, progress: Progress = SILENT
) -> VectorIndex:
    """Write an index of passages' vectors (N, width), read block by block, into ``folder``, and open it.

    The folder is its own alone. Milvus gets a collection ``name``, and goes on with it; files are written again.
    """
    folder.mkdir(parents=True, exist_ok=True)
    width = settings.dimension or vectors.shape[1]
    blocks = narrowed(vectors, width, normalise)
    if settings.rescore_with is not None:
        write_codes(vectors, folder / AGAIN, settings.rescore_with, width, normalise)
    if settings.kind == "exact":
        write_codes(vectors, folder, settings.precision or "fp32", width, normalise, progress)
    elif settings.kind.startswith("milvus"):
        with closing(MilvusIndex(settings, folder, name)) as milvus:
            milvus.load((block for _, block in blocks), len(vectors), progress)
    else:
        index = (Usearch if settings.kind == "usearch" else Faiss).make(settings, vectors, normalise)
        for start, block in blocks:
            index.add(start, np.ascontiguousarray(block))
            progress.advance(len(block))
        with whole(folder / PACKAGE_FILE) as draft:
            index.save(draft)
    return read(settings, normalise, folder, name, len(vectors))


def read(settings: IndexSettings, normalise: bool, folder: Path, name: str, count: int) -> VectorIndex:
    """Open what :func:`make` made of ``count`` passages.

    StepwellError when a package is missing or Milvus has not what it should have; ValueError, OSError or RuntimeError
    when a file is missing or damaged.
    """
    width, again = settings.dimension or 0, None
    if settings.rescore_with is not None:
        again = Codes.open(folder / AGAIN, settings.rescore_with, width, count)
    first: Finder
    if settings.kind == "exact":
        first = Codes.open(folder, settings.precision or "fp32", width, count)
    elif settings.kind.startswith("milvus"):
        first = MilvusIndex(settings, folder, name)
        try:
            first.check(count)
        except BaseException:
            first.close()
            raise
    else:
        first = (Usearch if settings.kind == "usearch" else Faiss).read(settings, folder / PACKAGE_FILE)
    return VectorIndex(settings, normalise, first, again)


def sizes(settings: IndexSettings, folder: Path, count: int) -> tuple[int, int]:
    """Return the bytes of what is searched, and of the vectors to score again with; a cluster's are reckoned."""
    again = _bytes(folder / AGAIN)
    if settings.uri is not None:
        return count * (settings.dimension or 0) * (2 if settings.precision == "fp16" else 4), again
    return _bytes(folder / FILE) if settings.kind.startswith("milvus") else _bytes(folder) - again, again


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
