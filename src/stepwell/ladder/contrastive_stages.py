"""The stages of contrastive training: the student's warm-up, and going on with a training on mined negatives."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from stepwell.ladder import making
from stepwell.ladder.workspace import Work
from stepwell.recipe.training import DenseTraining

if TYPE_CHECKING:
    from stepwell.ladder.build import Builder


def add_start(builder: Builder) -> None:
    """Add the student at the start: built, and warmed up where the recipe asks for it."""
    warmup, student = builder.recipe.warmup, builder.recipe.student
    inputs, work = tuple[str, ...](), Work()
    if warmup.trains:
        inputs = (builder.candidates("candidates.warmup", "bm25", 1 + warmup.negatives),)
        work = builder.prices.dense(student.base, student.layers, warmup, 1 + warmup.negatives)
    settings = {**builder.student(), "warmup": warmup.model_dump(exclude={"further"}) if inputs else None}
    settings |= builder.content(student.base)
    title = "build and warm up the student" if inputs else "build the student"
    first = "start" if warmup.further is None else "start.first"
    run = partial(making.start_student, builder.ctx)
    builder.add(first, "start", title, settings, inputs, run, collective=True, work=work)
    if warmup.further is not None:
        dense = [rung.teacher for rung in builder.recipe.ladder if builder.embeds(rung.teacher)]
        miner = builder.teacher_run(dense[0]) if dense else "bm25"
        place = (student.base, student.layers, student.loss_scale)
        go_on(builder, "start", first, miner, f"warm up the student on what {miner} finds", warmup, place)


def go_on(
    builder: Builder,
    stage: str,
    first: str,
    miner: str,
    title: str,
    train: DenseTraining,
    model: tuple[str, int | None, float | None],
) -> None:
    """Add the second contrastive training behind the stage ``first``, on what ``miner`` finds.

    ``model`` is what is trained: its base, layers and scale.
    """
    assert train.further is not None
    base, layers, scale = model
    k = 1 + train.negatives
    found = builder.candidates(f"candidates.{stage}", miner, k)
    settings = {"train": train.model_dump(), "scale": scale}
    run = partial(making.go_on, builder.ctx, first, found, train, scale)
    work = builder.prices.dense(base, layers, train.further, k)
    builder.add(stage, "train-dense", title, settings, (first, found), run, collective=True, work=work)
