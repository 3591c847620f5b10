"""Vectors in fp32, fp16, int8 or bits, on disk: written block by block, searched exactly, scored by row.

Queries stay in fp32 (asymmetric scores, as Yamada et al., arXiv 2106.00882, score their candidates): only the search
among bits turns a query into bits too. int8 and bits are those of sentence-transformers' ``quantize_embeddings``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sentence_transformers.util.quantization import quantize_embeddings

from stepwell.display import SILENT, Progress
from stepwell.files import whole
from stepwell.indexes.hamming import nearest
from stepwell.indexes.settings import Precision
from stepwell.retrieval.run import Found
from stepwell.retrieval.search import PAIRS, pair_scores, top_k
from stepwell.retrieval.shards import write_array

BLOCK = 1 << 14
"""Passages that are turned at a time."""
LEVELS = 255
"""Steps of int8 between the smallest and the largest value of a dimension."""


def narrow(vectors: NDArray[np.float32], dimension: int, normalise: bool) -> NDArray[np.float32]:
    """Return the leading ``dimension`` numbers of vectors (B, D), of length 1 again with ``normalise``.

    Examples
    --------
    >>> narrow(np.float32([[0.6, 0.0, 0.8]]), 2, normalise=True).tolist()
    [[1.0, 0.0]]
    """
    if dimension == vectors.shape[1]:
        return np.asarray(vectors, dtype=np.float32)
    cut = np.array(vectors[:, :dimension], dtype=np.float32)
    if normalise:
        cut /= np.maximum(np.linalg.norm(cut, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    return cut


def narrowed(
    vectors: NDArray[np.float32], dimension: int, normalise: bool
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Yield :func:`narrow` of blocks of vectors (N, D), which may be memory-mapped, with their first rows."""
    for start in range(0, len(vectors), BLOCK):
        yield start, narrow(vectors[start : start + BLOCK], dimension, normalise)


@dataclass(frozen=True)
class Codes:
    """Vectors of all passages in one precision."""

    precision: Precision
    dimension: int  # numbers D of a vector
    values: NDArray[Any]  # (N, D), or (N, D / 8 rounded up) of packed bits; memory-mapped
    ranges: NDArray[np.float32] | None = None  # of int8: smallest and largest value of each dimension, (2, D)

    @classmethod
    def open(cls, folder: Path, precision: Precision, dimension: int, count: int | None = None) -> Codes:
        """Map what :func:`write_codes` wrote of ``count`` vectors; ValueError or OSError when it is damaged."""
        values = np.load(folder / f"{precision}.npy", mmap_mode="r")
        ranges = np.load(folder / "ranges.npy") if precision == "int8" else None
        codes = cls(precision, dimension, values, ranges)
        shape, kind = _form(precision, dimension)
        if values.shape[1:] != shape or values.dtype != kind or (ranges is not None and ranges.shape != (2, dimension)):
            raise ValueError(f"{precision}.npy holds {values.dtype} of shape {values.shape}")
        if count is not None and len(values) != count:
            raise ValueError(f"{precision}.npy holds {len(values)} vectors, not {count}")
        return codes

    def search(self, queries: NDArray[np.float32], k: int) -> Found:
        """Return the ``k`` best passages of queries (Q, D), best first, of all passages: rows and scores, (Q, k)."""
        if self.precision == "binary":
            rows, apart = nearest(to_bits(queries), self.values, k)
            return rows, (self.dimension - 2 * apart).astype(np.float32)
        factor, shift = self._line(queries)
        rows, scores = top_k(queries * factor, self.values, k)
        return rows, scores + shift

    def scores(self, queries: NDArray[np.float32], rows: NDArray[np.int32]) -> NDArray[np.float32]:
        """Return the inner products of queries in fp32 with their own passages, (Q, m) as ``rows``; -inf for row -1."""
        if self.precision == "binary":
            return self._bit_scores(queries, rows)
        factor, shift = self._line(queries)
        return pair_scores(queries * factor, self.values, rows) + shift

    def _line(self, queries: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return a factor (D,) for the queries and what to add to their scores (Q, 1).

        A number of int8 stands for the middle of its step: ``low + (code + 128.5) * step``.
        """
        if self.ranges is None:
            return np.ones(1, np.float32), np.zeros((1, 1), np.float32)
        low, high = self.ranges
        step = (high - low) / np.float32(LEVELS)
        return step, (queries @ (low + np.float32(128.5) * step))[:, None]

    def _bit_scores(self, queries: NDArray[np.float32], rows: NDArray[np.int32]) -> NDArray[np.float32]:
        scores = np.empty(rows.shape, dtype=np.float32)
        step = max(1, PAIRS // max(1, rows.shape[1]))
        for start in range(0, len(queries), step):
            part = slice(start, start + step)
            bits = np.unpackbits(self.values[np.maximum(rows[part], 0)], axis=2, count=self.dimension)  # (q, m, D)
            ones = np.einsum("qd,qmd->qm", queries[part], bits, dtype=np.float32)
            scores[part] = 2 * ones - queries[part].sum(axis=1, keepdims=True)
        scores[rows < 0] = -np.inf
        return scores


def to_bits(vectors: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return the signs of vectors (B, D) as packed bits (B, D / 8 rounded up): 1 is above zero."""
    return np.packbits(vectors > 0, axis=-1)


def ranges_of(blocks: Iterable[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Return the smallest and the largest value of each dimension in blocks of vectors (B, D), shape (2, D)."""
    ends = [np.stack([block.min(axis=0), block.max(axis=0)]) for block in blocks]
    return np.stack([np.min(ends, axis=0)[0], np.max(ends, axis=0)[1]])


def write_codes(
    vectors: NDArray[np.float32],
    folder: Path,
    precision: Precision,
    dimension: int,
    normalise: bool,
    progress: Progress = SILENT,
) -> Codes:
    """Write vectors (N, width) in a precision into ``folder``, cut to ``dimension``; they are read block by block."""
    folder.mkdir(exist_ok=True)
    ranges = None
    if precision == "int8":  # on all of them: nothing is out of its range
        ranges = ranges_of(block for _, block in narrowed(vectors, dimension, normalise))
        write_array(folder / "ranges.npy", ranges)
    shape, kind = _form(precision, dimension)
    with whole(folder / f"{precision}.npy") as draft:
        out = np.lib.format.open_memmap(draft, mode="w+", dtype=kind, shape=(len(vectors), *shape))
        for start, block in narrowed(vectors, dimension, normalise):
            out[start : start + len(block)] = _turn(block, precision, ranges)
            progress.advance(len(block))
        out.flush()
        del out
    return Codes.open(folder, precision, dimension)


def _form(precision: Precision, dimension: int) -> tuple[tuple[int], np.dtype[Any]]:
    """Return the shape and the number type of one passage."""
    if precision == "binary":
        return (-(-dimension // 8),), np.dtype(np.uint8)
    return (dimension,), np.dtype({"fp32": np.float32, "fp16": np.float16, "int8": np.int8}[precision])


def _turn(block: NDArray[np.float32], precision: Precision, ranges: NDArray[np.float32] | None) -> NDArray[Any]:
    if precision == "int8":
        return np.asarray(quantize_embeddings(block, "int8", ranges=ranges))
    return to_bits(block) if precision == "binary" else block.astype(_form(precision, 1)[1], copy=False)
