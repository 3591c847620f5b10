"""The words of a grid that change a ladder: pure functions from a recipe to a recipe."""

from collections.abc import Sequence
from itertools import accumulate

from stepwell.collection.unlabelled import open_unlabelled
from stepwell.distil.training import total_steps
from stepwell.recipe import Recipe, Rung


def settled(recipe: Recipe) -> Recipe:
    """Write out what the recipe leaves to its ladder: who mines for each rung, and who teaches refine.

    So a changed ladder keeps the negatives and the scores of the whole one, and differs in its rungs alone.
    """
    miners = [{"negatives": recipe.miner_of(number)} for number in range(1, len(recipe.ladder) + 1)]
    rungs = [rung.model_copy(update=miner) for rung, miner in zip(recipe.ladder, miners, strict=True)]
    refine = recipe.refine.model_copy(update={"teacher": recipe.refine.teacher or recipe.ladder[-1].teacher})
    return recipe.model_copy(update={"ladder": rungs, "refine": refine})


def climbing(recipe: Recipe, order: Sequence[int]) -> Recipe:
    """Return the recipe with some rungs of its ladder, in an order of their own.

    A rung that comes first only now has no earlier lesson to keep (gamma 0), and without an embedding rung there
    are no vectors to hold on to (hold 0).
    """
    settled_ = settled(recipe)
    rungs = [settled_.ladder[number] for number in order]
    if order[0] != 0:
        rungs[0] = rungs[0].model_copy(update={"gamma": 0.0})
    if all(rung.loss != "embedding" for rung in rungs):
        rungs = [rung.model_copy(update={"hold": 0.0}) for rung in rungs]
    return settled_.model_copy(update={"ladder": rungs})


def with_rungs(recipe: Recipe, **changes: object) -> Recipe:
    """Return the recipe with some fields changed in every rung."""
    return recipe.model_copy(update={"ladder": [rung.model_copy(update=changes) for rung in recipe.ladder]})


def with_refine(recipe: Recipe, **changes: object) -> Recipe:
    """Return the recipe with some fields of refine changed."""
    return recipe.model_copy(update={"refine": recipe.refine.model_copy(update=changes)})


def straight(recipe: Recipe, order: Sequence[int]) -> Recipe:
    """Return plain distillation by some rungs alone: nobody teaches beside them, and there is no refine."""
    return with_refine(with_rungs(climbing(recipe, order), beside=None), rounds=0)


def together(recipe: Recipe, order: Sequence[int]) -> Recipe:
    """Return plain distillation from the mean of some rungs' teachers, in one rung with the settings of the last."""
    alone = straight(recipe, order)
    teachers = {rung.teacher: alone.teachers[rung.teacher] for rung in alone.ladder}
    names = list(dict.fromkeys(part for name, one in teachers.items() for part in getattr(one, "of", [name])))
    if len(names) < 2:
        raise ValueError(f"needs two teachers or more, and the ladder has {names[0]!r} alone")
    content = alone.model_dump(by_alias=True)
    name = "-".join(names)
    content["teachers"][name] = {"kind": "mean", "of": names}
    content["ladder"] = [{**content["ladder"][-1], "teacher": name, "loss": "candidates", "gamma": 0.0, "hold": 0.0}]
    return Recipe.model_validate(content)


def without_keep(recipe: Recipe) -> Recipe:
    """Return the recipe with gamma 0 in every rung and in refine."""
    return with_refine(with_rungs(recipe, gamma=0.0), gamma=0.0)


def forced(recipe: Recipe) -> Recipe:
    """Return the recipe with every rung and refine climbed and promoted, whatever dev says."""
    judging = recipe.judging.model_copy(update={"level": 0.0})
    return with_refine(with_rungs(recipe, force=True), force=True).model_copy(update={"judging": judging})


def ladder_steps(recipe: Recipe, passages: int, queries: int) -> list[int]:
    """Return the optimiser steps that each rung asks for on so many passages and training queries."""

    def examples(rung: Rung) -> int:
        more = sum(len(open_unlabelled(path)) for path in rung.more.values())
        return passages + queries + more if rung.loss == "embedding" else queries

    return [total_steps(rung, examples(rung)) for rung in recipe.ladder]


def matched(recipe: Recipe, updates: int, passages: int, queries: int) -> Recipe:
    """Return the recipe with its rungs made longer, in proportion, until they take ``updates`` optimiser steps.

    A ladder that takes as many or more stays as it is, and so does a rung of no steps.
    """
    own = ladder_steps(recipe, passages, queries)
    if not 0 < sum(own) < updates:
        return recipe
    ends = [round(updates * total / sum(own)) for total in accumulate(own)]  # own 10 and 5, updates 30: 20 and 30
    longer = [
        rung.model_copy(update={"steps": max(1, end - begin)}) if steps else rung
        for rung, steps, begin, end in zip(recipe.ladder, own, [0, *ends], ends, strict=False)
    ]
    return recipe.model_copy(update={"ladder": longer})
