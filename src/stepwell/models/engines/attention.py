"""Attention for trainings in bf16 on a CPU, where torch's own is slow.

The backward pass of torch's fused attention takes ten times as long there as plain matrix products do, on short texts.
In fp32, without a gradient, and in memory on long texts it is ahead.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "stepwell_short"
"""The attention, as transformers is told to name it."""

SHORT = 256
"""Longest text, in tokens, whose attention weights are written out: for a small model they take then about twice the
memory of the wide layer's outputs."""

SPECIAL = ("is_causal", "position_bias", "softcap", "s_aux", "cache")
"""What some architectures ask of attention besides; torch's own gets those."""


def short_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **more: Any,
) -> tuple[Tensor, Tensor | None]:
    """Return softmax(q k^T * scaling + mask) v; by plain products in bf16, with a gradient, of short texts.

    Parameters
    ----------
    module
        The attention layer; one that is causal or shares keys between heads gets torch's own attention.
    query, key, value
        Shape (B, heads, L, width).
    attention_mask
        What may be attended to, broadcast to (B, heads, L, L): of bools, or numbers to be added; None for everything.
    dropout
        Of the weights.
    scaling
        Of the products; 1 / sqrt(width) when None.

    Returns
    -------
    tuple
        Shape (B, L, heads, width), and None.
    """
    plain = (
        torch.is_grad_enabled()
        and query.dtype == torch.bfloat16
        and query.shape[2] <= SHORT
        and query.shape == key.shape
        and (attention_mask is not None or not getattr(module, "is_causal", False))
        and all(value is None or value is False for value in map(more.get, SPECIAL))
    )
    if not plain:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **more
        )
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    products = query @ key.transpose(2, 3)  # (B, heads, L, L)
    if attention_mask is None:
        logits = products * scaling
    else:
        barred = attention_mask
        if barred.dtype == torch.bool:
            lowest = torch.finfo(products.dtype).min  # not -inf, which makes a text without tokens no number
            barred = torch.zeros_like(barred, dtype=products.dtype).masked_fill_(~barred, lowest)
        logits = torch.add(barred, products, alpha=scaling)
    with torch.autocast(query.device.type, enabled=False):  # which would turn the weights into fp32 and back
        weights = nn.functional.dropout(logits.softmax(-1), dropout, training=module.training)
    return (weights @ value).transpose(1, 2).contiguous(), None


AttentionInterface.register(NAME, short_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)


@contextlib.contextmanager
def for_training(module: nn.Module) -> Iterator[None]:
    """Give :func:`short_attention` to the transformers in ``module`` that are on a CPU and have torch's own."""
    changed = [
        part
        for part in module.modules()
        if isinstance(part, PreTrainedModel)
        and part.config._attn_implementation == "sdpa"
        and part.device.type == "cpu"
    ]
    for part in changed:
        part.set_attn_implementation(NAME)
    try:
        yield
    finally:
        for part in changed:
            part.set_attn_implementation("sdpa")
