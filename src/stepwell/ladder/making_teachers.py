"""Stages that make teachers: models taken as they are or trained, and what stands in for a model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from stepwell import distributed
from stepwell.distil.negatives import Candidates
from stepwell.distil.objectives import Draw, RerankObjective
from stepwell.distil.training import total_steps
from stepwell.ladder.context import Context
from stepwell.ladder.making import build_dense, contrast, learn
from stepwell.ladder.workspace import Job
from stepwell.models.build import build_cross_encoder
from stepwell.models.build_late import build_multi_vector
from stepwell.models.late_interaction import LateInteraction
from stepwell.models.reranker import Reranker
from stepwell.recipe.teachers import DualEncoderTeacher, LateInteractionTeacher, ListTeacher, ScoresTeacher
from stepwell.recipe.training import ListTraining
from stepwell.retrieval.vectors import Vectors
from stepwell.teachers.from_file import import_scores
from stepwell.teachers.store import ScoreStore


def take_or_train_dense(ctx: Context, name: str, job: Job) -> None:
    """Make a dual-encoder teacher: its base as it is, or trained contrastively."""
    teacher = ctx.teacher(name)
    assert isinstance(teacher, DualEncoderTeacher)
    encoder = build_dense(ctx, teacher, job.folder)
    if teacher.train is not None:
        contrast(
            ctx,
            encoder,
            Candidates.load(job.inputs[f"candidates.{name}"] / "candidates.parquet", ctx.collection),
            teacher.train,
            job,
        )


def take_or_train_lists(ctx: Context, name: str, job: Job) -> None:
    """Make a cross-encoder or a late-interaction teacher.

    It is taken as it is, or first imitates a dual encoder and is then trained listwise.
    """
    teacher = ctx.teacher(name)
    assert isinstance(teacher, ListTeacher)
    if teacher.train is None:
        taken = ctx.pair_model(name, teacher.base)
        if distributed.is_main():
            taken.save(job.folder / "model")
        return
    settings = teacher.train
    model = _built(ctx, teacher)
    candidates = Candidates.load(job.inputs[f"candidates.{name}"] / "candidates.parquet", ctx.collection)
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
        _phase(ctx, name, objective, first, model, replace(job, progress=both.part(steps)))
        both.advance(steps)
        job = replace(job, progress=both.part(rest))
    graded = settings.labels == "grades"
    objective = RerankObjective(model, queries, passages, candidates, draw, graded=graded)
    learn(ctx, objective, settings, model, job)


def _built(ctx: Context, teacher: ListTeacher) -> Reranker | LateInteraction:
    tokens, seed = ctx.recipe.tokens, ctx.recipe.seed
    if isinstance(teacher, LateInteractionTeacher):
        model = build_multi_vector(teacher.base, teacher.layers, teacher.width, tokens.query, tokens.passage, seed)
        return LateInteraction(model, tokens.query, tokens.passage)
    return Reranker(build_cross_encoder(teacher.base, teacher.layers, tokens.pair, seed), tokens.pair)


def _phase(
    ctx: Context,
    name: str,
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
    model.model.load_state_dict(ctx.pair_model(name, folder / "model").model.state_dict())


def take_scores(ctx: Context, name: str, content: str, job: Job) -> None:
    """Read a teacher's scores from a file, whose sha256 is ``content``, into a store of the stage's own."""
    teacher = ctx.teacher(name)
    assert isinstance(teacher, ScoresTeacher)
    store = ScoreStore.open(job.folder / "scores", content, ctx.collection.texts_fingerprint)
    floors, counts = import_scores(Path(teacher.file), store, ctx.collection)
    np.save(job.folder / "floors.npy", floors)
    job.write_json("scores.json", {"sha256": content, "kept": len(store), **counts})


def name_teacher(ctx: Context, name: str, job: Job) -> None:
    """Write down a teacher that has nothing to make: one that is asked over HTTP, or made of others."""
    job.write_json("teacher.json", ctx.teacher(name).model_dump())
