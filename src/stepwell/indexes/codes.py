"""Vectors in fp32, fp16, int8 or bits, on disk: written block by block, searched exactly, scored by row.

Queries stay in fp32 (asymmetric scores, as Yamada et al., arXiv 2106.00882, score their candidates): only the search
among bits turns a query into bits too. int8 and bits are those of sentence-transformers' ``quantize_embeddings``.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sentence_transformers.util.quantization import quantize_embeddings

from stepwell.display import SILENT, Progress
from stepwell.files import whole
from stepwell.indexes.settings import Precision
from stepwell.retrieval.run import Floats, Found
from stepwell.retrieval.search import pair_scores, top_k
from stepwell.retrieval.shards import write_array

BLOCK = 1 << 14  # passages that are turned at a time
PAIRS, PASSAGES = 1 << 20, 1 << 16  # of a query and a passage whose bits are compared at a time; and passages
_COUNT: Any = getattr(np, "bitwise_count", None)  # NumPy 2
_ONES = np.array([bin(byte).count("1") for byte in range(256)], dtype=np.uint8)
LEVELS = 255  # steps of int8 between the smallest and the largest value of a dimension


def narrow(vectors: Floats, dimension: int, normalise: bool) -> Floats:
    """Return the leading ``dimension`` numbers of vectors (B, D), of length 1 again with ``normalise``.

    >>> narrow(np.float32([[0.6, 0.0, 0.8]]), 2, normalise=True).tolist()
    [[1.0, 0.0]]
    """
    if dimension == vectors.shape[1]:
        return np.asarray(vectors, dtype=np.float32)
    cut = np.array(vectors[:, :dimension], dtype=np.float32)
    if normalise:
        cut /= np.maximum(np.linalg.norm(cut, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    return cut


def narrowed(vectors: Floats, dimension: int, normalise: bool) -> Iterator[tuple[int, Floats]]:
    """Yield :func:`narrow` of blocks of vectors (N, D), which may be memory-mapped, with their first rows."""
    for start in range(0, len(vectors), BLOCK):
        yield start, narrow(vectors[start : start + BLOCK], dimension, normalise)


@dataclass(frozen=True)
class Codes:
    """Vectors of all passages in one precision."""

    precision: Precision
    dimension: int  # numbers D of a vector
    values: NDArray[Any]  # (N, D), or (N, D / 8 rounded up) of packed bits; memory-mapped
    ranges: Floats | None = None  # of int8: smallest and largest value of each dimension, (2, D)

    @classmethod
    def open(cls, folder: Path, precision: Precision, dimension: int, count: int | None = None) -> Self:
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

    def search(self, queries: Floats, k: int) -> Found:
        """Return the ``k`` best passages of queries (Q, D), best first, of all passages: rows and scores, (Q, k)."""
        if self.precision == "binary":
            rows, apart = nearest(to_bits(queries), self.values, k)
            return rows, (self.dimension - 2 * apart).astype(np.float32)
        factor, shift = self._line(queries)
        rows, scores = top_k(queries * factor, self.values, k)
        return rows, scores + shift

    def scores(self, queries: Floats, rows: NDArray[np.int32]) -> Floats:
        """Return the inner products of queries in fp32 with their own passages, (Q, m) as ``rows``; -inf for row -1."""
        factor, shift = self._line(queries)
        bits = self.dimension if self.precision == "binary" else None
        return pair_scores(queries * factor, self.values, rows, bits) + shift

    def _line(self, queries: Floats) -> tuple[Floats, Floats]:
        """Return a factor (D,) for the queries and what to add to their scores (Q, 1).

        A bit b stands for ``2 b - 1``, a number of int8 for the middle of its step: ``low + (code + 128.5) * step``.
        """
        if self.precision == "binary":
            return np.full(1, 2, np.float32), -queries.sum(axis=1, keepdims=True)
        if self.ranges is None:
            return np.ones(1, np.float32), np.zeros((1, 1), np.float32)
        low, high = self.ranges
        step = (high - low) / np.float32(LEVELS)
        return step, (queries @ (low + np.float32(128.5) * step))[:, None]


def to_bits(vectors: Floats) -> NDArray[np.uint8]:
    """Return the signs of vectors (B, D) as packed bits (B, D / 8 rounded up): 1 is above zero."""
    return np.packbits(vectors > 0, axis=-1)


def ranges_of(blocks: Iterable[Floats]) -> Floats:
    """Return the smallest and the largest value of each dimension in blocks of vectors (B, D), shape (2, D)."""
    ends = [np.stack([block.min(axis=0), block.max(axis=0)]) for block in blocks]
    return np.stack([np.min(ends, axis=0)[0], np.max(ends, axis=0)[1]])


def write_codes(
    vectors: Floats, folder: Path, precision: Precision, dimension: int, normalise: bool, progress: Progress = SILENT
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
            turned: NDArray[Any] = to_bits(block) if precision == "binary" else block
            if precision == "int8":
                turned = np.asarray(quantize_embeddings(block, "int8", ranges=ranges))
            out[start : start + len(block)] = turned  # fp16 is rounded here
            progress.advance(len(block))
        out.flush()
        del out
    return Codes.open(folder, precision, dimension)


def _form(precision: Precision, dimension: int) -> tuple[tuple[int], np.dtype[Any]]:
    """Return the shape and the number type of one passage."""
    if precision == "binary":
        return (-(-dimension // 8),), np.dtype(np.uint8)
    return (dimension,), np.dtype({"fp32": np.float32, "fp16": np.float16, "int8": np.int8}[precision])


def nearest(
    queries: NDArray[np.uint8], passages: NDArray[np.uint8], k: int
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Return the ``k`` passages, all where there are fewer, of the smallest Hamming distance to each query.

    Queries are packed bits (Q, W), passages (N, W), which may be memory-mapped; rows and distances are (Q, k), best
    first, equal ones by row.

    >>> rows, distances = nearest(np.uint8([[0b1100]]), np.uint8([[0b0011], [0b1000], [0b1101]]), k=2)
    >>> rows.tolist(), distances.tolist()
    ([[1, 2]], [[1, 1]])
    """
    k = min(k, len(passages))
    step = max(1, PAIRS // max(1, min(len(passages), PASSAGES)))
    found = np.empty((len(queries), k), dtype=np.int64)
    for start in range(0, len(queries), step) if k else ():
        part = queries[start : start + step]
        best = np.empty((len(part), 0), dtype=np.int64)  # distance << 32 | row: sorted as wanted
        for offset in range(0, len(passages), PASSAGES):
            apart = _distances(part, passages[offset : offset + PASSAGES])  # (q, n)
            keys = (apart << 32) | np.arange(offset, offset + apart.shape[1])
            best = np.concatenate([best, keys], axis=1)
            best = best if best.shape[1] <= k else np.partition(best, k - 1, axis=1)[:, :k]
        found[start : start + len(part)] = np.sort(best, axis=1)
    return (found & 0xFFFFFFFF).astype(np.int32), (found >> 32).astype(np.int32)


def _distances(queries: NDArray[np.uint8], passages: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return in how many bits each query (Q, W) differs from each passage (N, W), shape (Q, N)."""
    left, right = np.ascontiguousarray(queries), np.ascontiguousarray(passages)
    if _COUNT is not None and left.shape[1] % 8 == 0:
        left, right = left.view(np.uint64), right.view(np.uint64)
    apart = np.zeros((len(queries), len(passages)), dtype=np.int64)
    for mine, theirs in zip(left.T, right.T, strict=True):
        different = mine[:, None] ^ theirs
        apart += _ONES[different] if _COUNT is None else _COUNT(different)
    return apart
