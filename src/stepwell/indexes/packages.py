"""usearch and FAISS behind one protocol; imported where an index of theirs is made or opened, and only there.

FAISS and torch in one process clash on some platforms (two OpenMP runtimes); usearch and torch do not.
"""

import contextlib
import importlib
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch

from stepwell.errors import MissingPackage, StepwellError
from stepwell.indexes.codes import narrow, to_bits
from stepwell.indexes.settings import IndexSettings, Precision
from stepwell.retrieval.run import Floats, Found

LEARN_FROM = 1 << 16  # passages that an index is trained on; 64 for each inverted list where those are more
LINKS, BUILD_EFFORT = 16, 128  # of a graph: neighbours of a passage, and candidates that are looked at for them
STORED: dict[Precision, tuple[str, str]] = {
    "fp32": ("ip", "f32"),
    "fp16": ("ip", "f16"),
    "int8": ("cos", "i8"),  # ip of int8 has no fixed scale
    "binary": ("hamming", "b1"),
}


def package(module: str, extra: str) -> Any:
    """Import a module of an optional package."""
    name = module.partition(".")[0]
    try:
        return importlib.import_module(module)
    except ImportError as error:
        message = (
            f"this index needs the package {name}, which can't be imported here ({error}): "
            f"pip install 'stepwell[{extra}]'. Exact search needs nothing."
        )
        raise MissingPackage(message, name, extra) from error


class Usearch:
    """A graph by usearch; ``settings`` are resolved."""

    def __init__(self, index: Any, settings: IndexSettings) -> None:
        self._index, self._bits = index, settings.precision == "binary"

    @classmethod
    def make(cls, settings: IndexSettings, vectors: Floats, normalise: bool) -> Self:
        """Return an empty index for vectors (N, width)."""
        width = settings.dimension or vectors.shape[1]
        lengths = np.linalg.norm(narrow(vectors[:LEARN_FROM], width, normalise), axis=1)
        if settings.precision == "int8" and not np.allclose(lengths, 1, atol=1e-3):
            raise StepwellError(
                f"int8 of usearch is for vectors of length 1, and these have lengths from {lengths.min():g} to "
                f"{lengths.max():g} (their model does not normalise): take --precision fp16, or --kind exact."
            )
        metric, stored = STORED[settings.precision or "fp32"]
        index = package("usearch.index", "usearch").Index(
            ndim=width, metric=metric, dtype=stored, connectivity=LINKS, expansion_add=BUILD_EFFORT
        )
        return cls(index, settings)

    @classmethod
    def read(cls, settings: IndexSettings, path: Path) -> Self:
        """Open the package's file."""
        index = package("usearch.index", "usearch").Index.restore(str(path), view=True)  # mapped, not loaded
        if index is None:
            raise OSError(f"{path.name} can't be read")
        index.expansion_search = settings.effort
        return cls(index, settings)

    def add(self, start: int, vectors: Floats) -> None:
        """Add the passages from row ``start`` on, (n, D)."""
        keys = np.arange(start, start + len(vectors), dtype=np.uint64)
        self._index.add(keys, to_bits(vectors) if self._bits else vectors, threads=torch.get_num_threads())

    def search(self, queries: Floats, k: int) -> Found:
        """Return rows and scores, both (Q, k); -1 and -inf pad."""
        found = self._index.search(to_bits(queries) if self._bits else queries, k, threads=torch.get_num_threads())
        keys, distances = np.atleast_2d(found.keys), np.atleast_2d(found.distances)
        counts = np.atleast_1d(found.counts) if len(queries) > 1 else np.array([keys.shape[1]])
        rows = np.full((len(queries), k), -1, dtype=np.int32)
        scores = np.full((len(queries), k), -np.inf, dtype=np.float32)
        there = np.arange(keys.shape[1]) < counts[:, None]
        far = distances[there]  # the rest of it was never written to
        near = queries.shape[1] - 2 * far if self._bits else 1 - far  # of signs: their inner product
        rows[:, : keys.shape[1]][there], scores[:, : keys.shape[1]][there] = keys[there], near
        return rows, scores

    def save(self, path: Path) -> None:
        """Write the package's file."""
        self._index.save(str(path))


