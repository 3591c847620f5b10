"""The vectors of a collection under one encoder: written shard by shard, resumed, memory-mapped."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from stepwell import distributed
from stepwell.collection import Collection
from stepwell.collection.unlabelled import Unlabelled
from stepwell.display import SILENT, Progress
from stepwell.errors import RunError
from stepwell.files import writing
from stepwell.models.encoder import Encoder, Side
from stepwell.models.token_store import side_tokens, unlabelled_tokens
from stepwell.models.tokens import Tokens
from stepwell.retrieval.shards import Shards, write_array

BLOCK = 2_048
"""Texts a shard: what an interrupted job loses at most, on each process."""


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
            raise RunError(
                f"the vectors in {folder} are missing or damaged ({error}). For a run, the same `stepwell run` makes "
                "them again; in the cache, delete the folder."
            ) from error

    def has_queries(self, rows: NDArray[np.int32]) -> bool:
        """Return whether all of these query rows were encoded."""
        return bool(np.isin(rows, self.query_rows).all())

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


class Block(NamedTuple):
    """Texts that make one shard: passage rows from ``start`` to ``stop``, or places in a list of query rows."""

    side: Side
    start: int
    stop: int


def block_encoder(
    encoder: Encoder, collection: Collection, query_rows: NDArray[np.int32]
) -> Callable[[Block], NDArray[np.float32]]:
    """Return what embeds the texts of a block, shape (stop - start, D), tokenising just these: for a worker."""

    def encode(block: Block) -> NDArray[np.float32]:
        side, start, stop = block
        texts = (
            collection.passages_slice(start, stop)
            if side == "document"
            else collection.query_texts(query_rows[start:stop])
        )
        return encoder.encode(encoder.tokenise(texts, side), side)

    return encode


def _stored_encoder(
    encoder: Encoder, collection: Collection, query_rows: NDArray[np.int32]
) -> Callable[[Block], NDArray[np.float32]]:
    """Return what embeds the texts of a block from the tokens of the whole collection, which are made once."""
    passages = side_tokens(collection, encoder, "document")
    queries = side_tokens(collection, encoder, "query")

    def encode(block: Block) -> NDArray[np.float32]:
        rows = np.arange(block.start, block.stop)
        if block.side == "document":
            return encoder.encode(passages, block.side, rows)
        return encoder.encode(queries, block.side, query_rows[rows].astype(np.int64))

    return encode


class Draft:
    """Vectors on their way to disk: the blocks of all passages and of the queries ``query_rows``, made by anyone."""

    def __init__(self, encoder: Encoder, collection: Collection, query_rows: NDArray[np.int32], folder: Path) -> None:
        self.folder = folder
        self.query_rows = np.unique(query_rows).astype(np.int32)
        self.facts = {"scale": encoder.scale, "cosine": encoder.cosine, "dimension": encoder.dimension}
        self._shards: dict[Side, Shards] = {
            "document": Shards(folder / "passages.npy", collection.n_passages, encoder.dimension, BLOCK),
            "query": Shards(folder / "queries.npy", len(self.query_rows), encoder.dimension, BLOCK),
        }

    def blocks(self) -> Iterator[Block]:
        """Yield all blocks, in order."""
        for side, shards in self._shards.items():
            for number in range(len(shards)):
                yield Block(side, *shards.bounds(number))

    def has(self, block: Block) -> bool:
        """Return whether the vectors of a block are there."""
        return self._shards[block.side].has(block.start // BLOCK)

    def keep(self, block: Block, vectors: NDArray[np.float32]) -> None:
        """Keep the vectors of a block."""
        self._shards[block.side].write(block.start // BLOCK, vectors)

    def finish(self) -> None:
        """Join the shards into what :meth:`Vectors.open` maps."""
        for shards in self._shards.values():
            shards.join()
        write_array(self.folder / "query_rows.npy", self.query_rows)
        facts = self.folder / "vectors.draft"
        facts.write_text(json.dumps(self.facts), encoding="utf-8")
        facts.replace(self.folder / "vectors.json")  # the last: where it is, all is
        shutil.rmtree(self.folder / "shards", ignore_errors=True)


def write_vectors(
    encoder: Encoder,
    collection: Collection,
    query_rows: NDArray[np.int32],
    folder: Path,
    progress: Progress = SILENT,
) -> None:
    """Encode all passages and the queries ``query_rows`` into ``folder``, making just what is missing there.

    Memory stays at one block of texts, whatever the collection. Processes take blocks in turn, and what others made
    before, however many they were, is not made again.
    """
    draft = Draft(encoder, collection, query_rows, folder)
    encode = _stored_encoder(encoder, collection, draft.query_rows)
    for number, block in enumerate(draft.blocks()):
        mine = number % distributed.world_size() == distributed.rank()  # its owner alone looks whether it is there
        if mine and not draft.has(block):
            vectors = encode(block)
            with writing(folder):
                draft.keep(block, vectors)
        progress.advance(block.stop - block.start)
    distributed.barrier()
    if distributed.is_main():
        with writing(folder):
            draft.finish()
    distributed.barrier()


def write_queries(
    encoder: Encoder,
    collection: Collection,
    rows: NDArray[np.int32],
    target: Path,
    progress: Progress = SILENT,
) -> None:
    """Encode queries alone into the array ``target`` (len(rows), D), as :func:`write_vectors` does."""
    _write_side(encoder, side_tokens(collection, encoder, "query"), rows.astype(np.int64), "query", target, progress)


def write_unlabelled(
    encoder: Encoder, unlabelled: Unlabelled, side: Side, target: Path, progress: Progress = SILENT
) -> None:
    """Encode texts from elsewhere into the array ``target`` (N, D), as :func:`write_vectors` does a collection's."""
    tokens = unlabelled_tokens(unlabelled, encoder, side)
    _write_side(encoder, tokens, np.arange(len(unlabelled)), side, target, progress)


def _write_side(
    encoder: Encoder,
    tokens: Tokens,
    rows: NDArray[np.int64],
    side: Side,
    target: Path,
    progress: Progress,
) -> None:
    shards = Shards(target, len(rows), encoder.dimension, BLOCK)
    for number in range(len(shards)):
        start, stop = shards.bounds(number)
        if number % distributed.world_size() == distributed.rank() and not shards.has(number):
            shards.write(number, encoder.encode(tokens, side, rows[start:stop]))
        progress.advance(stop - start)
    distributed.barrier()
    if distributed.is_main():
        shards.join()
        shutil.rmtree(target.parent / "shards", ignore_errors=True)
    distributed.barrier()
