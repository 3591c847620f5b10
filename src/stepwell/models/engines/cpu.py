"""Faster on CPUs than torch's own: attention of short texts and words in trainings, products in inference."""

import contextlib
from collections.abc import Iterator
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.activations import GELUActivation
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

ATTENTION = "stepwell_short"
"""What transformers knows :func:`short_attention` by. The backward pass of torch's fused attention takes ten times as
long in bf16 on a CPU as plain products do, on short texts. In fp32, without a gradient, and in memory on long texts it
is ahead."""

SHORT = 256
"""Longest text, in tokens, whose attention weights are written out: for a small model they take then about twice the
memory of the wide layer's outputs."""

SPECIAL = ("is_causal", "position_bias", "softcap", "s_aux", "cache")
"""What some architectures want of attention besides; torch's own gets those."""

ROWS = 2_048
"""Rows that the layout of the weights is chosen for; any number may come."""

VOCABULARY = 4_096
"""Rows from which on an embedding is one of words, not of positions or types."""


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
    """Return softmax(q k^T * scaling + mask) v, of (B, heads, L, width) each, as (B, L, heads, width), and None.

    By plain products in bf16, with a gradient, of short texts; by torch's own attention else, as for a layer that is
    causal or shares keys between heads. The mask, broadcast to (B, heads, L, L), is of bools, or of numbers to add.
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


AttentionInterface.register(ATTENTION, short_attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)


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
        part.set_attn_implementation(ATTENTION)
    try:
        yield
    finally:
        for part in changed:
            part.set_attn_implementation("sdpa")


@contextlib.contextmanager
def sparse_words(module: nn.Module) -> Iterator[None]:
    """Let the vocabularies in ``module`` that learn on a CPU have sparse gradients until those of a batch are added up.

    A step goes through the model in several micro-batches. Each would otherwise write a gradient of the whole
    vocabulary, for the few words that it has.
    """
    found = [
        part
        for part in module.modules()
        if isinstance(part, nn.Embedding)
        and part.weight.requires_grad
        and part.weight.device.type == "cpu"
        and part.num_embeddings >= VOCABULARY
        and not part.sparse
    ]
    hooks = [part.weight.register_post_accumulate_grad_hook(_densify) for part in found]  # type: ignore[no-untyped-call]
    for part in found:
        part.sparse = True
    try:
        yield
    finally:
        for part, hook in zip(found, hooks, strict=True):
            part.sparse = False
            hook.remove()


def _densify(parameter: Tensor) -> None:
    if parameter.grad is not None:
        parameter.grad = parameter.grad.to_dense()


class FusedLinear(nn.Module):
    """A linear layer in bf16 on a CPU, of weights that don't change any more, and its activation: ``gelu`` or ``none``.

    Torch's own product of bf16 matrices lays the weights out anew in every call, in a buffer that oneDNN keeps for each
    shape of a batch, and the GELU behind it reads and writes everything once more. Torch has the operators for doing
    both at once; its compiler uses them when it freezes a model.
    """

    def __init__(self, linear: nn.Linear, activation: str = "none") -> None:
        super().__init__()
        self.activation = activation
        self.laid_out = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), ROWS)
        self.bias = linear.bias
        self.weight = torch.empty(0, dtype=linear.weight.dtype)  # some architectures ask for its type

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the layer's outputs, (..., D) to (..., E)."""
        algorithm = "none" if self.activation == "gelu" else ""
        out: Tensor = torch.ops.mkldnn._linear_pointwise(
            inputs, self.laid_out, self.bias, self.activation, [], algorithm
        )
        return out


def can_fuse(model: nn.Module) -> bool:
    """Return whether this torch has the operators, and the model is in bf16 on a CPU that multiplies it."""
    first = next(model.parameters())
    if first.device.type != "cpu" or first.dtype != torch.bfloat16:
        return False
    operators = ("_reorder_linear_weight", "_linear_pointwise", "_is_mkldnn_bf16_supported")
    return all(hasattr(torch.ops.mkldnn, name) for name in operators) and bool(
        torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )


def fuse(model: nn.Module) -> None:
    """Put :class:`FusedLinear` into the places of a model's linear layers, for inference alone."""
    for module in list(model.modules()):
        inner: Any = module  # BERT's kin: a product, then `intermediate_act_fn`
        if isinstance(getattr(inner, "intermediate_act_fn", None), GELUActivation) and _plain(inner.dense):
            inner.dense, inner.intermediate_act_fn = FusedLinear(inner.dense, "gelu"), nn.Identity()
        for name, child in list(module.named_children()):
            if _plain(child):
                setattr(module, name, FusedLinear(child))


def _plain(module: Any) -> TypeGuard[nn.Linear]:
    return type(module) is nn.Linear
