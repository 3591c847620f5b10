"""Products with weights that oneDNN has laid out once, the activation behind them in the same pass: bf16 on CPUs.

Torch's own product of bf16 matrices lays the weights out anew in every call, in a buffer that oneDNN keeps for each
shape of a batch, and the GELU behind it reads and writes everything once more. Torch has the operators for doing both
at once; its compiler uses them when it freezes a model.
"""

from __future__ import annotations

from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from transformers.activations import GELUActivation

ROWS = 2_048
"""Rows that the layout of the weights is chosen for; any number may come."""


class FusedLinear(nn.Module):
    """A linear layer, and an activation where it has one, of weights that don't change any more.

    Parameters
    ----------
    linear
        The layer, in bf16 on a CPU.
    activation
        ``none``, or ``gelu``: the exact one.
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
