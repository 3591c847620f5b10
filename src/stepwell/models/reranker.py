"""A cross-encoder: a sentence-transformers CrossEncoder that gives raw logits of query-passage pairs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sentence_transformers import CrossEncoder
from torch import Tensor

from stepwell import distributed
from stepwell.display import SILENT, Progress
from stepwell.models.build import fingerprint, most_tokens, open_cross_encoder, save_model, transformer_of
from stepwell.models.engines.backends import Net, pair_samples
from stepwell.models.engines.inference import Inference
from stepwell.models.engines.machine import TRIM, few_shapes, forward_all, trim
from stepwell.models.tokens import Features, Template, Tokens, batches_by_length, filled, round_up, row_step

Rows = NDArray[np.int64]


class Reranker:
    """Scores pairs; never through a sigmoid, which would squeeze what a student has to learn into 0..1.

    Parameters
    ----------
    model
        A CrossEncoder with one output.
    limit
        Tokens of the longest pair, specials included; the model's own when None.
    """

    kind = "cross-encoder"

    def __init__(self, model: CrossEncoder, limit: int | None = None) -> None:
        self.model = model.to(distributed.state().device)
        self.gradient_cache = False  # set by a training that asks for it
        self.tokenizer = model.tokenizer
        self.template = Template.of(self.tokenizer)
        wanted = int(limit or model.max_seq_length or 512)
        self.limit = min(wanted, most_tokens(transformer_of(model).auto_model) or wanted)
        net = Net(self.model, "scores", self._samples, lambda: self.fingerprint)
        self.inference = Inference(net, "scoring")

    @classmethod
    def open(cls, place: str | Path, limit: int | None = None) -> Reranker:
        """Open a sentence-transformers directory or hub name."""
        return cls(open_cross_encoder(str(place)), limit)

    def save(self, folder: Path) -> None:
        """Write a sentence-transformers directory."""
        save_model(self.model, folder)

    @property
    def fingerprint(self) -> str:
        """The sha256 of the model and its token limit."""
        return fingerprint(self.model, self.limit)

    @property
    def room(self) -> int:
        """Tokens of a query and a passage together, specials apart."""
        return self.limit - self.template.overhead[1]

    def tokenise(self, texts: list[str]) -> Tokens:
        """Tokenise queries or passages in memory, to be paired later."""
        return Tokens.build(self.tokenizer, texts, self.room)

    def lengths(self, queries: Tokens, passages: Tokens, query_rows: Rows, passage_rows: Rows) -> NDArray[np.int64]:
        """Return the tokens of each pair, shape (B,)."""
        query = np.minimum(queries.lengths_of(query_rows), self.room // 2)
        return np.minimum(query + passages.lengths_of(passage_rows), self.room) + self.template.overhead[1]

    def logits(self, queries: Tokens, passages: Tokens, query_rows: Rows, passage_rows: Rows) -> Tensor:
        """Score pairs with the gradient, shared over the processes: (B,)."""
        lengths = self.lengths(queries, passages, query_rows, passage_rows)
        return forward_all(
            lengths,
            lambda items: self._forward(queries, passages, query_rows[items], passage_rows[items]),
            self.gradient_cache,
        )

    def _forward(self, queries: Tokens, passages: Tokens, query_rows: Rows, passage_rows: Rows) -> Tensor:
        device = distributed.state().device
        features: dict[str, Any] = self.template.pairs(
            queries, passages, query_rows, passage_rows, self.limit, few_shapes()
        )
        features = {name: tensor.to(device) for name, tensor in features.items()}
        scores: Tensor = self.model(features)["scores"]
        return scores.reshape(len(query_rows))

    def _samples(self, task: str | None) -> list[Features]:
        return pair_samples(self.template, lambda texts: self.tokenise(list(texts)), self.limit)

    def score(
        self,
        queries: Tokens,
        passages: Tokens,
        query_rows: Rows,
        passage_rows: Rows,
        progress: Progress = SILENT,
    ) -> NDArray[np.float32]:
        """Score pairs without a gradient, on this process: (B,)."""
        lengths = self.lengths(queries, passages, query_rows, passage_rows)
        opened = self.inference.open(int(lengths.sum()))
        out = np.empty(len(query_rows), dtype=np.float32)
        widths, budget = round_up(lengths), opened.token_budget
        batches = list(batches_by_length(widths, budget))
        shapes = (filled(batch, row_step(int(widths[batch].max()), budget)) for batch in batches)
        padded = (
            self.template.pairs(queries, passages, query_rows[rows], passage_rows[rows], self.limit, rounded=True)
            for rows in shapes
        )
        for batch, logits in zip(batches, opened.runner.each(padded), strict=True):
            out[batch] = logits[: len(batch)].numpy()
            progress.advance(len(batch))
            trim(TRIM)
        return out
