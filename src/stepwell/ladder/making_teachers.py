"""Stages that make teachers: models taken as they are or trained, and what stands in for a model."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from stepwell import distributed
from stepwell.distil.negatives import Candidates
from stepwell.distil.objectives import Draw, RerankObjective
from stepwell.distil.training import total_steps
from stepwell.ladder.context import Context
from stepwell.ladder.making import build_dense, contrast, learn
from stepwell.ladder.workspace import Job
from stepwell.models.late_interaction import LateInteraction
from stepwell.models.reranker import Reranker
from stepwell.recipe.training import ListTraining
from stepwell.retrieval.vectors import Vectors
from stepwell.teachers.opening import DualEncoder, Kind, ListModel


def take_or_train_dense(ctx: Context, kind: DualEncoder, job: Job) -> None:
    """Make a dual-encoder teacher: its base as it is, or trained contrastively."""
    teacher = kind.section
    encoder = build_dense(ctx, teacher, job.folder)
    if teacher.train is not None:
        contrast(
            ctx,
            encoder,
            Candidates.load(job.inputs[f"candidates.{kind.name}"] / "candidates.parquet", ctx.collection),
            teacher.train,
            job,
        )


def take_or_train_lists(ctx: Context, kind: ListModel[Any], job: Job) -> None:
    """Make a cross-encoder or a late-interaction teacher.

    It is taken as it is, or first imitates a dual encoder and is then trained listwise.
    """
    teacher, tokens = kind.section, ctx.recipe.tokens
    if teacher.train is None:
        taken = kind.opened(teacher.base, tokens)
        if distributed.is_main():
            taken.save(job.folder / "model")
        return
    settings = teacher.train
    model = kind.built(tokens, ctx.recipe.seed)
    candidates = Candidates.load(job.inputs[f"candidates.{kind.name}"] / "candidates.parquet", ctx.collection)
    queries, passages = ctx.texts(model)
    draw = Draw(settings.candidates, ctx.recipe.seed)
    if teacher.imitate is not None and settings.imitate_epochs > 0:
        target = Vectors.open(job.inputs[f"teacher.{teacher.imitate}.vectors"]).scores(
            candidates.queries, candidates.passages
        )
        objective = RerankObjective(model, queries, passages, candidates, draw, target)
        first = settings.model_copy(update={"epochs": settings.imitate_epochs, "steps": None})
        steps = total_steps(first, objective.size)
        rest = total_steps(settings, objective.size)
        both = job.progress.start(steps + rest, "steps")
        _phase(ctx, kind, objective, first, model, replace(job, progress=both.part(steps)))
        both.advance(steps)
        job = replace(job, progress=both.part(rest))
    graded = settings.labels == "grades"
    objective = RerankObjective(model, queries, passages, candidates, draw, graded=graded)
    learn(ctx, objective, settings, model, job)


def _phase(
    ctx: Context,
    kind: ListModel[Any],
    objective: RerankObjective,
    settings: ListTraining,
    model: Reranker | LateInteraction,
    job: Job,
) -> None:
    """Run the imitation phase once: its result is kept, so that a resumed stage goes on behind it."""
    folder = job.folder / "imitation"
    if not (folder / "training.json").is_file():
        folder.mkdir(exist_ok=True)
        learn(ctx, objective, settings, model, Job(folder, {}, {}, job.progress))
        (folder / "checkpoint.safetensors").unlink(missing_ok=True)
        return
    model.model.load_state_dict(kind.opened(folder / "model", ctx.recipe.tokens).model.state_dict())


def make_without_model(ctx: Context, kind: Kind[Any], settings: dict[str, Any], job: Job) -> None:
    """Make a teacher that is no model: from a file, or what only has to be named."""
    kind.make(job.folder, ctx.collection, settings)
