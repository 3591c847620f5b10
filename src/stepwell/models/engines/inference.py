"""A model's inference: in the way that is fastest on this machine, opened when it pays and whenever weights changed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from sentence_transformers.base.modules import Router
from torch import nn

from stepwell import display
from stepwell.models.engines import machine as engine
from stepwell.models.engines.backends import Net, Runner, disparity, open_way
from stepwell.models.engines.probe import choose

LEAST = 32_768
"""Tokens from which on a job is worth a probe and an export; a smaller one goes through torch at once."""


@dataclass(frozen=True)
class Opened:
    """A runner, and the padded tokens that a batch of it should have."""

    runner: Runner
    token_budget: int


@torch.inference_mode()
def state_of(model: nn.Module) -> tuple[list[int], list[float]]:
    """Return what changes with the weights: torch's counts of writes, and norms, since fused AdamW is not counted.

    It takes a few milliseconds for a small model, and a fingerprint a second.
    """
    parameters = list(model.parameters())
    norms: list[float] = torch.stack([torch.linalg.vector_norm(tensor) for tensor in parameters]).tolist()
    return [tensor._version for tensor in parameters], norms


class Inference:
    """Gives the runner for a job.

    Parameters
    ----------
    net
        The model, which may go on being trained; its task is the caller's.
    kind
        What is done with it: ``embedding`` or ``scoring``.
    """

    def __init__(self, net: Net, kind: str) -> None:
        self.net, self.kind = net, kind
        self._opened: dict[str | None, tuple[Any, Opened]] = {}
        self._small: dict[str | None, Opened] = {}
        self._settled = self._exact = False

    def settle(self) -> None:
        """Say that the weights stay as they are: small jobs then go through a copy in bf16, where that is faster."""
        self._settled, self._exact = True, False

    def be_exact(self) -> None:
        """Say that outputs are to be those of sentence-transformers: torch in fp32, whatever would be faster."""
        self._exact = True

    def open(self, tokens: int, task: str | None = None) -> Opened:
        """Return what runs a job of so many tokens.

        A way that does not agree with torch fp32 on this model is not taken, and that is said.

        Parameters
        ----------
        tokens
            Of all texts of the job.
        task
            ``query`` or ``document`` for an encoder, which may have a tower for each, or a prompt that is not pooled.
        """
        routed = self.net.unpooled or any(isinstance(module, Router) for module in self.net.model.modules())
        net = replace(self.net, task=task if routed else None)
        if self._exact:
            return Opened(open_way(net, "torch-fp32"), engine.token_budget())
        if tokens < LEAST:
            return self._open_small(net)
        weights = state_of(net.model)
        known = self._opened.get(net.task)
        if known is None or known[0] != weights:
            self._opened.pop(net.task, None)  # frees its memory before the next takes as much
            self._opened[net.task] = weights, self._open(net)
        return self._opened[net.task][1]

    def _open_small(self, net: Net) -> Opened:
        if engine.precision() is torch.float32:
            return Opened(open_way(net, "torch-fp32"), engine.token_budget())
        if not self._settled:
            return Opened(open_way(net, "torch-bf16-autocast"), engine.token_budget())
        if net.task not in self._small:
            self._small[net.task] = self._checked(net, "torch-bf16-weights", engine.token_budget())
        return self._small[net.task]

    def _open(self, net: Net) -> Opened:
        choice = choose(net, self.kind)
        return self._checked(net, choice.way, choice.token_budget)

    def _checked(self, net: Net, way: str, token_budget: int) -> Opened:
        """Return a way that agrees with torch fp32, or else torch fp32."""
        if way != "torch-fp32":
            try:
                runner = open_way(net, way)
                reason = disparity(runner)
            except Exception as error:  # an engine that can't take this model raises what it likes
                reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            if reason is None:
                return Opened(runner, token_budget)
            display.warn(f"{way} is not used for {self.kind} with this model, torch-fp32 is: {reason}.")
        return Opened(open_way(net, "torch-fp32"), token_budget)
