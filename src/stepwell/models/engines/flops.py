"""Operations: what a forward pass takes, and how many a second this machine can do at best."""

import copy
import time
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import nn
from transformers import AutoModel

from stepwell import distributed

Product = tuple[int, int, int]
"""A matrix product (m, k) x (k, n), as (m, k, n)."""


def layer_products(config: Any, tokens: int) -> list[Product]:
    """Return the matrix products of a transformer layer over so many tokens, attention's own left out.

    Examples
    --------
    >>> from transformers import BertConfig
    >>> layer_products(BertConfig(hidden_size=384, intermediate_size=1536), 1024)[-2:]
    [(1024, 384, 1536), (1024, 1536, 384)]
    """
    width = int(config.hidden_size)
    inner = int(getattr(config, "intermediate_size", None) or getattr(config, "hidden_dim", None) or 4 * width)
    return [(tokens, width, width)] * 4 + [(tokens, width, inner), (tokens, inner, width)]


@cache
def layer_peak(dtype: torch.dtype, products: tuple[Product, ...]) -> float:
    """Return :func:`matmul_peak`, measured once a process."""
    return matmul_peak(dtype, products)


@torch.inference_mode()
def matmul_peak(dtype: torch.dtype, products: Sequence[Product], seconds: float = 0.1) -> float:
    """Measure the operations a second of matrix products, two a multiplication and addition, in the fastest round."""
    device = distributed.state().device
    pairs = [
        (torch.randn(m, k, device=device).to(dtype), torch.randn(n, k, device=device).to(dtype)) for m, k, n in products
    ]
    best, rounds, began = float("inf"), 0, time.perf_counter()
    while rounds < 2 or time.perf_counter() - began < seconds:
        start = time.perf_counter()
        for inputs, weights in pairs:
            nn.functional.linear(inputs, weights)
        if device.type != "cpu":
            getattr(torch, device.type).synchronize()
        best, rounds = min(best, time.perf_counter() - start), rounds + 1
    return 2.0 * sum(m * k * n for m, k, n in products) / best


def random_body(config: Any, layers: int | None = None) -> Any:
    """Build a transformers model with random weights: its encoder, or so many layers of it; on the device in force."""
    shape = copy.deepcopy(config)
    if layers is not None:
        shape.num_hidden_layers = layers
        if getattr(shape, "layer_types", None):
            shape.layer_types = shape.layer_types[:layers]
    automatic: Any = AutoModel
    body = automatic.from_config(shape)
    return body.get_encoder() if hasattr(body, "decoder") else body


def operations(config: Any, tokens: float, squares: float) -> float:
    """Count the operations of a forward pass over texts of ``tokens`` in all, whose L^2 sum up to ``squares``.

    ``2 * weights * tokens + 4 * layers * width * squares``, of layers that are built without weights and counted; a
    model that attends to a window needs less.

    Examples
    --------
    >>> from transformers import BertConfig
    >>> config = BertConfig(hidden_size=8, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2)
    >>> operations(config, 3 + 5, 9 + 25) == 2 * 2 * (4 * 8 * 8 + 2 * 8 * 32) * 8 + 4 * 2 * 8 * (9 + 25)
    True
    """
    with torch.device("meta"):
        model = random_body(config)
    weights = sum(
        module.weight.numel()
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and "pooler" not in name  # which sees one token a text
    )
    return float(2 * weights * tokens + 4.0 * config.num_hidden_layers * config.hidden_size * squares)
