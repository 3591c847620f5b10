"""What is refused before anything runs: settings that can't work with these models and this collection."""

from typing import Any

from stepwell.errors import RecipeError
from stepwell.evaluation import cutoff_of, cutoff_of_set, reached
from stepwell.ladder.builder import Builder
from stepwell.ladder.judging import measures_of
from stepwell.models.build import pick_layers
from stepwell.models.shape import depth_of, vector_width
from stepwell.recipe import Rung


def check(b: Builder) -> None:
    """Refuse what can't be run."""
    _measures(b)
    _layers(b)
    for number, rung in enumerate(b.recipe.ladder, start=1):
        _hold(b, number, rung)
    if b.recipe.refine.rounds and b.embeds(b.refine_teacher):
        raise RecipeError(
            f"refine needs a cross-encoder or another teacher that reranks the student's lists, and "
            f"{b.refine_teacher!r} is a dual encoder: name one in `refine.teacher`, or leave refine out with "
            "`refine: {rounds: 0}`."
        )


def _measures(b: Builder) -> None:
    """Refuse measures that look deeper than the lists, and a deciding one that reranking can't change."""
    judging, ladder = b.recipe.judging, b.recipe.ladder
    measures = measures_of(b.judging)
    if too_deep := sorted(set(measures) - set(reached(judging.depth, measures)), key=measures.index):
        deepest = cutoff_of(too_deep[0])
        raise RecipeError(
            f"judging: {too_deep[0]} looks at the first {deepest} passages, and {judging.depth} are retrieved a query "
            f"(judging.depth): the figure would be another measure's. Set `depth` to {deepest}, or leave it out."
        )
    cutoff = cutoff_of_set(judging.measure)
    gated = [rung.teacher for rung in ladder if not (rung.force or b.embeds(rung.teacher))]
    if gated and cutoff is not None and cutoff >= judging.rerank:
        raise RecipeError(
            f"judging.measure: {judging.measure} asks what is among the first {cutoff} passages, in any order, and "
            f"{gated[0]} only reorders the first {judging.rerank} of the student's list (judging.rerank): it could "
            f"never be ahead, and its rung would always be left out. Set `rerank` above {cutoff}, decide by a measure "
            "that sees the order (nDCG@10), or give the rung `force: true`."
        )


def _layers(b: Builder) -> None:
    """Refuse layers that a base model has not."""
    student = b.recipe.student
    pick_layers(depth_of(student.base), student.layers, student.pick)
    for name in b.recipe.teachers:
        kind = b.kind(name)
        if kind.model is not None and kind.section.layers is not None:
            pick_layers(depth_of(kind.section.base), kind.section.layers, "first")


def _hold(b: Builder, number: int, rung: Rung) -> None:
    """Refuse to keep the student's vectors near others of another width."""
    name = b.recipe.embedding_teacher
    if not rung.hold or name is None or rung.loss == "embedding":
        return
    teacher: Any = b.recipe.teachers[name]
    theirs, own = vector_width(teacher), vector_width(b.recipe.student)
    if theirs != own:
        raise RecipeError(
            f"rung {number} of the ladder: `hold` keeps the student's vectors near those of {name!r}, and they "
            f"can't be compared: the student's (from {b.recipe.student.base}) have {own} numbers, the "
            f"teacher's (from {teacher.base}) {theirs}. Set `hold: 0` in this rung, or take a student and a "
            "teacher of one width. (The embedding rung itself learns a projection from one to the other.)"
        )
