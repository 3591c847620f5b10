"""usearch and FAISS behind one protocol; imported where an index of theirs is made or opened, and only there.

FAISS and torch in one process clash on some platforms (two OpenMP runtimes); usearch and torch do not.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from stepwell.errors import MissingPackage, StepwellError

Kind = Literal["usearch", "faiss-hnsw", "faiss-ivfpq"]
Storage = Literal["f32", "bf16", "f16", "i8", "b1"]
Found = tuple[NDArray[np.int32], NDArray[np.float32]]

BLOCK = 1 << 16
"""Passages handed over at a time."""
LINKS, BUILD_EFFORT = 16, 128
"""Of a graph: neighbours of a passage, and candidates that are looked at for them."""
CENTROIDS = 256
"""Of each part of a product-quantised vector: one byte."""


@dataclass(frozen=True)
class Settings:
    """How an index is made and searched.

    Parameters
    ----------
    kind
        A graph (HNSW, Malkov and Yashunin 2016) by usearch or FAISS, or FAISS's inverted lists of product-quantised
        vectors (IVF-PQ, Jégou et al. 2011): the smallest, for corpora that don't fit into memory otherwise.
    storage
        Number type of a graph's vectors. ``i8`` is for vectors of length 1; ``b1``, their signs, for usearch.
    effort
        Candidates looked at in a search, at least as many as are asked for; of IVF-PQ: lists read.
    lists
        Lists of IVF-PQ; 0: four times the root of the number of passages.
    code
        Bytes of a vector in IVF-PQ; has to divide the width.
    """

    kind: Kind = "usearch"
    storage: Storage = "bf16"
    effort: int = 64
    lists: int = 0
    code: int = 48


class Index(Protocol):
    """An index of one of the packages."""

    def add(self, start: int, vectors: NDArray[np.float32]) -> None:
        """Add the passages from row ``start`` on, (n, D)."""

    def search(self, queries: NDArray[np.float32], k: int) -> Found:
        """Return rows and scores, both (Q, k); -1 and -inf pad."""

    def save(self, path: Path) -> None:
        """Write the package's file."""


def make(settings: Settings, passages: NDArray[np.float32]) -> Index:
    """Return an empty index for passages (N, D), trained on some of them where its kind wants that.

    Raises
    ------
    StepwellError
        When the package is not installed, or the settings don't fit the vectors.
    """
    if settings.storage == "i8" and settings.kind == "usearch":
        lengths = np.linalg.norm(passages[:BLOCK], axis=1)
        if not np.allclose(lengths, 1, atol=1e-3):
            raise StepwellError(
                f"int8 of usearch is for vectors of length 1, and these have lengths from {lengths.min():g} to "
                f"{lengths.max():g} (their model does not normalise): take --precision fp16, or --kind exact."
            )
    return _Usearch.make(settings, passages) if settings.kind == "usearch" else _Faiss.make(settings, passages)


def read(settings: Settings, path: Path) -> Index:
    """Open the package's file.

    Raises
    ------
    StepwellError
        When the package is not installed; what it raises itself where the file is damaged.
    """
    return _Usearch.read(settings, path) if settings.kind == "usearch" else _Faiss.read(settings, path)


def _package(module: str, extra: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingPackage(
            f"this index needs the package {extra}, which can't be imported here ({error}): "
            f"pip install 'stepwell[{extra}]'. Exact search needs nothing.",
            extra,
            extra,
        ) from error


class _Usearch:
    def __init__(self, index: Any, storage: Storage) -> None:
        self._index, self._bits = index, storage == "b1"

    @classmethod
    def make(cls, settings: Settings, passages: NDArray[np.float32]) -> _Usearch:
        return cls(
            _package("usearch.index", "usearch").Index(
                ndim=passages.shape[1],
                metric={"i8": "cos", "b1": "hamming"}.get(settings.storage, "ip"),  # of i8, ip has no fixed scale
                dtype=settings.storage,
                connectivity=LINKS,
                expansion_add=BUILD_EFFORT,
            ),
            settings.storage,
        )

    @classmethod
    def read(cls, settings: Settings, path: Path) -> _Usearch:
        index = _package("usearch.index", "usearch").Index.restore(str(path), view=True)  # mapped, not loaded
        if index is None:
            raise OSError(f"{path.name} can't be read")
        index.expansion_search = settings.effort
        return cls(index, settings.storage)

    def add(self, start: int, vectors: NDArray[np.float32]) -> None:
        keys = np.arange(start, start + len(vectors), dtype=np.uint64)
        self._index.add(keys, self._form(vectors), threads=torch.get_num_threads())

    def _form(self, vectors: NDArray[np.float32]) -> NDArray[Any]:
        return np.packbits(vectors > 0, axis=1) if self._bits else vectors

    def search(self, queries: NDArray[np.float32], k: int) -> Found:
        found = self._index.search(self._form(queries), k, threads=torch.get_num_threads())
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
        self._index.save(str(path))


class _Faiss:
    def __init__(self, index: Any) -> None:
        self._faiss, self._index = _package("faiss", "faiss"), index
        self._faiss.omp_set_num_threads(torch.get_num_threads())

    @classmethod
    def make(cls, settings: Settings, passages: NDArray[np.float32]) -> _Faiss:
        faiss, (n, width) = _package("faiss", "faiss"), passages.shape
        if settings.kind == "faiss-hnsw":
            stored = {"f32": "Flat", "bf16": "SQbf16", "f16": "SQfp16", "i8": "SQ8"}[settings.storage]
            index = faiss.index_factory(width, f"HNSW{LINKS},{stored}", faiss.METRIC_INNER_PRODUCT)
            index.hnsw.efConstruction = BUILD_EFFORT
            learn_from = BLOCK
        else:
            if n < CENTROIDS:
                raise StepwellError(
                    f"{n} passages are too few for faiss-ivfpq: {CENTROIDS} are the least. For small collections exact "
                    "search is faster anyway."
                )
            lists = settings.lists or max(1, min(round(4 * n**0.5), n // 39))
            spec = f"IVF{lists},PQ{settings.code}x8np"  # np: no polysemous training, which is slow and of no use here
            index = faiss.index_factory(width, spec, faiss.METRIC_INNER_PRODUCT)
            learn_from = 64 * max(lists, CENTROIDS)
        if not index.is_trained:
            chosen = np.unique(np.linspace(0, n - 1, min(n, learn_from)).astype(np.int64))
            index.train(np.ascontiguousarray(passages[chosen], dtype=np.float32))
        return cls(index)

    @classmethod
    def read(cls, settings: Settings, path: Path) -> _Faiss:
        faiss = _package("faiss", "faiss")
        index = faiss.read_index(str(path))
        name = "efSearch" if settings.kind == "faiss-hnsw" else "nprobe"
        faiss.ParameterSpace().set_index_parameter(index, name, settings.effort)
        return cls(index)

    def add(self, start: int, vectors: NDArray[np.float32]) -> None:
        self._index.add(vectors)

    def search(self, queries: NDArray[np.float32], k: int) -> Found:
        scores, rows = self._index.search(queries, k)
        return rows.astype(np.int32), np.where(rows < 0, -np.inf, scores).astype(np.float32)

    def save(self, path: Path) -> None:
        self._faiss.write_index(self._index, str(path))
