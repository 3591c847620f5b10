"""One routine trains dual encoders, cross-encoders and students: they differ in their objective alone.

Everything random is a function of (seed, step): the order of the examples, which candidates are drawn, dropout.
So a checkpoint is the weights, the optimiser's moments and the number of the step, and a run that was killed
ends with the very weights of one that was not.
"""

import json
import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from stepwell import distributed
from stepwell.display import SILENT, Progress, counted, warn
from stepwell.errors import StepwellError
from stepwell.files import whole
from stepwell.models.build import head_parameters, word_tables
from stepwell.models.engines.cpu import for_training, sparse_words
from stepwell.models.engines.forward import Work, work
from stepwell.models.engines.machine import enough_memory
from stepwell.models.opening import cannot_write, sha256_of
from stepwell.models.tokens import Rows
from stepwell.recipe import Optimiser, RerankTraining

CHUNK = 8
"""Examples (queries with their candidates) that go through backward at a time where the loss is separable."""

LESS = (
    "Set `gradient_cache: true` in the section of this training (the same gradient, in the memory of one micro-batch), "
    "or lower `batch`, `candidates` or the `tokens`."
)
"""What takes less memory in a training."""

MOMENTS = {"step": "step", "moment1": "exp_avg", "moment2": "exp_avg_sq"}
"""What a checkpoint keeps of the optimiser: our name, torch's name."""


class Objective(Protocol):
    """What a model is trained for."""

    size: int  # examples that an epoch has
    separable: bool  # whether the loss of a batch is the mean of its examples' own losses (no in-batch term)

    @property
    def module(self) -> nn.Module:
        """Everything that learns."""

    def loss(self, examples: Rows, epoch: int) -> tuple[Tensor, dict[str, float]]:
        """Return the loss of some examples and its parts, to be logged; the same on every process."""


