"""What every stage of a run may look at: the recipe, the collection, its splits, the store of scores."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stepwell.collection import Collection, Splits
from stepwell.errors import StepwellError
from stepwell.models.encoder import Encoder, Side
from stepwell.models.reranker import Reranker
from stepwell.models.token_store import pair_tokens, side_tokens
from stepwell.models.tokens import Tokens
from stepwell.recipe import CrossEncoderTeacher, DualEncoderTeacher, Recipe
from stepwell.scores import ScoreStore
from stepwell.scoring import Advance, Rows, Scorer, missing, score_into


@dataclass
class Context:
    """The fixed surroundings of a run."""

    recipe: Recipe
    collection: Collection
    splits: Splits
    store_root: Path

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
        """Return the tokens of all texts of one side, cut as the recipe says."""
        tokens = self.recipe.tokens
        return side_tokens(self.collection, encoder, side, tokens.query if side == "query" else tokens.passage)

    def pair_texts(self, reranker: Reranker) -> tuple[Tokens, Tokens]:
        """Return the tokens of all queries and passages for a cross-encoder."""
        return pair_tokens(self.collection, reranker)


def score_missing(
    ctx: Context,
    reranker: Reranker,
    query_rows: NDArray[np.int32],
    passage_rows: NDArray[np.int32],
    advance: Any = lambda share, note: None,
) -> NDArray[np.float32]:
    """Return the reranker's logits of pairs, scoring just those that its store has not (padding -1 gets 0).

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
    todo = missing(store, queries[filled], passage_rows[filled])
    total, done = len(todo[0]), 0

    def told(n: int) -> None:
        nonlocal done
        done += n
        advance(done / total, f"{done:,} of {total:,} pairs")

    if total:
        score_into(store, _scorer(reranker, *ctx.pair_texts(reranker)), *todo, told)
        store = ctx.store(reranker)
    out = np.zeros(passage_rows.shape, dtype=np.float32)
    out[filled] = store.lookup(queries[filled], passage_rows[filled])
    if np.isnan(out).any():
        raise StepwellError(
            "scores that were just written are not in the store; another program may have removed them."
        )
    return out


def _scorer(reranker: Reranker, queries: Tokens, passages: Tokens) -> Scorer:
    def score(query_rows: Rows, passage_rows: Rows, advance: Advance) -> NDArray[np.float32]:
        return reranker.score(queries, passages, query_rows.astype(np.int64), passage_rows.astype(np.int64), advance)

    return score
