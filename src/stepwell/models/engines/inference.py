"""A model's inference: in the way that is fastest on this machine, opened when it pays and whenever weights changed."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from stepwell import display
from stepwell.models.engines import machine
from stepwell.models.engines.backends import Net, Runner, open_way
from stepwell.models.engines.probe import Choice, choose
from stepwell.models.engines.race import open_checked
from stepwell.models.opening import routers_of
from stepwell.models.tokens import Features, Rows, Side, batches_by_length, cheapest_batches, filled, round_up

LEAST = 32_768
"""Tokens from which on a job is worth a probe and an export; a smaller one goes through torch at once."""

STATIC = 1 << 18
"""Tokens of a batch of a static model, which pads none."""

Pad = Callable[[Rows, bool], Features]
"""Gives the padded batch of some items (B,), of a rounded length or not."""


@dataclass(frozen=True)
class Opened:
    """A runner, and the padded tokens that a batch of it should have."""

    runner: Runner
    token_budget: int

    def run_all(
        self, lengths: Rows, pad: Pad, out: NDArray[np.float32], progress: display.Progress, few: int = 0
    ) -> None:
        """Write the outputs of items of so many tokens (B,) to ``out`` (B, ...), in batches of similar length.

        The cheapest cut into batches is looked for up to ``few`` items; more come in few shapes.
        """
        small = len(lengths) <= few
        rounded = machine.few_shapes() or not small
        widths, budget = round_up(lengths) if rounded else lengths, self.token_budget
        batches = list(batches_by_length(widths, budget))
        if small:
            batches = cheapest_batches(widths, budget, machine.BATCH_COST)

        def step(batch: Rows) -> int:
            """Return of what the rows of a batch are to be a multiple; in a long job a quarter of a whole batch's."""
            if not small:
                return max(1, budget // int(widths[batch].max()) // 4)
            return 4 if rounded and len(batch) > 4 else 1

        padded = (pad(filled(batch, step(batch)), rounded) for batch in batches)
        with machine.enough_memory(f"a batch of {budget:,} padded tokens", "Set STEPWELL_TOKEN_BUDGET to less."):
            for batch, outputs in zip(batches, self.runner.each(padded), strict=True):
                out[batch] = outputs[: len(batch)].numpy()
                progress.advance(len(batch))
                if not small:
                    machine.trim(machine.TRIM)


@torch.inference_mode()
def state_of(model: nn.Module) -> tuple[list[int], list[float]]:
    """Return what changes with the weights: torch's counts of writes, and norms, since fused AdamW is not counted.

    It takes a few milliseconds for a small model, and a fingerprint a second.
    """
    parameters = list(model.parameters())
    norms: list[float] = torch.stack([torch.linalg.vector_norm(tensor) for tensor in parameters]).tolist()
    return [tensor._version for tensor in parameters], norms


class Inference:
    """Gives the runner for a job of a ``kind``, embedding or scoring, with a model that may go on being trained."""

    def __init__(self, net: Net, kind: str, static: bool = False) -> None:
        self.net, self.kind, self.static = net, kind, static
        self._opened: dict[tuple[str | None, bool], tuple[Any, Opened]] = {}  # by task, and whether the job is small
        self._settled = self._exact = False

    def settle(self) -> None:
        """Say that the weights stay as they are: small jobs then go through a copy in bf16, where that is faster."""
        self._settled, self._exact = True, False

    def be_exact(self) -> None:
        """Say that outputs are to be those of sentence-transformers: torch in fp32, whatever would be faster."""
        self._exact = True

    def open(self, tokens: int, task: Side | None = None) -> Opened:
        """Return what runs a job of so many tokens in all: torch fp32 where the chosen way does not agree with it.

        The ``task``, query or document, counts for an encoder with a tower for each, or a prompt that is not pooled.
        """
        if self.static:  # a lookup and a mean: no way is faster than another
            return Opened(open_way(self.net, "torch-fp32"), STATIC)
        facts = list(self.net.more.values())
        routed = any("prompt_length" in its or its != facts[0] for its in facts) or routers_of(self.net.model)
        net = replace(self.net, task=task if routed else None)
        small, budget = tokens < LEAST, machine.token_budget()
        if self._exact or (small and machine.precision() is torch.float32):
            return Opened(open_way(net, "torch-fp32"), budget)
        if small and not self._settled:
            return Opened(open_way(net, "torch-bf16-autocast"), budget)
        weights, key = None if small else state_of(net.model), (net.task, small)
        if key not in self._opened or self._opened[key][0] != weights:
            self._opened.pop(key, None)  # frees its memory before the next takes as much
            choice = Choice("torch-bf16-weights", budget) if small else choose(net, self.kind)
            self._opened[key] = weights, self._checked(net, choice)
        return self._opened[key][1]

    def _checked(self, net: Net, choice: Choice) -> Opened:
        """Return a way that agrees with torch fp32, or else torch fp32."""
        if choice.way != "torch-fp32":
            opened = open_checked(net, choice.way)
            if isinstance(opened, Runner):
                return Opened(opened, choice.token_budget)
            display.warn(f"{choice.way} is not used for {self.kind} with this model, torch-fp32 is: {opened}.")
        return Opened(open_way(net, "torch-fp32"), choice.token_budget)
