"""Texts tokenised once, on disk: memory-mapped, and shared by all models with the same tokenizer.

A store is a folder with two flat files: ``ids.bin`` (the ids of all texts behind one another) and ``offsets.npy``
(where each text begins), two bytes a token and eight a text for a BERT vocabulary. While it is made, ``lengths.bin``
grows beside it block by block, and a killed run goes on after the last block that is whole.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from stepwell import distributed
from stepwell.collection import Collection
from stepwell.collection.unlabelled import Unlabelled
from stepwell.display import progress
from stepwell.files import cache, locked, remove, whole, writing
from stepwell.models.model import Model
from stepwell.models.preparation import OwnTokenizer
from stepwell.models.tokens import BLOCK, Side, Tokens, id_type, tokenise_block, tokenizer_fingerprint

LEAST = 512
"""Tokens that a store keeps of each text at least, so that models with other limits share it."""

Texts = Callable[[int, int], list[str]]
"""Gives the texts of rows [start, stop)."""


def side_tokens(collection: Collection, model: Model[Any], side: Side) -> Tokens:
    """Return the tokens of all queries or passages, cut where the model cuts them."""

    def queries(start: int, stop: int) -> list[str]:
        return collection.query_texts(range(start, stop))

    fetch = collection.query_texts if side == "query" else collection.passage_texts
    texts, size = (
        (queries, collection.n_queries) if side == "query" else (collection.passages_slice, collection.n_passages)
    )
    name = f"{collection.name}-{collection.texts_fingerprint[:16]}-{side}"
    return model.with_texts(_tokens(name, texts, size, model, side), fetch)


def unlabelled_tokens(unlabelled: Unlabelled, model: Model[Any], side: Side) -> Tokens:
    """Return the tokens of texts from elsewhere, cut where the model cuts them."""
    name = f"{unlabelled.name}-{unlabelled.fingerprint[:16]}"
    return _tokens(name, unlabelled.slice, len(unlabelled), model, side)


def both_tokens(collection: Collection, model: Model[Any]) -> tuple[Tokens, Tokens]:
    """Return the tokens of all queries and of all passages."""
    return side_tokens(collection, model, "query"), side_tokens(collection, model, "document")


def _tokens(name: str, texts: Texts, size: int, model: Model[Any], side: Side) -> Tokens:
    tokenizer, limit, prompt = model.cutting(side)
    return open_tokens(cache() / "tokens", name, tokenizer, texts, size, limit, prompt)


def open_tokens(root: Path, name: str, tokenizer: Any, texts: Texts, size: int, limit: int, prompt: str = "") -> Tokens:
    """Map the tokens of ``size`` texts, cut to ``limit`` each, tokenising those that the store in ``root`` has not.

    The same name is the same texts, for good (a fingerprint and a side). Tokenizers that cut alike share a store.
    """
    # What sentence-transformers prepares ends with the template's end, behind the cut: no other limit shares it.
    kept = limit if isinstance(tokenizer, OwnTokenizer) else max(LEAST, 1 << (limit - 1).bit_length())
    facts = json.dumps([name, tokenizer_fingerprint(tokenizer), prompt, kept])
    folder = root / f"{name}-{hashlib.sha256(facts.encode()).hexdigest()[:16]}"
    tokens = _map(folder, tokenizer, size, kept)
    if tokens is None and distributed.is_main():
        with locked(folder), writing(folder), _all_cores():
            if _map(folder, tokenizer, size, kept) is None:
                _make(folder, tokenizer, texts, size, kept, prompt)
    distributed.barrier()
    tokens = tokens or _map(folder, tokenizer, size, kept)
    if tokens is None:
        raise OSError(f"the tokens in {folder} can't be read back: the disk may be failing")
    return tokens.cut(limit)


def _map(folder: Path, tokenizer: Any, size: int, limit: int) -> Tokens | None:
    """Map a finished store; None when it is absent, unfinished or damaged."""
    try:
        offsets = np.load(folder / "offsets.npy", mmap_mode="r")
        kind = id_type(tokenizer)
        if offsets.shape != (size + 1,) or (folder / "ids.bin").stat().st_size != int(offsets[-1]) * kind.itemsize:
            return None
        empty = not int(offsets[-1])  # an empty file can't be mapped
        ids = np.zeros(0, kind) if empty else np.memmap(folder / "ids.bin", dtype=kind, mode="r")
        return Tokens(ids, offsets, limit)
    except (OSError, ValueError, EOFError):
        return None


@contextmanager
def _all_cores() -> Iterator[None]:
    """Let tokenizers use all cores (or RAYON_NUM_THREADS) meanwhile: else the command line keeps them to one.

    They read this at each call. One core is right for the few texts of a query or a batch, and safe where processes
    are forked; other processes wait for this one alone.
    """
    name = "TOKENIZERS_PARALLELISM"
    before = os.environ.get(name)
    os.environ[name] = "true"
    try:
        yield
    finally:
        del os.environ[name]
        if before is not None:
            os.environ[name] = before


def _make(folder: Path, tokenizer: Any, texts: Texts, size: int, limit: int, prompt: str) -> None:
    """Tokenise block by block, from the last whole block of an interrupted run on."""
    kind = id_type(tokenizer)
    if (folder / "offsets.npy").is_file():  # it was finished once and does not fit: nothing of it can be trusted
        remove(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "ids.bin").open("ab") as ids, (folder / "lengths.bin").open("ab") as lengths:
        done = _whole_blocks(folder, kind.itemsize, size)
        lengths.truncate(4 * done)
        ids.truncate(int(np.fromfile(folder / "lengths.bin", dtype=np.uint32).sum()) * kind.itemsize)
        with progress(size, "tokenising", done) as bar:
            for start in range(done, size, BLOCK):
                stop = min(start + BLOCK, size)
                block, each = tokenise_block(tokenizer, texts(start, stop), limit, prompt)
                ids.write(block.tobytes())
                ids.flush()  # ids first: lengths say what is whole
                lengths.write(each.tobytes())
                lengths.flush()
                bar.advance(stop - start)
        os.fsync(ids.fileno())
    offsets = np.zeros(size + 1, dtype=np.int64)
    np.cumsum(np.fromfile(folder / "lengths.bin", dtype=np.uint32), out=offsets[1:])
    with whole(folder / "offsets.npy") as draft:
        np.save(draft, offsets)
    (folder / "lengths.bin").unlink()


def _whole_blocks(folder: Path, width: int, size: int) -> int:
    """Return how many texts, in whole blocks, an interrupted run left with all their ids."""
    lengths = np.fromfile(folder / "lengths.bin", dtype=np.uint32)[:size]
    ends = np.cumsum(lengths, dtype=np.int64) * width
    whole = int(np.searchsorted(ends, (folder / "ids.bin").stat().st_size, side="right"))
    return whole // BLOCK * BLOCK
