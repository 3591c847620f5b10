"""The table of contents: from a recipe to the list of its stages, before anything runs."""

from dataclasses import replace

from stepwell.ladder.builder import Builder, encode
from stepwell.ladder.checks import check
from stepwell.ladder.context import Context
from stepwell.ladder.judging import searched
from stepwell.ladder.prices import Prices, Work
from stepwell.ladder.proof import proof
from stepwell.ladder.refine import refinement
from stepwell.ladder.rung import bottom, climb
from stepwell.ladder.stage import Stage
from stepwell.models.engines import machine
from stepwell.systems.folder import SEARCHED


def stages_of(ctx: Context, to_search: bool = False) -> list[Stage]:
    """Return all stages of a run in order, each after its inputs.

    ``to_search``: also what nothing but a search in the finished run needs.
    """
    b = _climbed(ctx)
    proof(b)
    if to_search:
        _for_search(b)
    return list(b.stages.values())


def stages_of_variant(ctx: Context) -> list[Stage]:
    """Return the ladder, refine, and the test of the last student alone, without any other system."""
    b = _climbed(ctx)
    searched(b, "test", f"student@{b.last}", "the student")
    return list(b.stages.values())


def _climbed(ctx: Context) -> Builder:
    b = Builder(ctx)
    check(b)
    bottom(b)
    for number, rung in enumerate(ctx.recipe.ladder, start=1):
        climb(b, number, rung)
    refinement(b)
    return b


def _for_search(b: Builder) -> None:
    """Add the final student's vectors of the passages in fp32, where its others are in bf16."""
    if not machine.searches_exactly():
        return
    student = b.recipe.student

    def cost(prices: Prices) -> Work:
        work = prices.encode(student)
        return replace(work, forward=work.forward * max(1.0, machine.bf16_gain()))

    title, settings = "encode with the final student in fp32, to search", {"scale": student.loss_scale, "exact": True}
    inputs = {"model": f"student@{b.last}"}
    b.add(Stage(SEARCHED, "vectors", title, settings, inputs, run=encode, cost=cost, only_if=()))
