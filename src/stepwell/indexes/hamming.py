"""Exact search among bits: the passages whose bits differ least from a query's."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

PAIRS = 1 << 20
"""Pairs of a query and a passage that are compared at a time: what is held in memory."""
PASSAGES = 1 << 16
_COUNT: Any = getattr(np, "bitwise_count", None)  # NumPy 2
_ONES = np.array([bin(byte).count("1") for byte in range(256)], dtype=np.uint8)


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
            apart = distances(part, passages[offset : offset + PASSAGES])  # (q, n)
            keys = (apart << 32) | np.arange(offset, offset + apart.shape[1])
            best = np.concatenate([best, _smallest(keys, k)], axis=1)
            best = _smallest(best, k)
        found[start : start + len(part)] = np.sort(best, axis=1)
    return (found & 0xFFFFFFFF).astype(np.int32), (found >> 32).astype(np.int32)


def distances(queries: NDArray[np.uint8], passages: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return in how many bits each query (Q, W) differs from each passage (N, W), shape (Q, N)."""
    left, right = _words(queries), _words(passages)
    apart = np.zeros((len(queries), len(passages)), dtype=np.int64)
    for mine, theirs in zip(left.T, right.T, strict=True):
        different = mine[:, None] ^ theirs
        apart += _ONES[different] if _COUNT is None else _COUNT(different)
    return apart


def _words(bits: NDArray[np.uint8]) -> NDArray[Any]:
    """Return packed bits in the largest numbers that they fill."""
    bits = np.ascontiguousarray(bits)
    return bits.view(np.uint64) if _COUNT is not None and bits.shape[1] % 8 == 0 else bits


def _smallest(keys: NDArray[np.int64], k: int) -> NDArray[np.int64]:
    """Return the ``k`` smallest of each row (q, n), in any order."""
    return keys if keys.shape[1] <= k else np.partition(keys, k - 1, axis=1)[:, :k]
