"""Work shared over the processes of ``accelerate launch``; with one process everything here is the identity.

A training step is the same on every process: all know the whole batch, each embeds its share of the texts, the
shares are gathered, and every process computes the same loss. So a loss needs to know nothing of processes, a
passage is embedded once over all of them, and N processes give the loss and the gradient of one.
"""

from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env
from numpy.typing import NDArray
from torch import Tensor, nn

PATIENCE = timedelta(days=7)
"""How long processes wait for one that works alone, as when a server embeds; torch gives up after half an hour."""


@lru_cache(maxsize=1)
def state() -> PartialState:
    """Return accelerate's state of the processes, set up at the first call."""
    # Without a GPU, accelerate would take each of several processes for the only one, but for `cpu`.
    device = torch.cuda.is_available() or torch.backends.mps.is_available() or torch.xpu.is_available()
    return PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU") or not device, timeout=PATIENCE)


def rank() -> int:
    """Return this process's number, from 0."""
    return int(state().process_index)


def world_size() -> int:
    """Return the number of processes."""
    return int(state().num_processes)


def is_main() -> bool:
    """Return whether this process writes the files."""
    return rank() == 0


def barrier() -> None:
    """Wait until all processes are here."""
    state().wait_for_everyone()


def gather_rows(local: Tensor) -> Tensor:
    """Concatenate the rows (B, ...) of all processes, the same shape on each, to (B * world_size, ...).

    The gradient flows to the own part only: since every process computes the same loss from the gathered
    rows, the sum of the processes' gradients (:func:`sum_gradients`) is the gradient of that loss.
    """
    if world_size() == 1:
        return local
    parts = [torch.empty_like(local) for _ in range(world_size())]
    dist.all_gather(parts, local.detach().contiguous())
    parts[rank()] = local
    return torch.cat(parts)


def any_says(answer: bool) -> bool:
    """Return whether the answer is yes on any process; all of them have to call this."""
    if world_size() == 1:
        return answer
    return bool(gather_rows(torch.tensor([float(answer)], device=state().device)).max() > 0)


def in_shares(n: int, work: Callable[[NDArray[np.int64]], tuple[NDArray[Any], ...]]) -> tuple[NDArray[Any], ...]:
    """Return what ``work`` gives for ``arange(n)``, of which each process does a share.

    ``work`` gives arrays with one row for each of the items (B,) that it is called with. Where the processes can't
    have equally many, some items are worked on twice.
    """
    world = world_size()
    if world == 1 or n == 0:
        return work(np.arange(n))
    padded = np.resize(np.arange(n), -(-n // world) * world)
    device = state().device
    out = []
    for local in work(padded[rank() :: world]):
        plain = local.view(np.uint8) if local.dtype == np.bool_ else local
        rows = gather_rows(torch.from_numpy(np.ascontiguousarray(plain)).to(device)).cpu().numpy().view(local.dtype)
        out.append(rows.reshape(world, *local.shape).swapaxes(0, 1).reshape(-1, *local.shape[1:])[:n])
    return tuple(out)


def sum_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Add up the processes' gradients in place; a parameter that has none on any process is left without.

    An optimiser leaves such a parameter alone, and would let one with a gradient of 0 decay.
    """
    if world_size() == 1:
        return
    there = [parameter.grad is not None for parameter in parameters]
    dist.all_reduce(counts := torch.tensor(there, dtype=torch.int32, device=state().device))
    for parameter, count in zip(parameters, counts.tolist(), strict=True):
        if not count:
            continue
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        dist.all_reduce(parameter.grad)
