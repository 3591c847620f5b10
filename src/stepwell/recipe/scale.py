"""A recipe made small: the same stages, rungs, teachers and losses, but fewer steps, queries and layers.

``tiny`` shows in a minute that a recipe fits its collection and its models; a number shortens all trainings by that
factor. What can't be made smaller by a recipe stays: the passages of the collection, and models that are taken as
they are. A result of a scaled recipe says nothing about the whole one.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

from stepwell.errors import RecipeError
from stepwell.recipe.recipe import Recipe
from stepwell.recipe.training import Optimiser

TINY: Mapping[str, Any] = {
    "collection": {"train_queries": 48, "dev_queries": 16, "test_queries": 16},
    "tokens": {"query": 16, "passage": 32, "pair": 48},
    "student": {"layers": 1},
    "mining": {"depth": 20, "first": 5, "last": 10, "pool": 6},
    "refine": {"depth": 10},
    "judging": {"rerank": 5, "headroom_queries": 8},
}
"""The most that each key may be at ``tiny``."""


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

Content = dict[str, Any]


def scaled(recipe: Recipe, scale: str | float) -> Recipe:
    """Return a recipe made small by ``tiny`` or a factor, under a name of its own, so that its folder is another too.

    >>> from stepwell.recipe.yaml_file import demo_recipe
    >>> small = scaled(demo_recipe(), 0.1)
    >>> small.name, small.ladder[0].epochs, small.student.layers
    ('demo-0.1', 0.5, 2)
    >>> small = scaled(demo_recipe(), "tiny")
    >>> small.name, small.ladder[0].steps, small.teachers["de6"].train.steps, small.student.layers
    ('demo-tiny', 3, 3, 1)
    """
    content = recipe.model_dump(by_alias=True)
    if scale == "tiny":
        content, name = _tiny(_each_training(content, _tiny_training)), "tiny"
    else:
        try:
            factor = float(scale)
        except ValueError:
            factor = math.nan
        if not 0 < factor <= 1:
            raise RecipeError(f"--scale takes `tiny` or a number above 0 and at most 1, and was given {scale!r}.")
        content, name = _each_training(content, lambda training: _shorter(factor, training)), f"{factor:g}"
    return Recipe.model_validate(content | {"name": f"{recipe.name}-{name}"})


def _each_training(content: Any, change: Callable[[Content], Content]) -> Any:
    """Return a copy in which every training, however deep, went through ``change``."""
    if isinstance(content, list):
        return [_each_training(item, change) for item in content]
    if not isinstance(content, dict):
        return content
    copy = {key: _each_training(item, change) for key, item in content.items()}
    return change(copy) if Optimiser.model_fields.keys() <= copy.keys() else copy


def _shorter(factor: float, training: Content) -> Content:
    steps = training["steps"] and max(1, round(factor * training["steps"]))
    epochs = {key: factor * training[key] for key in ("epochs", "imitate_epochs") if key in training}
    return training | {"steps": steps} | epochs


def _tiny_training(training: Content) -> Content:
    trains = training["steps"] or training["epochs"]
    return _at_most(training, TINY_TRAINING) | ({} if trains else {"steps": None})


def _at_most(section: Content, limits: Mapping[str, Any]) -> Content:
    """Return a section with no key above its limit; keys that it does not have are passed over."""
    kept: Content = {}
    for key in limits.keys() & section.keys():
        if isinstance(section[key], int | float):  # `negatives` is a number in some sections and a name in others
            kept[key] = min(section[key], limits[key])
        elif section[key] is None and key in EMPTY_IS_ALL:
            kept[key] = limits[key]
    return section | kept


def _tiny(content: Content) -> Content:
    sections = {name: _at_most(content[name], limits) for name, limits in TINY.items()}
    if isinstance(content["student"]["pick"], list):
        sections["student"]["pick"] = content["student"]["pick"][:1]
    teachers = {  # those that are taken as they are stay so
        name: _at_most(teacher, {"layers": 2}) if teacher.get("train") else teacher
        for name, teacher in content["teachers"].items()
    }
    return content | sections | {"teachers": teachers, "proof_rates": content["proof_rates"][:1]}
