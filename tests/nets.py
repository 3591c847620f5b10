"""Nets of tiny models, for the tests of inference."""

from __future__ import annotations

from dataclasses import replace

from stepwell.models.encoder import Encoder
from stepwell.models.engines.backends import Net
from stepwell.models.reranker import Reranker


def encoder_net(encoder: Encoder) -> Net:
    net = encoder.inference.net
    return replace(net, make_samples=lambda task: net.make_samples(task or "query"))


def reranker_net(reranker: Reranker) -> Net:
    return reranker.inference.net
