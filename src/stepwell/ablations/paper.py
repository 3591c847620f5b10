"""The grid of the paper's tables, made for any recipe: what `--grid paper` means."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import yaml

from stepwell.ablations.grid import Grid, load_grid, read_grid
from stepwell.models.shape import depth_of
from stepwell.recipe import Recipe

LADDER = "ladder"
DEPTHS = (2, 4, 6)

Made = tuple[str, dict[str, Any]] | str
"""A variant (its name and changes), or a sentence in place of one that makes no sense."""


def open_grid(recipe: Recipe, grid: str | Path | Mapping[str, Any]) -> Grid:
    """Return the grid of a YAML file, of the same as a mapping, or the paper's (``paper``)."""
    if isinstance(grid, Mapping):
        return read_grid(yaml.safe_dump(dict(grid), sort_keys=False), "the grid", recipe, Path())
    if str(grid) != "paper":
        return load_grid(grid, recipe)
    text, notes = paper_grid(recipe, depth_of(recipe.student.base))
    return replace(read_grid(text, "the paper's grid", recipe, Path()), notes=notes)


def paper_grid(recipe: Recipe, deepest: int) -> tuple[str, tuple[str, ...]]:
    """Return the YAML of the paper's variants of a recipe, and a sentence about each that makes no sense for it."""
    made = list(chain(_teachers(recipe), _rungs(recipe), _refine(recipe), _depths(recipe, deepest)))
    variants = {LADDER: {}, **dict(one for one in made if not isinstance(one, str))}
    content = {"reference": LADDER, "force": True, "match_updates": True, "variants": variants}
    notes = tuple(one for one in made if isinstance(one, str))
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=120), notes


def _teachers(recipe: Recipe) -> Iterator[Made]:
    teachers = list(dict.fromkeys(rung.teacher for rung in recipe.ladder))
    if len(teachers) == 1:
        yield f"{teachers[0]} is the only teacher: going straight from it is the ladder without refine."
        return
    for teacher in teachers:
        yield f"straight from {teacher}", {"only": teacher}
    yield "all teachers at once", {"together": True}


def _rungs(recipe: Recipe) -> Iterator[Made]:
    count = len(recipe.ladder)
    if count == 1:
        yield "The ladder has one rung: none can be left out, and there is no order to reverse."
        return
    for number, rung in enumerate(recipe.ladder, start=1):
        yield f"without rung {number} ({rung.teacher}, {rung.loss})", {"without": [number]}
    yield "reversed ladder", {"reversed": True}


def _refine(recipe: Recipe) -> Iterator[Made]:
    rounds = recipe.refine.rounds
    if not rounds:
        yield "The recipe has no refine: its rounds are not varied."
    for number in range(rounds):
        name = "without refine" if not number else f"{number} round{'s' if number > 1 else ''} of refine"
        yield name, {"refine.rounds": number}
    keeps = any(rung.gamma and rung.loss != "embedding" for rung in recipe.ladder) or (rounds and recipe.refine.gamma)
    yield ("without keep", {"keep": False}) if keeps else "The recipe has no keep to leave out."


def _depths(recipe: Recipe, deepest: int) -> Iterator[Made]:
    if isinstance(recipe.student.pick, list):
        yield "The student's layers are picked one by one: its depth is not varied."
        return
    for depth in DEPTHS:
        if depth == min(recipe.student.layers or deepest, deepest):
            continue  # the ladder itself
        if depth > deepest:
            yield f"The student's base has {deepest} layers: there is no student of {depth}."
        else:
            yield f"{depth}-layer student", {"student.layers": depth}
