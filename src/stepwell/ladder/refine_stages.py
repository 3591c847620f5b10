"""The stages of refine: select, distil, judge, round after round."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from stepwell.errors import StepwellError
from stepwell.ladder import making, refine
from stepwell.ladder.prices import refine_steps

if TYPE_CHECKING:
    from stepwell.ladder.build import Builder


def add_refinement(builder: Builder) -> None:
    """Add rounds of data progressive distillation, each only if the one before made dev better."""
    settings = builder.recipe.refine
    teacher = builder.refine_teacher
    if settings.rounds and builder.embeds(teacher):
        raise StepwellError(
            f"refine needs a cross-encoder or another teacher that reranks the student's lists, and {teacher!r} is a "
            "dual encoder: name one in `refine.teacher`, or leave refine out with `refine: {rounds: 0}`."
        )
    for round_ in range(1, settings.rounds + 1):
        number = builder.rungs + round_
        before = f"student@{number - 1}"
        builder.only_if = () if round_ == 1 else (f"promote-{number - 1}",)
        gate = _select(builder, round_, before)
        builder.only_if = (gate,)
        _distil(builder, round_, before, gate)
        builder.judge_student(f"rung-{number}", f"the student after refine {round_}")
        builder.training_run(f"rung-{number}", "the student")
        builder.add(
            f"outcome-{number}",
            "outcome",
            f"refine, round {round_}: fixed and broken",
            {},
            (f"{before}.train", f"rung-{number}.train", gate),
            partial(refine.outcome, builder.ctx, before, f"rung-{number}", number),
        )
        builder.only_if = ()
        builder.promote(number)


def _select(builder: Builder, round_: int, before: str) -> str:
    """Add what chooses the queries of a round by the lists of the student ``before``; return its stage."""
    settings, teacher = builder.recipe.refine, builder.refine_teacher
    builder.teacher(teacher, builder.last_miner())
    builder.training_run(before, "the student")
    asked = 0.4 * builder.prices.train
    return builder.add(
        f"select-{builder.rungs + round_}",
        "select",
        f"refine, round {round_}: {teacher} selects queries",
        _settings(builder),
        (f"{before}.train", *builder.opens(teacher)),
        partial(refine.select, builder.ctx, settings, teacher, before),
        collective=True,
        work=builder.prices.scoring(builder.recipe.teachers, teacher, asked, settings.depth),
    )


def _distil(builder: Builder, round_: int, before: str, gate: str) -> None:
    """Add the training of a round, on the candidates of the stage ``gate``."""
    settings, teacher, student = builder.recipe.refine, builder.refine_teacher, builder.recipe.student
    steps = refine_steps(settings, builder.prices.train)
    builder.add(
        f"rung-{builder.rungs + round_}",
        "distil",
        f"refine, round {round_}: {teacher} teaches",
        {**_settings(builder), **builder.student()},
        (before, gate, *builder.opens(teacher), *([f"{before}.vectors"] if settings.gamma else [])),
        partial(making.distil, builder.ctx, settings, teacher, "candidates", before, gate),
        collective=True,
        work=builder.prices.dense(student.base, student.layers, settings, settings.candidates, steps),
    )


def _settings(builder: Builder) -> dict[str, Any]:
    own = builder.recipe.refine.model_dump(exclude={"rounds"})
    return {**own, "mining": builder.recipe.mining.model_dump(), "teacher": builder.refine_teacher}