class Faiss:
    """What a factory string of FAISS makes; ``settings`` are resolved."""

    def __init__(self, index: Any) -> None:
        self._faiss, self._index = package("faiss", "faiss"), index
        self._faiss.omp_set_num_threads(torch.get_num_threads())

    @classmethod
    def make(cls, settings: IndexSettings, vectors: Floats, normalise: bool) -> Self:
        """Return an empty index for vectors (N, width), trained on some of them where it wants that."""
        index, n = empty_faiss(settings, vectors.shape[1]), len(vectors)
        lists = package("faiss", "faiss").try_extract_index_ivf(index)
        if not index.is_trained:
            most = max(LEARN_FROM, 64 * lists.nlist if lists else 0)
            chosen = np.unique(np.linspace(0, n - 1, min(n, most)).astype(np.int64))
            part = np.ascontiguousarray(narrow(vectors[chosen], index.d, normalise))
            try:
                index.train(part)
            except RuntimeError as error:
                raise StepwellError(
                    f"FAISS can't train {settings.faiss!r} on {n:,} passages ({_reason(error)}): where they are too "
                    "few, take fewer lists and shorter codes. For small collections exact search is faster anyway."
                ) from None
        return cls(index)

    @classmethod
    def read(cls, settings: IndexSettings, path: Path) -> Self:
        """Open the package's file."""
        index = package("faiss", "faiss").read_index(str(path))
        _set(index, "nprobe", settings.effort)
        _set(index, "efSearch", settings.effort)
        return cls(index)

    def add(self, start: int, vectors: Floats) -> None:
        """Add the passages from row ``start`` on, (n, D)."""
        self._index.add(vectors)

    def search(self, queries: Floats, k: int) -> Found:
        """Return rows and scores, both (Q, k); -1 and -inf pad."""
        scores, rows = self._index.search(queries, k)
        return rows.astype(np.int32), np.where(rows < 0, -np.inf, scores).astype(np.float32)

    def save(self, path: Path) -> None:
        """Write the package's file."""
        self._faiss.write_index(self._index, str(path))


def empty_faiss(settings: IndexSettings, width: int) -> Any:
    """Return FAISS's own index, empty, of a factory string; a string that makes none is refused."""
    faiss, string, d = package("faiss", "faiss"), str(settings.faiss), settings.dimension or width
    try:
        index = faiss.index_factory(d, string, faiss.METRIC_INNER_PRODUCT)
        lists, reason = faiss.try_extract_index_ivf(index), ""
        if index.metric_type != faiss.METRIC_INNER_PRODUCT:
            reason = "it does not rank by inner products"
        elif "IDMap" in string:
            reason = "passages go by their row numbers, without IDMap"
        elif lists is not None and lists.nlist < 1:
            reason = "there must be a list at least"
    except RuntimeError as error:
        reason = _reason(error)
    if reason:
        raise StepwellError(
            f"FAISS makes no index of the string {string!r} (--faiss) for vectors of {d} dimensions: {reason}. Write "
            "one of its factory strings, such as HNSW16,SQfp16 or IVF1024,PQ48, with a number behind PQ that divides "
            "the dimensions."
        )
    _set(index, "efConstruction", BUILD_EFFORT)
    return index


def _set(index: Any, name: str, value: int) -> None:
    """Set a parameter of FAISS where the index has such a one."""
    with contextlib.suppress(RuntimeError):
        package("faiss", "faiss").ParameterSpace().set_index_parameter(index, name, value)


def _reason(error: RuntimeError) -> str:
    """Return what FAISS says, without the names and lines of its own source in front."""
    return str(error).rpartition(": ")[2].strip().rstrip(".")[:200]
