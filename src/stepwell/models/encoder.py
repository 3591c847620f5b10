"""A dual encoder: a SentenceTransformer, and what a retriever needs to know of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling
from torch import Tensor, nn

from stepwell import distributed
from stepwell.display import SILENT, Progress
from stepwell.models.build import fingerprint, open_sentence_transformer, save_model
from stepwell.models.engines.backends import Net, text_samples
from stepwell.models.engines.inference import Inference, Opened
from stepwell.models.engines.machine import BATCH_COST, TRIM, few_shapes, forward_all, trim
from stepwell.models.tokens import (
    Features,
    Template,
    Tokens,
    batches_by_length,
    cheapest_batches,
    filled,
    round_up,
    row_step,
)

Side = Literal["query", "document"]

FEW = 256
"""Texts up to which the cheapest cut into batches is looked for: it costs a tenth of a millisecond for ten of them."""


class Encoder:
    """Embeds queries and passages.

    Parameters
    ----------
    model
        Any SentenceTransformer; a Router routes the two sides ("query", "document") to two towers.
    scale
        Factor from a similarity to a logit; 20 for cosine and 1 for dot product when None.
    """

    kind = "dual-encoder"

    def __init__(self, model: SentenceTransformer, scale: float | None = None) -> None:
        self.model = model.to(distributed.state().device)
        self.gradient_cache = False  # set by a training that asks for it
        self.tokenizer = model.tokenizer
        self.template = Template.of(self.tokenizer)
        self.limit = int(model.max_seq_length or 512)
        self.cosine = "cos" in str(model.similarity_fn_name or "cosine").lower()
        self.scale = scale if scale is not None else (20.0 if self.cosine else 1.0)
        self.unpooled = self._unpooled()
        name = "sentence_embedding"
        net = Net(self.model, name, self._samples, lambda: self.fingerprint, self.cosine, unpooled=self.unpooled)
        self.inference = Inference(net, "embedding")

    @classmethod
    def open(cls, place: str | Path, scale: float | None = None) -> Encoder:
        """Open a sentence-transformers directory or hub name."""
        return cls(open_sentence_transformer(str(place)), scale)

    def save(self, folder: Path) -> None:
        """Write a sentence-transformers directory."""
        save_model(self.model, folder)

    @property
    def dimension(self) -> int:
        """Width D of the vectors."""
        return int(self.model.get_embedding_dimension() or 0)

    @property
    def fingerprint(self) -> str:
        """The sha256 of the model, token limit, prompts and similarity."""
        prompts = [self.prompt("query"), self.prompt("document")]
        return fingerprint(self.model, self.limit, prompts, self.cosine, self.scale)

    def prompt(self, side: Side) -> str:
        """Return what the model wants in front of its texts, as sentence-transformers would choose it."""
        names = ("query",) if side == "query" else ("document", "passage", "corpus")
        prompts = self.model.prompts or {}
        return next((prompt for name in names if (prompt := prompts.get(name))), "")

    def _unpooled(self) -> dict[str, int]:
        """Return how many first tokens of a side's texts are a prompt that the model leaves out of the pooling."""
        if all(module.include_prompt for module in self.model.modules() if isinstance(module, Pooling)):
            return {}
        before, sides = len(self.template.single[0]), get_args(Side)
        return {side: before + len(self.tokenise([""], side)[0]) for side in sides if self.prompt(side)}

    def room(self, side: Side) -> int:
        """Return how many tokens of a text count, specials apart; sentence-transformers cuts both sides alike."""
        return self.limit - self.template.overhead[0]

    def tokenise(self, texts: Sequence[str], side: Side) -> Tokens:
        """Tokenise texts of one side in memory."""
        return Tokens.build(self.tokenizer, texts, self.room(side), self.prompt(side))

    def embed(self, tokens: Tokens, rows: NDArray[np.int64], side: Side) -> Tensor:
        """Embed the texts ``rows`` with the gradient, shared over the processes: (B, D), normalised for cosine."""
        lengths = tokens.lengths_of(rows) + self.template.overhead[0]
        return forward_all(lengths, lambda items: self._forward(tokens, rows[items], side), self.gradient_cache)

    def _forward(self, tokens: Tokens, rows: NDArray[np.int64], side: Side) -> Tensor:
        device = distributed.state().device
        features: dict[str, Any] = self.template.texts(tokens, rows, self.limit, few_shapes())
        features = {name: tensor.to(device) for name, tensor in features.items()}
        if side in self.unpooled:
            features["prompt_length"] = self.unpooled[side]
        vectors: Tensor = self.model(features, task=side)["sentence_embedding"]
        return nn.functional.normalize(vectors.float(), dim=1) if self.cosine else vectors

    def _samples(self, task: str | None) -> list[Features]:
        side: Side = "document" if task is None else cast(Side, task)
        return text_samples(self.template, lambda texts: self.tokenise(texts, side), self.limit)

    def encode(
        self,
        tokens: Tokens,
        side: Side,
        rows: NDArray[np.int64] | None = None,
        progress: Progress = SILENT,
    ) -> NDArray[np.float32]:
        """Embed texts without a gradient, on this process: all, or ``rows`` (B,).

        Returns
        -------
        NDArray
            Shape (B, D), normalised for cosine.
        """
        rows = np.arange(len(tokens)) if rows is None else rows
        specials = self.template.overhead[0] * len(rows)
        opened = self.inference.open(int(tokens.lengths_of(rows).sum()) + specials, side)
        return self.encode_by(opened, tokens, rows, progress)

    def encode_by(
        self,
        opened: Opened,
        tokens: Tokens,
        rows: NDArray[np.int64] | None = None,
        progress: Progress = SILENT,
    ) -> NDArray[np.float32]:
        """Embed texts in a way that the caller has opened: (B, D)."""
        rows = np.arange(len(tokens)) if rows is None else rows
        lengths = tokens.lengths_of(rows) + self.template.overhead[0]
        out = np.empty((len(rows), self.dimension), dtype=np.float32)
        few = len(rows) <= FEW
        rounded = few_shapes() or not few
        widths, budget = round_up(lengths) if rounded else lengths, opened.token_budget
        batches = cheapest_batches(widths, budget, BATCH_COST) if few else list(batches_by_length(widths, budget))
        steps = [self._row_step(len(batch), int(widths[batch].max()), budget, rounded, few) for batch in batches]
        shapes = map(filled, batches, steps)
        padded = (self.template.texts(tokens, rows[batch], self.limit, rounded) for batch in shapes)
        for batch, vectors in zip(batches, opened.runner.each(padded), strict=True):
            out[batch] = vectors[: len(batch)].numpy()
            progress.advance(len(batch))
            if not few:
                trim(TRIM)
        return out

    @staticmethod
    def _row_step(rows: int, width: int, budget: int, rounded: bool, few: bool) -> int:
        """Return of what the rows of a batch are to be a multiple."""
        if not rounded:
            return 1
        return row_step(width, budget) if not few else 4 if rows > 4 else 1
