"""The vectors of a collection under one encoder: written shard by shard, resumed, memory-mapped."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from stepwell import distributed
from stepwell.collection import Collection
from stepwell.display import SILENT, Progress
from stepwell.errors import RunError
from stepwell.files import read_json, remove, write_text, writing
from stepwell.models.encoder import Encoder
from stepwell.models.token_store import side_tokens
from stepwell.models.tokens import Side, Tokens
from stepwell.retrieval.run import Floats
from stepwell.retrieval.shards import Shards, write_array

Rows = NDArray[np.int32] | range
BLOCK = 2_048  # texts a shard: what an interrupted job loses at most, on each process


@dataclass(frozen=True)
class Vectors:
    """Vectors of all passages and of some queries, normalised where the similarity is cosine."""

    passages: Floats  # (N, D), memory-mapped; row = passage row
    queries: Floats  # (Q, D), memory-mapped; the queries ``query_rows``
    query_rows: NDArray[np.int32]  # (Q,), sorted
    scale: float  # factor from a dot product of these vectors to a logit

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Map what :func:`write_vectors` wrote; files that are missing or cut off are refused."""
        try:
            facts = read_json(folder / "vectors.json")
            load = [np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("passages", "queries")]
            return cls(load[0], load[1], np.load(folder / "query_rows.npy"), float(facts["scale"]))
        except (OSError, ValueError, KeyError, EOFError) as error:
            raise RunError(
                f"the vectors in {folder} are missing or damaged ({error}). For a run, the same `stepwell run` makes "
                "them again; in the cache, delete the folder."
            ) from error

    def of_queries(self, rows: NDArray[np.int32]) -> Floats:
        """Return the vectors of query rows, shape (len(rows), D); a row that was not encoded raises KeyError."""
        places = np.searchsorted(self.query_rows, rows)
        found = places < len(self.query_rows)
        if not found.all() or not np.array_equal(self.query_rows[places], rows):
            raise KeyError("a query without a vector was asked for")
        return np.asarray(self.queries[places])

    def score(self, queries: NDArray[np.int32], candidates: NDArray[np.int32], progress: Progress = SILENT) -> Floats:
        """Return the logits of candidates (Q, K), as a teacher does; padding (-1) gets 0."""
        out = np.empty(candidates.shape, dtype=np.float32)
        for start in range(0, len(queries), 1024):
            part = slice(start, start + 1024)
            passages = self.passages[np.maximum(candidates[part], 0)]  # (q, K, D)
            out[part] = np.einsum("qd,qkd->qk", self.of_queries(queries[part]), passages)
        return np.where(candidates >= 0, out * np.float32(self.scale), 0).astype(np.float32)


class Block(NamedTuple):
    """Texts that make one shard: passage rows from ``start`` to ``stop``, or places in a list of query rows."""

    side: Side
    start: int
    stop: int


def encode_block(encoder: Encoder, collection: Collection, query_rows: NDArray[np.int32], block: Block) -> Floats:
    """Return the vectors of the texts of a block, shape (stop - start, D), tokenising just these: for a worker."""
    side, start, stop = block
    passages = side == "document"
    texts = collection.passages_slice(start, stop) if passages else collection.query_texts(query_rows[start:stop])
    return encoder.encode(encoder.tokenise(texts, side), side)


class Draft:
    """Vectors on their way to disk: the blocks of all passages and of the queries ``query_rows``, made by anyone."""

    def __init__(self, encoder: Encoder, collection: Collection, query_rows: NDArray[np.int32], folder: Path) -> None:
        self.folder = folder
        self.query_rows = np.unique(query_rows).astype(np.int32)  # sorted, each once
        self.facts = {"scale": encoder.scale, "cosine": encoder.cosine, "dimension": encoder.dimension}
        self.shards: dict[Side, Shards] = {
            "document": Shards(folder / "passages.npy", collection.n_passages, encoder.dimension, BLOCK),
            "query": Shards(folder / "queries.npy", len(self.query_rows), encoder.dimension, BLOCK),
        }

    def blocks(self) -> list[Block]:
        """Return all blocks, in order."""
        return [Block(side, *shards.bounds(at)) for side, shards in self.shards.items() for at in range(len(shards))]

    def has(self, block: Block) -> bool:
        """Return whether the vectors of a block are there."""
        return self.shards[block.side].has(block.start // BLOCK)

    def keep(self, block: Block, vectors: Floats) -> None:
        """Keep the vectors of a block."""
        self.shards[block.side].write(block.start // BLOCK, vectors)

    def finish(self) -> None:
        """Join the shards into what :meth:`Vectors.open` maps."""
        for shards in self.shards.values():
            shards.join()
        write_array(self.folder / "query_rows.npy", self.query_rows)
        write_text(self.folder / "vectors.json", json.dumps(self.facts))  # the last: where it is, all is
        remove(self.folder / "shards")


def write_vectors(
    encoder: Encoder, collection: Collection, query_rows: NDArray[np.int32], folder: Path, progress: Progress = SILENT
) -> None:
    """Encode all passages and the queries ``query_rows`` into ``folder``, making just what is missing there.

    Memory stays at one block of texts, whatever the collection. Processes take blocks in turn, and what others made
    before, however many they were, is not made again. After an error of the disk what is whole stays.
    """
    draft = Draft(encoder, collection, query_rows, folder)
    rows: dict[Side, Rows] = {"document": range(collection.n_passages), "query": draft.query_rows}
    for side, shards in draft.shards.items():  # tokens are made once, for all models
        _encode_missing(encoder, side_tokens(collection, encoder, side), rows[side], shards, side, progress)
    _finish(draft.finish, folder)


def write_texts(
    encoder: Encoder, tokens: Tokens, rows: Rows, side: Side, target: Path, progress: Progress = SILENT
) -> None:
    """Encode texts ``rows`` alone into the array ``target`` (len(rows), D), as :func:`write_vectors` does."""
    shards = Shards(target, len(rows), encoder.dimension, BLOCK)
    _encode_missing(encoder, tokens, rows, shards, side, progress)
    _finish(shards.finish, target)


def _encode_missing(
    encoder: Encoder, tokens: Tokens, rows: Rows, shards: Shards, side: Side, progress: Progress
) -> None:
    """Write the shards that are missing of texts ``rows``; each process has its own share of them."""
    for number in range(len(shards)):
        start, stop = shards.bounds(number)
        mine = number % distributed.world_size() == distributed.rank()  # its owner alone looks whether it is there
        if mine and not shards.has(number):
            vectors = encoder.encode(tokens, side, np.asarray(rows[start:stop], dtype=np.int64))
            _refuse_no_numbers(vectors, side)
            with writing(shards.target.parent):
                shards.write(number, vectors)
        progress.advance(stop - start)


def _refuse_no_numbers(vectors: Floats, side: Side) -> None:
    """Refuse vectors (B, D) of which one holds NaN or infinity: it would be found nowhere, and teach NaN."""
    wrong = int((~np.isfinite(vectors).all(axis=1)).sum())
    if wrong:
        what = "passages" if side == "document" else "queries"
        raise RunError(
            f"the vectors of {wrong:,} of {len(vectors):,} {what} hold values that are no numbers: the model that "
            "makes them is damaged or its training has diverged, or it runs in a number type with too small a range. "
            "Encode again with STEPWELL_PRECISION=fp32, or take another model."
        )


def _finish(finish: Callable[[], None], place: Path) -> None:
    """Call what joins the shards, in one process, once all have written theirs."""
    distributed.barrier()
    if distributed.is_main():
        with writing(place):
            finish()
    distributed.barrier()
