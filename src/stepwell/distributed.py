"""Work shared over the processes of ``accelerate launch``; with one process everything here is the identity.

A training step is the same on every process: all know the whole batch, each embeds its share of the texts, the
shares are gathered, and every process computes the same loss. So a loss needs to know nothing of processes, a
passage is embedded once over all of them, and N processes give the loss and the gradient of one.
"""

import atexit
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
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

from stepwell.errors import RunError

PATIENCE = timedelta(days=7)
"""How long torch waits for the other processes in a step that all do together; for one that works alone: `barrier`."""

BEAT, SILENCE = 5.0, 900.0
"""Seconds between two signs of life of a process, and without any until the others take it for dead."""

ENDED = -(1 << 60)
"""What is added to the signs of life of a process that ends."""


def state() -> PartialState:
    """Return accelerate's state of the processes, set up at the first call."""
    return _joined()[0]


@lru_cache(maxsize=1)
def _joined() -> tuple[PartialState, "Meeting | None"]:
    # Without a GPU, accelerate would take each of several processes for the only one, but for `cpu`.
    device = torch.cuda.is_available() or torch.backends.mps.is_available() or torch.xpu.is_available()
    found = PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU") or not device, timeout=PATIENCE)
    if found.num_processes == 1:
        return found, None
    store: Any = dist.distributed_c10d._get_default_store()  # the one way to it
    return found, Meeting(store, found.process_index, found.num_processes)


def rank() -> int:
    """Return this process's number, from 0."""
    return int(state().process_index)


def world_size() -> int:
    """Return the number of processes."""
    return int(state().num_processes)


def is_main() -> bool:
    """Return whether this process writes the files."""
    return rank() == 0


class Meeting:
    """Where processes meet: counters in the store that they found each other by.

    Whoever waits looks there now and then. torch's own barrier keeps a core and the GPU busy meanwhile, which the one
    that works may want, gives up after a fixed time, and may not notice that nobody will come.
    """

    def __init__(self, store: Any, own: int, count: int) -> None:
        self.store, self.own, self.count, self.met = store, own, count, 0
        self._leaving = threading.Event()
        self._beating = threading.Thread(target=self._beat, daemon=True)
        self._beating.start()
        atexit.register(self.leave)

    def _add(self, what: str, process: int, by: int = 0) -> int:
        return int(self.store.add(f"stepwell/{what}/{process}", by))

    def _beat(self) -> None:
        with suppress(RuntimeError):  # as in `leave`
            while not self._leaving.wait(BEAT):
                self._add("alive", self.own, 1)

    def leave(self) -> None:
        """Tell the others that this process has ended."""
        self._leaving.set()
        self._beating.join(BEAT)
        with suppress(RuntimeError):  # the store is gone: all others have ended
            if not self._beating.is_alive():  # else the store does not answer
                self._add("alive", self.own, ENDED)

    def wait(self) -> None:
        """Wait for all, however long one of them works; refuse to wait for one that is dead."""
        self.met += 1
        try:
            self._add("here", self.own, 1)
            for process in range(self.count):
                self._wait_for(process)
        except RuntimeError as error:
            raise RunError(
                f"the first process has ended, and this one can't go on alone ({' '.join(str(error).split())[:100]}). "
                "Its own message says why; the same command goes on from what is finished."
            ) from error

    def _wait_for(self, process: int) -> None:
        seen, since, pause = 0, time.monotonic(), 0.001
        while self._add("here", process) < self.met:
            beats, now = self._add("alive", process), time.monotonic()
            if beats != seen:
                seen, since = beats, now
            if beats < 0 or now - since > SILENCE:
                what = "has ended" if beats < 0 else f"has given no sign of life for {SILENCE:,.0f} seconds"
                raise RunError(
                    f"process {process} of {self.count} {what}, and the others can't go on without it. Its own message "
                    "says why; the same command goes on from what is finished."
                )
            time.sleep(pause)
            pause = min(1.5 * pause, 0.2)


def barrier() -> None:
    """Wait until all processes are here, however long one works alone; one that is dead ends the wait."""
    found, meeting = _joined()
    if meeting is not None:
        meeting.wait()
        found.wait_for_everyone()  # they are here; and none ends, and the store with it, while others still look


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
    barrier()
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
    device, done = state().device, work(padded[rank() :: world])
    barrier()
    out = []
    for local in done:
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
