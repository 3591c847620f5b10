"""A recipe made small: the same stages, rungs, teachers and losses, but fewer steps, queries and layers.

``tiny`` shows in a minute that a recipe fits its collection and its models; a number shortens all trainings by that
factor. What can't be made smaller by a recipe stays: the passages of the collection, and models that are taken as
they are. A result of a scaled recipe says nothing about the whole one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

from pydantic import BaseModel

from stepwell.errors import StepwellError
from stepwell.recipe.recipe import Optimiser, Recipe, Section

TINY: Mapping[str, Any] = {
    "collection": {"train_queries": 48, "dev_queries": 16, "test_queries": 16},
    "tokens": {"query": 16, "passage": 32, "pair": 48},
    "student": {"layers": 1},
    "teachers": {"layers": 2},
    "mining": {"depth": 20, "first": 5, "last": 10, "pool": 6},
    "refine": {"depth": 10},
    "judging": {"rerank": 5, "headroom_queries": 8},
}
"""The most that each key may be at ``tiny``; trained teachers get theirs, those that are taken stay."""

TINY_TRAINING: Mapping[str, Any] = {
    "steps": 3,
    "batch": 4,
    "candidates": 4,
    "negatives": 1,
    "train_queries": 16,
    "imitate_epochs": 1.0,
}
"""The same for every training; epochs become steps."""

EMPTY_IS_ALL = {"layers", "steps", "train_queries", "dev_queries", "test_queries"}
"""Keys that are limited when they are empty too."""

EPOCHS = ("epochs", "imitate_epochs")

S = TypeVar("S", bound=Section)


def scaled(recipe: Recipe, scale: str | float) -> Recipe:
    """Return a recipe made small, under a name of its own (so that its folder is another one too).

    Parameters
    ----------
    recipe
        Any recipe.
    scale
        ``tiny``, or a factor of the lengths of all trainings, above 0 and at most 1, also as text.

    Raises
    ------
    StepwellError
        When the scale is neither.

    Examples
    --------
    >>> recipe = Recipe.model_validate(
    ...     {
    ...         "collection": {"path": "demo"},
    ...         "student": {"from": "demo", "layers": 6},
    ...         "teachers": {"de": {"kind": "dual-encoder", "from": "demo", "train": {"epochs": 2}}},
    ...         "ladder": [{"teacher": "de", "loss": "in-batch", "steps": 40_000}],
    ...     }
    ... )
    >>> small = scaled(recipe, 0.01)
    >>> small.name, small.ladder[0].steps, small.teachers["de"].train.epochs, small.student.layers
    ('stepwell-0.01', 400, 0.02, 6)
    >>> small = scaled(recipe, "tiny")
    >>> small.name, small.ladder[0].steps, small.teachers["de"].train.steps, small.student.layers
    ('stepwell-tiny', 3, 3, 1)
    """
    factor, small = _factor(scale), recipe
    if factor is None:
        small = _tiny(_each_training(recipe, _tiny_training))
    else:
        small = _each_training(recipe, partial(_shorter, factor))
    name = f"{recipe.name}-{'tiny' if factor is None else f'{factor:g}'}"
    return small.model_copy(update={"name": name})


def _factor(scale: str | float) -> float | None:
    """Return the factor, or None for ``tiny``."""
    if scale == "tiny":
        return None
    try:
        factor = float(scale)
    except ValueError:
        factor = math.nan
    if not 0 < factor <= 1:
        raise StepwellError(f"--scale takes `tiny` or a number above 0 and at most 1, and was given {scale!r}.")
    return factor


def _each_training(value: Any, change: Callable[[Optimiser], Optimiser]) -> Any:
    """Return a copy of a section in which every training, however deep, went through ``change``."""
    if isinstance(value, dict):
        return {key: _each_training(item, change) for key, item in value.items()}
    if isinstance(value, list):
        return [_each_training(item, change) for item in value]
    if not isinstance(value, BaseModel):
        return value
    inner = {name: _each_training(getattr(value, name), change) for name in type(value).model_fields}
    copy = value.model_copy(update=inner)
    return change(copy) if isinstance(copy, Optimiser) else copy


def _shorter(factor: float, training: Optimiser) -> Optimiser:
    steps = training.steps and max(1, round(factor * training.steps))
    epochs = {name: factor * getattr(training, name) for name in EPOCHS if name in type(training).model_fields}
    return training.model_copy(update={"steps": steps, **epochs})


def _tiny_training(training: Optimiser) -> Optimiser:
    small = _at_most(training, TINY_TRAINING)
    trains = training.steps or training.epochs
    return small if trains else small.model_copy(update={"steps": None})


def _at_most(section: S, limits: Mapping[str, Any]) -> S:
    """Return a section with no key above its limit; keys that it does not have are passed over."""
    kept: dict[str, Any] = {}
    for name, limit in limits.items():
        value = getattr(section, name, None)
        if isinstance(value, int | float):  # `negatives` is a number in some sections and a name in others
            kept[name] = min(value, limit)
        elif value is None and name in EMPTY_IS_ALL and name in type(section).model_fields:
            kept[name] = limit
    return section.model_copy(update=kept)


def _tiny(recipe: Recipe) -> Recipe:
    sections = {name: _at_most(getattr(recipe, name), limits) for name, limits in TINY.items() if name != "teachers"}
    if isinstance(recipe.student.pick, list):
        sections["student"] = sections["student"].model_copy(update={"pick": recipe.student.pick[:1]})
    teachers = {
        name: _at_most(teacher, TINY["teachers"]) if getattr(teacher, "train", None) else teacher
        for name, teacher in recipe.teachers.items()
    }
    return recipe.model_copy(update={**sections, "teachers": teachers})
