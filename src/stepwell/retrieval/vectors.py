"""The vectors of a collection under one encoder: written block by block, resumed, memory-mapped."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stepwell import distributed
from stepwell.collection import Collection
from stepwell.errors import StepwellError
from stepwell.models.encoder import Encoder, Side

BLOCK = 2_048
"""Texts a block: what an interrupted job loses at most, on each process."""


@dataclass(frozen=True)
class Vectors:
    """Vectors of all passages and of some queries, normalised where the similarity is cosine.

    Parameters
    ----------
    passages
        Shape (N, D), float32, memory-mapped; row = passage row.
    queries
        Shape (Q, D), float32, memory-mapped; the queries ``query_rows``.
    query_rows
        Query rows, sorted, shape (Q,), int32.
    scale
        Factor from a dot product of these vectors to a logit.
    """

    passages: NDArray[np.float32]
    queries: NDArray[np.float32]
    query_rows: NDArray[np.int32]
    scale: float

    @classmethod
    def open(cls, folder: Path) -> Vectors:
        """Map what :func:`write_vectors` wrote.

        Raises
        ------
        StepwellError
            When a file of it is missing or cut off.
        """
        try:
            facts = json.loads((folder / "vectors.json").read_text(encoding="utf-8"))
            load = [np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("passages", "queries")]
            return cls(load[0], load[1], np.load(folder / "query_rows.npy"), float(facts["scale"]))
        except (OSError, ValueError, KeyError, EOFError) as error:
            raise StepwellError(
                f"the vectors in {folder} are missing or damaged ({error}). For a run, the same `stepwell run` makes "
                "them again; in the cache, delete the folder."
            ) from error

    def of_queries(self, rows: NDArray[np.int32]) -> NDArray[np.float32]:
        """Return the vectors of query rows, shape (len(rows), D); a row that was not encoded raises KeyError."""
        places = np.searchsorted(self.query_rows, rows)
        found = places < len(self.query_rows)
        if not found.all() or not np.array_equal(self.query_rows[places], rows):
            raise KeyError("a query without a vector was asked for")
        return np.asarray(self.queries[places])

    def scores(self, query_rows: NDArray[np.int32], passage_rows: NDArray[np.int32]) -> NDArray[np.float32]:
        """Return the logits of each query's own passages, shape (Q, K) as ``passage_rows``; padding (-1) gets 0."""
        out = np.empty(passage_rows.shape, dtype=np.float32)
        for start in range(0, len(query_rows), 1024):
            part = slice(start, start + 1024)
            candidates = self.passages[np.maximum(passage_rows[part], 0)]  # (q, K, D)
            out[part] = np.einsum("qd,qkd->qk", self.of_queries(query_rows[part]), candidates)
        return np.where(passage_rows >= 0, out * np.float32(self.scale), 0).astype(np.float32)


def write_vectors(
    encoder: Encoder,
    collection: Collection,
    query_rows: NDArray[np.int32],
    folder: Path,
    advance: Callable[[int], None] = lambda n: None,
) -> None:
    """Encode all passages and the queries ``query_rows`` into ``folder``, going on after what is there.

    Memory stays at one block of texts, whatever the collection. Processes take blocks in turn.
    """
    rows = np.unique(query_rows).astype(np.int32)
    _write(
        encoder,
        "document",
        collection.n_passages,
        collection.passages_slice,
        folder / "passages.npy",
        advance,
    )

    def queries(start: int, stop: int) -> list[str]:
        return collection.query_texts(rows[start:stop])

    _write(encoder, "query", len(rows), queries, folder / "queries.npy", advance)
    if distributed.is_main():
        np.save(folder / "query_rows.npy", rows)
        facts = {"scale": encoder.scale, "cosine": encoder.cosine, "dimension": encoder.dimension}
        (folder / "vectors.json").write_text(json.dumps(facts), encoding="utf-8")
    distributed.barrier()


def _reserve(path: Path) -> None:
    """Take the room of a file now: a disk that is full later would kill the process at a write to mapped memory."""
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


def _write(
    encoder: Encoder,
    side: Side,
    size: int,
    texts: Callable[[int, int], list[str]],
    path: Path,
    advance: Callable[[int], None],
) -> None:
    shape = (size, encoder.dimension)
    done = path.with_suffix(f".{distributed.rank()}-of-{distributed.world_size()}.done")
    if distributed.is_main() and not path.is_file():
        draft = path.with_suffix(".draft")
        np.lib.format.open_memmap(draft, mode="w+", dtype=np.float32, shape=shape).flush()
        _reserve(draft)
        draft.replace(path)
    distributed.barrier()
    out = np.lib.format.open_memmap(path, mode="r+")
    finished = int(done.read_text()) if done.is_file() else 0
    for number, start in enumerate(range(0, size, BLOCK)):
        stop = min(start + BLOCK, size)
        mine = number % distributed.world_size() == distributed.rank()
        if number < finished or not mine:
            advance((stop - start) if number < finished else 0)
            continue
        out[start:stop] = encoder.encode(encoder.tokenise(texts(start, stop), side), side)
        out.flush()
        draft = done.with_suffix(".draft")
        draft.write_text(str(number + 1))
        draft.replace(done)
        advance(stop - start)
    distributed.barrier()
