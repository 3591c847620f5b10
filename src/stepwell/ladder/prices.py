"""What stages cost, counted in operations before anything runs: the plan, and the ETA of a run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from sentence_transformers.base.modules import Dense
from sentence_transformers.sentence_transformer.modules import Pooling
from transformers import AutoConfig

from stepwell.distil.training import total_steps
from stepwell.ladder.context import Context
from stepwell.ladder.workspace import Work
from stepwell.models.build import (
    build_student,
    cannot_open,
    open_one_tower,
    open_sentence_transformer,
    quiet,
    takes_whole,
    transformer_of,
)
from stepwell.models.engines.flops import inner_width
from stepwell.models.files import locate, modules_of
from stepwell.models.tokens import Template, Tokens
from stepwell.recipe import Optimiser, StudentSection
from stepwell.recipe.teachers import AnyTeacher, DualEncoderTeacher
from stepwell.teachers.opening import Reads, kind_of

ANSWER = 0.5
"""Seconds that a hosted teacher is guessed to take for a request."""

SELECTED = 0.12
"""Share of the training queries that refine is guessed to select."""

BACKWARD = 3.0
"""Operations of a training step over those of its forward: the backward pass takes two."""


@lru_cache(maxsize=16)
def depth_of(base: str) -> int:
    """Return how many layers a base model has."""
    return int(config_of(base).num_hidden_layers)


def config_of(base: str) -> Any:
    """Return the transformers configuration of a base model without loading its weights where possible."""
    place = Path(locate(base))
    with quiet():
        for folder in (place, place / "0_Transformer"):
            if (folder / "config.json").is_file():
                try:
                    return AutoConfig.from_pretrained(str(folder))
                except (OSError, ValueError) as error:
                    raise cannot_open(base, "a model", error) from error
        return transformer_of(open_sentence_transformer(base)).auto_model.config


def vector_width(section: StudentSection | DualEncoderTeacher) -> int:
    """Return the width D of the vectors of a student or dual-encoder teacher, by its base's files where they tell.

    Behind a head it is that of the last Dense layer, else that of the transformer, once for each way of pooling.
    """
    base, place = section.base, locate(section.base)
    whole = takes_whole(section.layers, section.pooling, section.similarity)
    width = hidden = int(config_of(base).hidden_size)
    try:
        for kind, folder in modules_of(base):
            match kind:
                case "Pooling":
                    own = Pooling.load(place, subfolder=folder)
                    if section.pooling not in (None, own.pooling_mode):
                        return hidden  # the head was trained for the other pooling, and goes with it
                    width = own.pooling_output_dimension
                case "Dense":
                    width = int(Dense.load_config(place, subfolder=folder)["out_features"])
                case "Transformer" | "Normalize" | "LayerNorm" | "Dropout":
                    pass
                case _ if whole:  # another kind of module stays: only the model knows
                    return int(build_student(base, None, "first", None, None, 1, 8).get_embedding_dimension() or 0)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise cannot_open(base, "encoder", error) from error
    return width


def operations_a_token(base: str, layers: int | None) -> float:
    """Return the operations of a forward pass per token: two per weight of the layers' matrices."""
    config = config_of(base)
    width = int(config.hidden_size)
    count = min(layers or config.num_hidden_layers, config.num_hidden_layers)
    return float(2 * count * (4 * width * width + 2 * width * inner_width(config)))