@dataclass
class TrainingLog:
    """What happened in a training: the loss of each step and its parts, and the work done (on the main process)."""

    steps: int = 0
    losses: list[float] = field(default_factory=list)
    parts: dict[str, list[float]] = field(default_factory=dict)
    seconds: float = 0.0
    texts: int = 0  # that went through the model
    tokens: int = 0
    padded: int = 0  # tokens with the padding of their batches
    squares: int = 0  # sum of the squared lengths
    everywhere: int = 0  # texts of all processes together; 0 where that was not counted
    peak: float | None = None  # share of the machine's rate of matrix products, where it was measured
    turn: int = 0  # how many trainings the model had behind it

    def add(self, loss: float, parts: dict[str, float], work: Work) -> None:
        """Append one step."""
        self.steps += 1
        self.losses.append(loss)
        for name, count in asdict(work).items():
            setattr(self, name, getattr(self, name) + count)
        for name, value in parts.items():
            self.parts.setdefault(name, []).append(value)

    def summary(self) -> str:
        """Return steps, loss and throughput in a line."""
        span = max(1, min(20, self.steps // 4))
        first, last = np.mean(self.losses[:span]), np.mean(self.losses[-span:])
        speed = f"{self.tokens / max(self.seconds, 1e-9):,.0f} tokens/s"
        peak = "" if self.peak is None else f", {self.peak:.0%} of the matmul peak"
        return (
            f"{counted(self.steps, 'step')}, loss {first:.3f} -> {last:.3f}; {self.texts / self.steps:,.0f} texts and "
            f"{self.tokens / self.steps:,.0f} tokens a step, {speed}{peak}"
        )


Follow = Callable[[TrainingLog, int], None]
"""Is called after each step, with the log so far and the number of steps that there will be."""


def total_steps(settings: Optimiser, size: int) -> int:
    """Return how many optimiser steps ``settings`` ask for with ``size`` examples."""
    if settings.steps is not None:
        return settings.steps
    return math.ceil(settings.epochs * size / min(settings.batch, size)) if size else 0


def batches(size: int, batch: int, seed: int, start: int, stop: int) -> Iterator[tuple[int, Rows]]:
    """Yield (epoch, examples) of some steps: each epoch is a permutation, and no batch ends short with one."""
    batch = min(batch, size)

    @lru_cache(maxsize=1)
    def order(epoch: int) -> Rows:
        return np.random.default_rng([seed, epoch]).permutation(size)

    for step in range(start, stop):
        epoch, place = divmod(step * batch, size)
        first = order(epoch)[place : place + batch]
        rest = batch - len(first)
        yield epoch, np.concatenate([first, order(epoch + 1)[:rest]]) if rest else first


def learning_rate(step: int, total: int, warmup: float) -> float:
    """Return the share of the highest rate at ``step``: linear up, then linear down to 0.

    Examples
    --------
    >>> [round(learning_rate(step, 10, 0.2), 3) for step in (0, 1, 2, 6, 9)]
    [0.5, 1.0, 1.0, 0.5, 0.125]
    """
    rising = round(total * warmup)
    if step < rising:
        return (step + 1) / rising
    return (total - step) / max(1, total - rising)


def train(
    objective: Objective,
    settings: Optimiser,
    folder: Path,
    seed: int,
    progress: Progress = SILENT,
    follow: Follow | None = None,
) -> TrainingLog:
    """Train ``objective.module`` in place; ``checkpoint.safetensors`` in ``folder`` is taken up and kept up to date."""
    total = total_steps(settings, objective.size)
    module = objective.module
    if not settings.dropout:
        _turn_dropout_off(module)
    frozen = word_tables(module) if settings.freeze_words else []
    for parameter in frozen:  # no gradient of the vocabulary is computed at all
        parameter.requires_grad_(False)
    optimiser = _optimiser(module, settings)
    parameters = _parameters(optimiser)
    checkpoint = Checkpoint(folder / "checkpoint.safetensors", module, optimiser)
    log = checkpoint.load()
    progress.start(total, "steps").advance(log.steps)
    module.train()
    began = time.monotonic() - log.seconds
    with for_training(module), sparse_words(module):
        for epoch, examples in batches(objective.size, settings.batch, seed, log.steps, total):
            step = log.steps
            torch.manual_seed(int(np.random.SeedSequence([seed, step, distributed.rank()]).generate_state(1)[0]))
            for group in optimiser.param_groups:
                group["lr"] = group["peak"] * learning_rate(step, total, settings.warmup)
            before = replace(work)
            with enough_memory(f"a step of {counted(len(examples), 'example')}", LESS):
                value, parts = _backward(objective, examples, epoch)
            _refuse_diverged("loss", value, step, total, settings)
            distributed.sum_gradients(parameters)
            _refuse_diverged("gradient", nn.utils.clip_grad_norm_(parameters, settings.clip), step, total, settings)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
            log.add(value, parts, work.since(before))
            log.seconds = time.monotonic() - began
            checkpoint.save_now_and_then(log)
            if follow is not None:
                follow(log, total)
            progress.advance(1, f"loss {np.mean(log.losses[-20:]):.3f}")
    module.eval()
    for parameter in frozen:
        parameter.requires_grad_(True)
    return log


def _backward(objective: Objective, examples: Rows, epoch: int) -> tuple[float, dict[str, float]]:
    """Add the gradient of a batch (B,); a separable loss goes chunk by chunk, which only bounds the memory."""
    chunk = CHUNK * distributed.world_size() if objective.separable else len(examples)
    value, parts = 0.0, dict[str, float]()
    for start in range(0, len(examples), chunk):
        piece = examples[start : start + chunk]
        share = len(piece) / len(examples)
        loss, its = objective.loss(piece, epoch)
        torch.autograd.backward(share * loss)
        value += share * loss.item()
        for name, part in its.items():
            parts[name] = parts.get(name, 0.0) + share * part
    return value, parts


def _refuse_diverged(what: str, value: float | Tensor, step: int, total: int, settings: Optimiser) -> None:
    """Stop before a step that would make the weights no numbers."""
    if not math.isfinite(value):
        raise StepwellError(
            f"the {what} became {float(value)} at step {step + 1} of {total} (lr {settings.lr}): training has "
            "diverged. Lower `lr`, raise `tau`, or check the teacher's scores (stepwell prints their spread)."
        )


def _optimiser(module: nn.Module, settings: Optimiser) -> torch.optim.AdamW:
    """Return AdamW in which only matrices decay, and a reranker's head has a rate of its own."""
    head, head_lr = set[int](), settings.lr
    if isinstance(settings, RerankTraining):
        head, head_lr = {id(parameter) for parameter in head_parameters(module)}, settings.head_lr
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for parameter in module.parameters():
        if parameter.requires_grad:
            groups.setdefault((id(parameter) in head, parameter.ndim > 1), []).append(parameter)
    rate, decay = {True: head_lr, False: settings.lr}, {True: settings.weight_decay, False: 0.0}
    options = [
        {"params": parameters, "peak": rate[in_head], "weight_decay": decay[matrix]}
        for (in_head, matrix), parameters in groups.items()
    ]
    return torch.optim.AdamW(options, lr=settings.lr, fused=True)


def _parameters(optimiser: torch.optim.Optimizer) -> list[nn.Parameter]:
    return [parameter for group in optimiser.param_groups for parameter in group["params"]]


def _turn_dropout_off(module: nn.Module) -> None:
    """Turn dropout off for good (the saved configuration stays)."""
    for part in module.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0
        for name in ("dropout_prob", "attention_dropout"):
            if isinstance(getattr(part, name, None), float):
                setattr(part, name, 0.0)


def checkpoint_seconds() -> float:
    """Return the seconds between two checkpoints: STEPWELL_CHECKPOINT_SECONDS, 120 by default."""
    stated = os.environ.get("STEPWELL_CHECKPOINT_SECONDS") or "120"
    try:
        seconds = float(stated)
    except ValueError:
        seconds = -1.0
    if not seconds >= 0:
        raise StepwellError(
            f"STEPWELL_CHECKPOINT_SECONDS is {stated!r}: set it to a number of seconds, such as 120, or unset it."
        )
    return seconds


class Checkpoint:
    """Weights, moments and the log in one safetensors file with the sha256 of all of it, replaced as a whole."""

    def __init__(self, path: Path, module: nn.Module, optimiser: torch.optim.AdamW) -> None:
        self.path, self.module, self.optimiser = path, module, optimiser
        self.every, self.last = checkpoint_seconds(), time.monotonic()

    def save_now_and_then(self, log: TrainingLog) -> None:
        """Save when the last time was long enough ago."""
        if distributed.is_main() and time.monotonic() - self.last >= self.every:
            self.save(log)
            self.last = time.monotonic()

    def save(self, log: TrainingLog) -> None:
        """Write the file whole or not at all."""
        tensors = {f"weight.{name}": parameter.data for name, parameter in self.module.named_parameters()}
        for index, parameter in enumerate(_parameters(self.optimiser)):
            state = self.optimiser.state.get(parameter, {})
            tensors |= {f"{ours}.{index}": state[theirs] for ours, theirs in MOMENTS.items() if state}
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        content = json.dumps(asdict(log))
        with whole(self.path) as draft:
            try:
                save_file(tensors, draft, metadata={"log": content, "sha256": sha256_of(tensors, content)})
            except SafetensorError as error:
                raise cannot_write(draft, error) from error

    def load(self) -> TrainingLog:
        """Take up the file, on all processes or none; one that is damaged is warned of, and it begins at step 0."""
        log, saved = TrainingLog(), dict[str, Tensor]()
        if self.path.is_file():
            try:
                log, saved = self._read()
            except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
                reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
                warn(
                    f"the checkpoint {self.path} can't be taken up, so this training begins at step 0 again ({reason})."
                )
        if distributed.any_says(not saved):
            return TrainingLog()
        for index, parameter in enumerate(_parameters(self.optimiser)):
            if f"moment1.{index}" in saved:
                self.optimiser.state[parameter] = {
                    theirs: saved[f"{ours}.{index}"].to(parameter.device) for ours, theirs in MOMENTS.items()
                }
        with torch.no_grad():
            for name, parameter in self.module.named_parameters():
                parameter.copy_(saved[f"weight.{name}"])
        return log

    def _read(self) -> tuple[TrainingLog, dict[str, Tensor]]:
        with safe_open(self.path, framework="pt") as file:
            facts = file.metadata()
            saved = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        log = TrainingLog(**json.loads(facts["log"]))
        if facts.get("sha256") != sha256_of(saved, facts["log"]):
            raise ValueError("its content is not what was saved, by its sha256; the disk may be failing")
        return log, saved
