"""What stages cost, counted in operations before anything runs: the plan, and the ETA of a run."""

import math
from dataclasses import dataclass
from typing import Any

from stepwell.distil.training import total_steps
from stepwell.models.shape import config_of, operations_a_token
from stepwell.recipe import Optimiser, Refine, Rung
from stepwell.teachers.kinds import Cost, Kind

ANSWER = 0.5
"""Seconds that a hosted teacher is guessed to take for a request."""

SELECTED = 0.12
"""Share of the training queries that refine is guessed to select."""

BACKWARD = 3.0
"""Operations of a training step over those of its forward: the backward pass takes two."""


@dataclass(frozen=True)
class Work:
    """What a stage costs, for the plan."""

    forward: float = 0.0  # operations of inference
    training: float = 0.0  # operations of training steps, forward and backward
    disk: float = 0.0  # bytes that stay
    seconds: float = 0.5  # everything that is no matrix product, guessed


@dataclass(frozen=True)
class Prices:
    """Operations and bytes of each kind of work on one collection."""

    passages: int
    train: int  # queries of each split
    dev: int
    test: int
    passage: float  # mean tokens of a text, under the recipe's limits
    query: float
    pair: float
    a_character: float = 0.25  # tokens

    def encode(self, model: Any, texts: tuple[int, int] | None = None) -> Work:
        """Price encoding with a model section's base: all passages and queries, or so many of ``texts``."""
        texts = texts or (self.passages, self.train + self.dev + self.test)
        tokens = texts[0] * self.passage + texts[1] * self.query
        width = int(config_of(model.base).hidden_size)
        operations = operations_a_token(model.base, layers_of(model))
        return Work(forward=tokens * operations, disk=4.0 * width * sum(texts), seconds=1.0)

    def dense(self, model: Any, settings: Optimiser, k: int, steps: int | None = None) -> Work:
        """Price the training of a dual encoder on queries with K candidates each."""
        steps = steps if steps is not None else total_steps(settings, self.train)
        tokens = steps * min(settings.batch, self.train) * (self.query + k * self.passage)
        return self._training(model, tokens)

    def embedding(self, model: Any, settings: Optimiser, more: tuple[int, int], steps: int | None = None) -> Work:
        """Price the training on all passages and queries, and on so many ``more`` of both, text by text."""
        n, q = self.passages + more[0], self.train + more[1]
        steps = steps if steps is not None else total_steps(settings, n + q)
        mean = (n * self.passage + q * self.query) / (n + q)
        return self._training(model, steps * min(settings.batch, n + q) * mean)

    def distil(self, model: Any, rung: Rung, more: tuple[int, int], steps: int | None = None) -> Work:
        """Price the training of the student on a rung, and on so many ``more`` passages and queries."""
        if rung.loss == "embedding":
            return self.embedding(model, rung, more, steps)
        return self.dense(model, rung, rung.candidates, steps)

    def lists(self, model: Any, reads: str, queries: float, k: int) -> Work:
        """Price the training of a model that reads K candidates of so many queries, as pairs or each text alone."""
        return self._training(model, self._read(reads, queries, k))

    def scoring(self, cost: Cost, queries: float, k: int) -> Work:
        """Price a teacher's scores of K candidates of so many queries."""
        forward = sum(
            self._read(model.what, queries, k) * operations_a_token(model.base, model.layers) for model in cost.reads
        )
        return Work(forward=forward, disk=12.0 * cost.kept, seconds=ANSWER * cost.rounds)

    def asking(self, kind: Kind[Any], texts: int) -> Work:
        """Price the vectors of so many texts of a teacher without a model."""
        if not kind.section.embeds:
            return Work()
        return Work(disk=4.0 * (kind.width() or 1_024) * texts, seconds=0.5 + ANSWER * kind.rounds(texts))

    def climb(self, rungs: list[tuple[Rung, int]], refine: Refine) -> int:
        """Return the optimiser steps of rungs, each with its number of texts from elsewhere, and of refine."""
        sizes = {"embedding": self.passages + self.train}
        steps = sum(total_steps(rung, sizes.get(rung.loss, self.train) + more) for rung, more in rungs)
        return steps + (refine.rounds and refine_steps(refine, self.train))

    def _read(self, reads: str, queries: float, k: int) -> float:
        """Return the tokens of K candidates of so many queries, as pairs or each text alone."""
        return queries * k * self.pair if reads == "pairs" else queries * (self.query + k * self.passage)

    def _training(self, model: Any, tokens: float) -> Work:
        operations, config = operations_a_token(model.base, layers_of(model)), config_of(model.base)
        weights = 4.0 * towers_of(model) * (operations / 2 + int(config.vocab_size) * int(config.hidden_size))
        return Work(training=BACKWARD * tokens * operations, disk=weights, seconds=2.0)


def layers_of(model: Any) -> int | None:
    """Return how many layers a section of the recipe keeps: none of them for a static student, None for all."""
    found: int | None = 0 if getattr(model, "static", False) else model.layers
    return found


def towers_of(model: Any) -> int:
    """Return how many towers a section of the recipe builds: a text goes through one of them, and all have weights."""
    return int(getattr(model, "towers", 1))


def refine_steps(settings: Refine, train: int) -> int:
    """Return the steps of a round of refine, before it is known which of the training queries it selects."""
    return settings.steps or math.ceil(settings.epochs * SELECTED * train / settings.batch)