@dataclass(frozen=True)
class Prices:
    """Operations and bytes of each kind of stage for one collection.

    Parameters
    ----------
    passages
        Passages of the collection.
    train, dev, test
        Queries of each split.
    passage, query, pair
        Mean tokens of a text, under the recipe's limits.
    """

    passages: int
    train: int
    dev: int
    test: int
    passage: float
    query: float
    pair: float

    @classmethod
    def of(cls, ctx: Context) -> Prices:
        """Count a run's texts, and their tokens on a sample with the student's tokenizer."""
        recipe, collection = ctx.recipe, ctx.collection
        tokenizer = transformer_of(open_one_tower(recipe.student.base)).tokenizer
        special = sum(Template.of(tokenizer).overhead) / 2
        random = np.random.default_rng(0)

        def mean(texts: list[str], limit: int) -> float:
            return float(np.minimum(Tokens.build(tokenizer, texts, 10_000).lengths + special, limit).mean())

        some = random.choice(collection.n_passages, min(400, collection.n_passages), replace=False)
        few = random.choice(ctx.query_rows, min(400, len(ctx.query_rows)), replace=False)
        passage = mean(collection.passage_texts(some), recipe.tokens.longest)
        query = mean(collection.query_texts(few), recipe.tokens.longest)
        pair = min(passage + query - special / 2, recipe.tokens.pair)
        train, dev, test = (len(getattr(ctx.splits, split).query_rows) for split in ("train", "dev", "test"))
        return cls(collection.n_passages, train, dev, test, passage, query, pair)

    def encode(self, base: str, layers: int | None, texts: tuple[int, int] | None = None) -> Work:
        """Price the encoding of all passages and queries, or of so many of ``texts`` from elsewhere."""
        texts = texts or (self.passages, self.train + self.dev + self.test)
        tokens = texts[0] * self.passage + texts[1] * self.query
        width = int(config_of(base).hidden_size)
        return Work(forward=tokens * operations_a_token(base, layers), disk=4.0 * width * sum(texts), seconds=1.0)

    def dense(self, base: str, layers: int | None, settings: Optimiser, k: int, steps: int | None = None) -> Work:
        """Price the training of a dual encoder on queries with K candidates each."""
        steps = steps if steps is not None else total_steps(settings, self.train)
        tokens = steps * min(settings.batch, self.train) * (self.query + k * self.passage)
        return self._training(base, layers, tokens)

    def embedding(
        self,
        base: str,
        layers: int | None,
        settings: Optimiser,
        steps: int | None = None,
        more: tuple[int, int] = (0, 0),
    ) -> Work:
        """Price the training on all passages and queries, and on so many ``more`` of both, text by text."""
        n, q = self.passages + more[0], self.train + more[1]
        steps = steps if steps is not None else total_steps(settings, n + q)
        mean = (n * self.passage + q * self.query) / (n + q)
        return self._training(base, layers, steps * min(settings.batch, n + q) * mean)

    def cross(self, base: str, layers: int | None, queries: float, k: int, training: bool) -> Work:
        """Price the training of a cross-encoder on K pairs of so many queries, or their scoring."""
        if training:
            return self.lists("pairs", base, layers, queries, k)
        return Work(forward=self._forward(Reads(base, layers, "pairs"), queries, k), disk=12.0 * queries * k)

    def lists(self, reads: str, base: str, layers: int | None, queries: float, k: int) -> Work:
        """Price the training of a model on K candidates of so many queries: it ``reads`` pairs, or each text."""
        return self._training(base, layers, self._read(reads, queries, k))

    def scoring(self, teachers: Mapping[str, AnyTeacher], name: str, queries: float, k: int) -> Work:
        """Price a teacher's scores of K candidates of so many queries; none of them is there yet."""
        cost = kind_of(name, teachers).cost(queries, k)
        forward = sum(self._forward(model, queries, k) for model in cost.reads)
        return Work(forward=forward, disk=12.0 * cost.kept, seconds=ANSWER * cost.rounds)

    def _read(self, reads: str, queries: float, k: int) -> float:
        """Return the tokens of K candidates of so many queries, as pairs or each text alone."""
        return queries * k * self.pair if reads == "pairs" else queries * (self.query + k * self.passage)

    def _forward(self, model: Reads, queries: float, k: int) -> float:
        return self._read(model.what, queries, k) * operations_a_token(model.base, model.layers)

    def _training(self, base: str, layers: int | None, tokens: float) -> Work:
        operations = operations_a_token(base, layers)
        weights = 4.0 * (operations / 2 + int(config_of(base).vocab_size) * int(config_of(base).hidden_size))
        return Work(training=BACKWARD * tokens * operations, disk=weights, seconds=2.0)

    def steps(self, rungs: list[tuple[Optimiser, str, int]]) -> int:
        """Return the optimiser steps of some rungs, each with its loss and its number of texts from elsewhere."""
        sizes = {"embedding": self.passages + self.train}
        return sum(total_steps(settings, sizes.get(loss, self.train) + more) for settings, loss, more in rungs)


def refine_steps(settings: Optimiser, train: int) -> int:
    """Return the steps of a round of refine, before it is known which of the training queries it selects."""
    return settings.steps or math.ceil(settings.epochs * SELECTED * train / settings.batch)
