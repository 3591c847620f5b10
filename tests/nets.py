"""Nets of tiny models, for the tests of inference."""

from __future__ import annotations

from stepwell.models.encoder import Encoder
from stepwell.models.engines.backends import Net
from stepwell.models.engines.parity import pair_samples, text_samples
from stepwell.models.reranker import Reranker


def encoder_net(encoder: Encoder) -> Net:
    def samples(task):
        return text_samples(encoder.template, lambda texts: encoder.tokenise(texts, task or "query"), encoder.limit)

    return Net(encoder.model, "sentence_embedding", samples, lambda: encoder.fingerprint, encoder.cosine)


def reranker_net(reranker: Reranker) -> Net:
    def samples(task):
        return pair_samples(reranker.template, lambda texts: reranker.tokenise(list(texts)), reranker.limit)

    return Net(reranker.model, "scores", samples, lambda: reranker.fingerprint)
