"""A dual encoder: a SentenceTransformer, and what a retriever needs to know of it."""

from pathlib import Path
from typing import Any, Self, get_args

import numpy as np
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer
from torch import Tensor, nn

from stepwell.display import SILENT, Progress
from stepwell.errors import RunError
from stepwell.models.engines.backends import Net
from stepwell.models.engines.inference import Inference, Opened
from stepwell.models.engines.machine import few_shapes
from stepwell.models.model import Model
from stepwell.models.opening import compares_by_cosine, named, open_sentence_transformer
from stepwell.models.preparation import LONG, SHORT, Bags, prepare_texts
from stepwell.models.tokens import MOST, Features, Rows, Side, Tokens

FEW = 256
"""Texts up to which the cheapest cut into batches is looked for: it costs a tenth of a millisecond for ten of them."""


class Encoder(Model[SentenceTransformer]):
    """Embeds queries and passages by any SentenceTransformer; a Router routes the two sides to two towers."""

    kind = "dual-encoder"

    def __init__(self, model: SentenceTransformer, scale: float | None = None) -> None:
        super().__init__(model)
        self.limit = int(min(model.max_seq_length or 512, MOST))
        limits = {part.max_seq_length for part in model.modules() if isinstance(part, Transformer)}
        if len(limits) > 1:
            raise RunError(
                f"can't use {named(model)}: its towers cut texts at {' and '.join(map(str, sorted(limits)))} tokens, "
                "and stepwell cuts both sides alike. Give both towers one `max_seq_length`, and save the model again."
            )
        self.cosine = compares_by_cosine(model, named(model))
        # The factor from a similarity to a logit.
        self.scale = scale if scale is not None else (20.0 if self.cosine else 1.0)
        self.preparation = prepare_texts(model, {side: self.prompt(side) for side in get_args(Side)}, self.limit)
        self.template = self.preparation.template
        more, name = self.preparation.more, "sentence_embedding"
        self.width: int | None = model.truncate_dim
        net = Net(self.model, name, self._samples, lambda: self.fingerprint, self.cosine, width=self.width, more=more)
        self.inference = Inference(net, "embedding", static=isinstance(self.template, Bags))

    @classmethod
    def open(cls, place: str | Path, scale: float | None = None) -> Self:
        """Open a sentence-transformers directory or hub name."""
        return cls(open_sentence_transformer(str(place)), scale)

    @property
    def dimension(self) -> int:
        """Width D of the vectors."""
        return int(self.model.get_embedding_dimension() or 0)

    def _facts(self) -> tuple[object, ...]:
        return self.limit, [self.prompt("query"), self.prompt("document")], self.cosine, self.scale, self.width

    def prompt(self, side: Side) -> str:
        """Return what the model wants in front of its texts, as sentence-transformers would choose it."""
        names = ("query",) if side == "query" else ("document", "passage", "corpus")
        prompts = self.model.prompts or {}
        return next((prompts[name] or "" for name in names if name in prompts), "")

    def room(self, side: Side) -> int:
        """Return how many tokens of a text count, specials apart; sentence-transformers cuts both sides alike."""
        return self.limit - self.template.overhead[0]

    def cutting(self, side: Side) -> tuple[Any, int, str]:
        """Return what cuts the texts of a side into tokens, how many of them count, and what is put in front."""
        return self.preparation.tokenizers[side], self.room(side), self.preparation.prompts[side]

    def embed(self, tokens: Tokens, rows: Rows, side: Side) -> Tensor:
        """Embed the texts ``rows`` with the gradient, shared over the processes: (B, D), normalised for cosine."""
        lengths = tokens.lengths_of(rows) + self.template.overhead[0]
        return self._with_gradient(lengths, lambda items: self._forward(tokens, rows[items], side))

    def _forward(self, tokens: Tokens, rows: Rows, side: Side) -> Tensor:
        features = self.template.texts(tokens, rows, self.limit, few_shapes())
        out = self._run(features, self.preparation.more[side], task=side)
        vectors: Tensor = out["sentence_embedding"][:, : self.width]
        return nn.functional.normalize(vectors.float(), dim=1) if self.cosine else vectors

    def _samples(self, task: Side | None) -> list[Features]:
        tokens = [self.tokenise(texts, task or "document") for texts in (SHORT, LONG)]
        return [self.template.texts(part, np.arange(len(part)), self.limit) for part in tokens]

    def encode(
        self, tokens: Tokens, side: Side, rows: Rows | None = None, progress: Progress = SILENT
    ) -> NDArray[np.float32]:
        """Embed texts without a gradient, on this process, all or ``rows`` (B,): (B, D), normalised for cosine."""
        rows = np.arange(len(tokens)) if rows is None else rows
        specials = self.template.overhead[0] * len(rows)
        opened = self.inference.open(int(tokens.lengths_of(rows).sum()) + specials, side)
        return self.encode_by(opened, tokens, rows, progress)

    def encode_by(
        self, opened: Opened, tokens: Tokens, rows: Rows | None = None, progress: Progress = SILENT
    ) -> NDArray[np.float32]:
        """Embed texts in a way that the caller has opened: (B, D)."""
        rows = np.arange(len(tokens)) if rows is None else rows
        lengths = tokens.lengths_of(rows) + self.template.overhead[0]
        out = np.empty((len(rows), self.dimension), dtype=np.float32)

        def pad(items: Rows, rounded: bool) -> Features:
            return self.template.texts(tokens, rows[items], self.limit, rounded)

        opened.run_all(lengths, pad, out, progress, FEW)
        return out
