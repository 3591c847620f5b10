"""A cross-encoder: a sentence-transformers CrossEncoder that gives raw logits of query-passage pairs."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray
from sentence_transformers import CrossEncoder
from torch import Tensor

from stepwell.display import SILENT, Progress
from stepwell.models.engines.backends import Net
from stepwell.models.engines.inference import Inference
from stepwell.models.engines.machine import few_shapes
from stepwell.models.model import Model
from stepwell.models.opening import most_tokens, open_cross_encoder, transformer_of
from stepwell.models.preparation import LONG, SHORT, TextTokens, prepare_pairs
from stepwell.models.tokens import MOST, Features, Rows, Side, Tokens, cut_pairs


class Reranker(Model[CrossEncoder]):
    """Scores pairs by a CrossEncoder with one output.

    Never through a sigmoid, which would squeeze what a student has to learn into 0..1.
    """

    kind = "cross-encoder"

    def __init__(self, model: CrossEncoder, limit: int | None = None) -> None:
        super().__init__(model)
        wanted = int(limit or model.max_seq_length or 512)  # tokens of the longest pair, specials included
        self.limit = min(wanted, most_tokens(transformer_of(model).auto_model) or wanted)
        self.preparation = prepare_pairs(model, self.limit)
        more = {None: self.preparation.more}
        net = Net(self.model, "scores", self._samples, lambda: self.fingerprint, more=more)
        self.inference = Inference(net, "scoring")

    @classmethod
    def open(cls, place: str | Path, limit: int | None = None) -> Self:
        """Open a sentence-transformers directory or hub name."""
        return cls(open_cross_encoder(str(place)), limit)

    def _facts(self) -> tuple[object, ...]:
        return self.limit, self.preparation.prompt

    def room(self, side: Side = "query") -> int:
        """Return how many tokens of a query and a passage together count, specials apart."""
        return self.limit - self.preparation.around

    def tokenise(self, texts: Sequence[str], side: Side = "query") -> Tokens:
        """Tokenise queries or passages, which are cut alike, in memory, to be paired later."""
        tokens = Tokens.build(self.tokenizer, texts, MOST)  # the longer text of a pair is cut
        return self.with_texts(tokens, lambda rows: [texts[row] for row in rows.tolist()])

    def with_texts(self, tokens: Tokens, fetch: Callable[[Rows], list[str]]) -> Tokens:
        """Return tokens; with the texts of rows (B,) where pairs are prepared from these."""
        own = self.preparation.template is None
        return TextTokens(tokens.ids, tokens.offsets, tokens.limit, fetch) if own else tokens

    def lengths(self, queries: Tokens, passages: Tokens, query_rows: Rows, passage_rows: Rows) -> Rows:
        """Return the tokens of each pair, shape (B,)."""
        kept = cut_pairs(queries.kept_of(query_rows), passages.kept_of(passage_rows), self.room())
        return kept[0] + kept[1] + self.preparation.around

    def logits(self, queries: Tokens, passages: Tokens, query_rows: Rows, passage_rows: Rows) -> Tensor:
        """Score pairs with the gradient, shared over the processes: (B,)."""

        def forward(items: Rows) -> Tensor:
            pairs = queries, passages, query_rows[items], passage_rows[items]
            scores: Tensor = self._run(self.preparation.pairs(*pairs, few_shapes()), self.preparation.more)["scores"]
            return scores.reshape(len(items))

        return self._with_gradient(self.lengths(queries, passages, query_rows, passage_rows), forward)

    def _samples(self, task: Side | None) -> list[Features]:
        rows = np.divmod(np.arange(len(SHORT) * len(LONG)), len(LONG))
        return [self.preparation.pairs(self.tokenise(SHORT), self.tokenise(LONG), *rows)]

    def score(
        self, queries: Tokens, passages: Tokens, query_rows: Rows, passage_rows: Rows, progress: Progress = SILENT
    ) -> NDArray[np.float32]:
        """Score pairs without a gradient, on this process: (B,)."""
        lengths = self.lengths(queries, passages, query_rows, passage_rows)
        out = np.empty(len(query_rows), dtype=np.float32)

        def pad(items: Rows, rounded: bool) -> Features:
            return self.preparation.pairs(queries, passages, query_rows[items], passage_rows[items], rounded)

        self.inference.open(int(lengths.sum())).run_all(lengths, pad, out, progress)
        return out
