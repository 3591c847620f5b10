"""Late interaction (ColBERT): a vector for each token, and the score of a pair is MaxSim.

``s(q, p) = sum_i max_j q_i . p_j`` over the tokens i of the query and j of the passage. Source: Khattab and Zaharia
2020, "ColBERT: Efficient and Effective Passage Search via Contextualized Late Interaction over BERT" (arXiv
2004.12832).
"""

from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers import MultiVectorEncoder
from sentence_transformers.util.similarity import maxsim_pairwise
from torch import Tensor, nn

from stepwell.display import SILENT, Progress
from stepwell.errors import RunError
from stepwell.models.engines.machine import autocast, token_budget
from stepwell.models.model import Model
from stepwell.models.opening import named, open_multi_vector, transformer_of
from stepwell.models.preparation import ODD, SHORT, difference
from stepwell.models.tokens import Features, Rows, Side, Template, Tokens, batches_by_length

Vectors = tuple[Tensor, Tensor]
"""Vectors of tokens (B, L, D), and which of them count (B, L)."""


class LateInteraction(Model[MultiVectorEncoder]):
    """Scores pairs by MaxSim, as raw sums over the query's tokens (their mean where the model was made for that)."""

    kind = "late-interaction"

    def __init__(self, model: MultiVectorEncoder, query: int, passage: int) -> None:
        super().__init__(model)
        self.template = Template.of(self.tokenizer)
        transformer: Any = transformer_of(model)
        self.expansion: dict[str, Any] | None = transformer.query_expansion
        own = int(model.max_seq_length or 512)
        self.limits: dict[Side, int] = {  # tokens of the longest text, specials included; no more than the model's own
            "query": min(query, transformer.query_length or own, own),
            "document": min(passage, transformer.document_length or own, own),
        }
        if self.expansion is not None:  # such a model reads all queries at a width of its own
            fixed = self.expansion["strategy"] == "fixed"
            self.limits["query"] = max(int(self.expansion["length"]), 0 if fixed else self.limits["query"])
        self.mean = model.similarity_fn_name == "meanmaxsim"
        for side in self.limits:
            self._check(side)

    @classmethod
    def open(cls, place: str | Path, query: int, passage: int) -> Self:
        """Open a sentence-transformers directory or hub name."""
        return cls(open_multi_vector(str(place)), query, passage)

    def _facts(self) -> tuple[object, ...]:
        words = [getattr(module, "skiplist_words", None) for module in self.model]
        prompts = [self.prompt("query"), self.prompt("document")]
        return sorted(self.limits.items()), prompts, self.expansion, words, self.mean

    def _check(self, side: Side) -> None:
        """Refuse a model whose texts sentence-transformers prepares in another way."""
        texts = [text for text in (*SHORT, *ODD) if len(self.tokenise([text], side)[0]) < self.room(side)]
        theirs = self.model.preprocess(texts, prompt=self.prompt(side) or None, task=side)
        if found := difference(self._features(self.tokenise(texts, side), np.arange(len(texts)), side), theirs):
            raise RunError(
                f"can't use {named(self.model)} for late interaction: sentence-transformers prepares its texts in a "
                f"way that stepwell doesn't know ({found}), so its scores would be other ones. Take another model."
            )

    def prompt(self, side: Side) -> str:
        """Return what the model wants in front of its texts."""
        return (self.model.prompts or {}).get(side) or ""

    def room(self, side: Side) -> int:
        """Return how many tokens of a text count, specials apart."""
        return self.limits[side] - self.template.overhead[0]

    def _lengths(self, tokens: Tokens, rows: Rows, side: Side) -> Rows:
        lengths = np.minimum(tokens.lengths_of(rows) + self.template.overhead[0], self.limits[side])
        floor = int(self.expansion["length"]) if self.expansion is not None and side == "query" else 0
        return np.maximum(lengths, floor)

    def _features(self, tokens: Tokens, rows: Rows, side: Side) -> Features:
        features = self.template.texts(tokens, rows, self.limits[side])
        expanded = self.expansion is not None and side == "query"
        return _expanded(features, self.expansion, self.tokenizer) if expanded else features

    def _forward(self, tokens: Tokens, rows: Rows, side: Side) -> Vectors:
        out = self._run(self._features(tokens, rows, side), task=side)
        return out["token_embeddings"].float(), out["attention_mask"].bool()

    def embed(self, tokens: Tokens, rows: Rows, side: Side) -> Vectors:
        """Embed the tokens of the texts ``rows`` with the gradient, shared over the processes: (B, L, D), (B, L)."""
        lengths = self._lengths(tokens, rows, side)
        width = int(lengths.max())

        def forward(items: Rows) -> Tensor:
            vectors, mask = self._forward(tokens, rows[items], side)
            joined = torch.cat([vectors, mask[:, :, None].to(vectors.dtype)], dim=2)  # (b, l, D + 1)
            return nn.functional.pad(joined, (0, 0, 0, width - joined.shape[1]))

        joined = self._with_gradient(lengths, forward)  # (B, L, D + 1)
        return joined[:, :, :-1], joined[:, :, -1] > 0.5

    def logits(self, queries: Tokens, passages: Tokens, query_rows: Rows, passage_rows: Rows) -> Tensor:
        """Score pairs with the gradient: (B,); a text that is in several pairs is embedded once."""
        own, query_places = np.unique(query_rows, return_inverse=True)
        their, passage_places = np.unique(passage_rows, return_inverse=True)
        q, p = self.embed(queries, own, "query"), self.embed(passages, their, "document")
        return self._maxsim(q, p, query_places, passage_places)

    def _maxsim(self, q: Vectors, p: Vectors, query_places: Rows, passage_places: Rows) -> Tensor:
        left = torch.from_numpy(query_places).to(q[0].device)
        right = torch.from_numpy(passage_places).to(p[0].device)
        return maxsim_pairwise(q[0][left], p[0][right], q[1][left], p[1][right], length_normalize=self.mean)

    @torch.inference_mode()
    def score(
        self, queries: Tokens, passages: Tokens, query_rows: Rows, passage_rows: Rows, progress: Progress = SILENT
    ) -> NDArray[np.float32]:
        """Score pairs without a gradient, on this process: (B,).

        The queries' vectors are held; passages go through in batches, each once, and meet their queries at once.
        """
        self.model.eval()
        own, query_places = np.unique(query_rows, return_inverse=True)
        their, passage_places = np.unique(passage_rows, return_inverse=True)
        q = self._embedded(queries, own, "query")
        order = np.argsort(passage_places, kind="stable")  # pairs by passage
        begin = np.searchsorted(passage_places[order], np.arange(len(their) + 1))
        out = np.empty(len(query_rows), dtype=np.float32)
        for batch in batches_by_length(self._lengths(passages, their, "document"), token_budget()):
            with autocast():
                p = self._forward(passages, their[batch], "document")
            pairs = np.concatenate([order[begin[place] : begin[place + 1]] for place in batch])
            places = np.repeat(np.arange(len(batch)), begin[batch + 1] - begin[batch])
            out[pairs] = self._maxsim(q, p, query_places[pairs], places).cpu().numpy()
            progress.advance(len(pairs))
        return out

    def _embedded(self, tokens: Tokens, rows: Rows, side: Side) -> Vectors:
        lengths = self._lengths(tokens, rows, side)
        width, parts, places = int(lengths.max()), [], []
        for batch in batches_by_length(lengths, token_budget()):
            with autocast():
                part = self._forward(tokens, rows[batch], side)
            missing = width - part[1].shape[1]
            parts.append((nn.functional.pad(part[0], (0, 0, 0, missing)), nn.functional.pad(part[1], (0, missing))))
            places.append(batch)
        back = torch.from_numpy(np.argsort(np.concatenate(places)))
        return torch.cat([part[0] for part in parts])[back], torch.cat([part[1] for part in parts])[back]


def _expanded(features: Features, expansion: Any, tokenizer: Any) -> dict[str, Tensor]:
    """Fill queries up to the expansion's length with its token, as sentence-transformers does: (B, L)."""
    missing = max(0, int(expansion["length"]) - features["input_ids"].shape[1])
    features = {name: nn.functional.pad(tensor, (0, missing)) for name, tensor in features.items()}
    ids, mask = features["input_ids"], features["attention_mask"]
    positions = (mask == 0) & (torch.arange(ids.shape[1]) < int(expansion["length"]))
    token = expansion["token"]
    filler = tokenizer.convert_tokens_to_ids(token) if token is not None else tokenizer.mask_token_id
    filler = tokenizer.eos_token_id if filler is None else filler
    if filler is not None:
        features["input_ids"] = ids.masked_fill(positions, filler)
    if expansion["attend"]:
        features["attention_mask"] = mask.masked_fill(positions, 1)
    return features | {"query_expansion_positions": positions}
