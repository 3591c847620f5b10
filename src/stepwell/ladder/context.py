"""What every stage of a run may look at: the recipe, the collection, its splits, the store of scores."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from stepwell import distributed
from stepwell.collection import Collection, Splits
from stepwell.errors import StepwellError
from stepwell.models.encoder import Encoder, Side
from stepwell.models.reranker import Reranker
from stepwell.models.tokens import Tokens
from stepwell.recipe import CrossEncoderTeacher, DualEncoderTeacher, Recipe
from stepwell.scores import ScoreStore


@dataclass
class Context:
    """The fixed surroundings of a run."""

    recipe: Recipe
    collection: Collection
    splits: Splits
    store_root: Path
    _tokens: dict[tuple[Any, ...], Tokens] = field(default_factory=dict)

    @property
    def query_rows(self) -> NDArray[np.int32]:
        """All queries that the run uses: train, dev and test."""
        parts = (self.splits.train, self.splits.dev, self.splits.test)
        return np.unique(np.concatenate([part.query_rows for part in parts]))

    def teacher(self, name: str) -> DualEncoderTeacher | CrossEncoderTeacher:
        """Return the recipe's teacher."""
        return self.recipe.teachers[name]

    def encoder(self, folder: Path, scale: float | None = None) -> Encoder:
        """Open the dual encoder that a stage left in ``folder``."""
        return Encoder.open(folder / "model", scale)

    def reranker(self, folder: Path) -> Reranker:
        """Open the cross-encoder that a stage left in ``folder``."""
        return Reranker.open(folder / "model", self.recipe.tokens.pair)

    def store(self, reranker: Reranker) -> ScoreStore:
        """Open the store of this teacher's scores on this collection."""
        return ScoreStore.open(self.store_root, reranker.fingerprint, self.collection.fingerprint)

    def texts(self, encoder: Encoder, side: Side) -> Tokens:
        """Return the tokens of all texts of one side, cut as the recipe says for training."""
        tokens = self.recipe.tokens
        limit = tokens.query if side == "query" else tokens.passage
        key = (tokenizer_name(encoder.tokenizer), encoder.prompt(side), side, limit)
        if key not in self._tokens:
            texts = self.collection.query_texts() if side == "query" else self.collection.passage_texts()
            self._tokens[key] = encoder.tokenise(texts, side, limit)
        return self._tokens[key]

    def pair_texts(self, reranker: Reranker) -> tuple[Tokens, Tokens]:
        """Return the tokens of all queries and passages for a cross-encoder."""
        key = (tokenizer_name(reranker.tokenizer), "pair", reranker.limit)
        if (*key, "query") not in self._tokens:
            self._tokens[(*key, "query")] = reranker.tokenise(self.collection.query_texts())
            self._tokens[(*key, "document")] = reranker.tokenise(self.collection.passage_texts())
        return self._tokens[(*key, "query")], self._tokens[(*key, "document")]


def tokenizer_name(tokenizer: Any) -> str:
    """Return a name that two tokenizers share when they cut every text alike, wherever they were loaded from."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return str(tokenizer.name_or_path)
    facts = json.loads(backend.to_str())
    facts.pop("truncation", None)
    facts.pop("padding", None)
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def score_missing(
    ctx: Context,
    reranker: Reranker,
    query_rows: NDArray[np.int32],
    passage_rows: NDArray[np.int32],
    advance: Any = lambda share, note: None,
) -> NDArray[np.float32]:
    """Return the reranker's logits of pairs, scoring just those that its store has not (padding -1 gets 0).

    Processes score shares of what is missing; the main one writes. What is scored is kept every
    few hundred pairs, so an interruption loses little.

    Parameters
    ----------
    query_rows, passage_rows
        Shapes (Q,) and (Q, K).

    Returns
    -------
    NDArray
        Shape (Q, K), float32.
    """
    store = ctx.store(reranker)
    filled = passage_rows >= 0
    queries = np.broadcast_to(query_rows[:, None], passage_rows.shape)
    todo_q, todo_p = store.missing(queries[filled], passage_rows[filled])
    if len(todo_q):
        _fill(ctx, reranker, store, todo_q, todo_p, advance)
        distributed.barrier()
        store = ctx.store(reranker)
    out = np.zeros(passage_rows.shape, dtype=np.float32)
    out[filled] = store.lookup(queries[filled], passage_rows[filled])
    if np.isnan(out).any():
        raise StepwellError(
            "scores that were just written are not in the store; another program may have removed them."
        )
    return out


def _fill(
    ctx: Context,
    reranker: Reranker,
    store: ScoreStore,
    todo_q: NDArray[Any],
    todo_p: NDArray[Any],
    advance: Any,
) -> None:
    queries, passages = ctx.pair_texts(reranker)
    world, block = distributed.world_size(), 2_048
    for start in range(0, len(todo_q), block * world):
        part = slice(start, start + block * world)
        q, p = todo_q[part], todo_p[part]
        share = np.resize(np.arange(len(q)), -(-len(q) // world) * world)[distributed.rank() :: world]
        scores = reranker.score(queries, passages, q[share].astype(np.int64), p[share].astype(np.int64))
        gathered = distributed.gather_rows(torch.from_numpy(scores)).numpy().reshape(world, -1).T.ravel()[: len(q)]
        if distributed.is_main():
            store.add(q, p, gathered)
        advance(min(1.0, (start + len(q)) / len(todo_q)), f"{start + len(q):,} of {len(todo_q):,} pairs")
