"""Items through a model with a gradient: padded by length, shared over the processes, counted."""

from collections.abc import Callable
from dataclasses import astuple, dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from stepwell import distributed
from stepwell.models.engines.machine import BATCH_COST, autocast, few_shapes, micro_batch
from stepwell.models.tokens import Rows, cheapest_batches, filled, round_up

Forward = Callable[[Rows], Tensor]
"""Gives the outputs (B, ...) of the items (B,), padded to one batch."""


@dataclass
class Work:
    """What went through models on this process, with a gradient: to be logged."""

    texts: int = 0
    tokens: int = 0
    padded: int = 0  # tokens with the padding of their batches
    squares: int = 0  # the sum of the squared lengths
    everywhere: int = 0  # texts of all processes together

    def since(self, before: Self) -> "Work":
        """Return what came after ``before``."""
        return Work(*(now - then for now, then in zip(astuple(self), astuple(before), strict=True)))


work = Work()
"""All that this process has put through :func:`forward_all`."""


def forward_all(lengths: Rows, forward: Forward, gradient_cache: bool = False) -> Tensor:
    """Run items of so many tokens (B,) through ``forward``: outputs in their order, fp32, with the gradient (B, ...).

    Items are shared over the processes and padded only with others of their length; the graph is kept, so the gradient
    is that of one big batch, and outputs are the same on every process. ``gradient_cache`` keeps the outputs alone and
    runs each micro-batch again in backward: the memory of one micro-batch, however large the batch, for one more
    forward (Gao et al. 2021, "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup").
    """
    world, own = distributed.world_size(), distributed.rank()
    order = np.argsort(lengths, kind="stable")
    padded = filled(order, world)  # so that all have as many
    mine = padded[own::world]
    outputs: list[Tensor] = []
    places: list[Rows] = []
    widths = round_up(lengths[mine]) if few_shapes() else lengths[mine]
    for batch in cheapest_batches(widths, micro_batch(), BATCH_COST):
        items = mine[batch]
        with autocast():
            out = checkpoint(forward, items, use_reentrant=False) if gradient_cache else forward(items)
        outputs.append(out.float())
        places.append(batch)
        work.texts += len(items)
        work.tokens += int(lengths[items].sum())
        work.squares += int(np.square(lengths[items]).sum())
        work.padded += len(items) * int(widths[batch].max())
    work.everywhere += len(lengths)
    back = np.argsort(np.concatenate(places), kind="stable")
    local = torch.cat(outputs)[torch.from_numpy(back)]
    everything = distributed.gather_rows(local)  # rank r's j-th row is item padded[j * world + r]
    position = np.empty(len(order), dtype=np.int64)
    flat = np.concatenate([padded[r::world] for r in range(world)])
    position[flat[::-1]] = np.arange(len(flat))[::-1]  # the first of a repeated item
    return everything[torch.from_numpy(position)]
