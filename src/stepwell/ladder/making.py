"""Stages that make models: teachers taken or trained, the student built, warmed up and distilled."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stepwell import distributed
from stepwell.errors import StepwellError
from stepwell.ladder.context import Context, score_missing
from stepwell.ladder.workspace import Job
from stepwell.models.build import build_cross_encoder, build_student, transformer_of
from stepwell.models.encoder import Encoder
from stepwell.models.engine import precision
from stepwell.models.flops import inner_width, layer_peak, operations
from stepwell.models.reranker import Reranker
from stepwell.negatives import Candidates
from stepwell.objectives import Draw, EmbeddingObjective, RerankObjective, StudentObjective, Terms
from stepwell.recipe import (
    CrossEncoderTeacher,
    DenseTraining,
    DualEncoderTeacher,
    Optimiser,
    Refine,
    RerankTraining,
    Rung,
    StudentSection,
)
from stepwell.retrieval.vectors import Vectors
from stepwell.training import Objective, TrainingLog, total_steps, train


def build_dense(ctx: Context, section: StudentSection | DualEncoderTeacher, folder: Path) -> Encoder:
    """Build a student, or the base of a dual-encoder teacher, and save it."""
    pick, towers = (section.pick, section.towers) if isinstance(section, StudentSection) else ("first", 1)
    longest = max(ctx.recipe.tokens.query, ctx.recipe.tokens.passage)
    model = build_student(
        section.base,
        section.layers,
        pick,
        section.pooling,
        section.similarity,
        towers,
        longest,
    )
    encoder = Encoder(model, section.scale)
    if distributed.is_main():
        encoder.save(folder / "model")
    distributed.barrier()
    return encoder


def contrast(ctx: Context, encoder: Encoder, candidates: Candidates, settings: DenseTraining, job: Job) -> None:
    """Train a dual encoder contrastively and save it."""
    objective = StudentObjective(
        encoder,
        ctx.texts(encoder, "query"),
        ctx.texts(encoder, "document"),
        candidates,
        ctx.splits.train,
        Terms(tau=settings.tau),
        Draw(1 + settings.negatives, ctx.recipe.seed),
    )
    learn(ctx, objective, settings, encoder, job)


def learn(
    ctx: Context,
    objective: Objective,
    settings: Optimiser,
    model: Encoder | Reranker,
    job: Job,
) -> None:
    """Run a training to its end, save the model and the log."""
    steps, done = max(1, total_steps(settings, objective.size)), 0

    def advance(n: int, note: str) -> None:
        nonlocal done
        done += n
        job.advance(done / steps, note)

    model.gradient_cache = settings.gradient_cache
    log = train(objective, settings, job.folder, ctx.recipe.seed, advance)
    if distributed.is_main():
        log.peak = _share_of_peak(model, log)
        model.save(job.folder / "model")
        job.write_json("training.json", log.to_json())
    distributed.barrier()


def _share_of_peak(model: Encoder | Reranker, log: TrainingLog) -> float | None:
    """Return a training's operations a second over those of bare matrix products; backward counts twice forward."""
    config = transformer_of(model.model).auto_model.config
    if not log.seconds or not hasattr(config, "hidden_size"):
        return None
    peak = layer_peak(int(config.hidden_size), inner_width(config), precision())
    return 3 * operations(config, log.tokens, log.squares) / log.seconds / peak


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


def take_or_train_reranker(ctx: Context, name: str, job: Job) -> None:
    """Make a cross-encoder teacher: as it is, or first imitating a dual encoder and then trained listwise."""
    teacher = ctx.teacher(name)
    assert isinstance(teacher, CrossEncoderTeacher)
    limit = ctx.recipe.tokens.pair
    if teacher.train is None:
        reranker = Reranker.open(teacher.base, limit)
        if distributed.is_main():
            reranker.save(job.folder / "model")
        return
    settings = teacher.train
    reranker = Reranker(build_cross_encoder(teacher.base, teacher.layers, limit, ctx.recipe.seed), limit)
    candidates = Candidates.load(job.inputs[f"candidates.{name}"] / "candidates.parquet", ctx.collection)
    queries, passages = ctx.pair_texts(reranker)
    if teacher.imitate is not None and settings.imitate_epochs > 0:
        target = Vectors.open(job.inputs[f"teacher.{teacher.imitate}.vectors"]).scores(
            candidates.queries, candidates.passages
        )
        objective = RerankObjective(
            reranker, queries, passages, candidates, Draw(settings.candidates, ctx.recipe.seed), target
        )
        first = settings.model_copy(update={"epochs": settings.imitate_epochs, "steps": None})
        steps = total_steps(first, objective.size)
        share = steps / (steps + total_steps(settings, objective.size))
        reranker = _phase(ctx, objective, first, reranker, _part(job, 0.0, share))
        job = _part(job, share, 1.0)
    objective = RerankObjective(
        reranker,
        queries,
        passages,
        candidates,
        Draw(settings.candidates, ctx.recipe.seed),
        graded=settings.labels == "grades",
    )
    learn(ctx, objective, settings, reranker, job)


def _part(job: Job, begin: float, end: float) -> Job:
    """Return the job with its progress counted as the part of the whole from ``begin`` to ``end``."""
    return replace(job, advance=lambda share, note: job.advance(begin + share * (end - begin), note))


def _phase(
    ctx: Context, objective: RerankObjective, settings: RerankTraining, reranker: Reranker, job: Job
) -> Reranker:
    """Run the imitation phase once: its result is kept, so that a resumed stage goes on behind it."""
    folder = job.folder / "imitation"
    if not (folder / "training.json").is_file():
        folder.mkdir(exist_ok=True)
        learn(ctx, objective, settings, reranker, Job(folder, {}, {}, job.advance))
        (folder / "checkpoint.safetensors").unlink(missing_ok=True)
        return reranker
    reranker.model.load_state_dict(Reranker.open(folder / "model", reranker.limit).model.state_dict())
    return reranker


def scores_of(
    ctx: Context, name: str, job: Job, candidates: Candidates, advance: Any = lambda share, note: None
) -> NDArray[np.float32]:
    """Return a cross-encoder teacher's logits of all candidates, from its store where they are."""
    reranker = ctx.reranker(job.inputs[f"teacher.{name}"])
    return score_missing(ctx, reranker, candidates.queries, candidates.passages, advance)


def start_student(ctx: Context, job: Job) -> None:
    """Build the student and warm it up where the recipe asks for it."""
    encoder = build_dense(ctx, ctx.recipe.student, job.folder)
    if ctx.recipe.warmup.epochs or ctx.recipe.warmup.steps:
        candidates = Candidates.load(job.inputs["candidates.warmup"] / "candidates.parquet", ctx.collection)
        contrast(ctx, encoder, candidates, ctx.recipe.warmup, job)


def distil(ctx: Context, rung: Rung | Refine, teacher: str, loss: str, student: str, job: Job) -> None:
    """Climb one rung: distil ``teacher`` into the student that the stage ``student`` left, and save it.

    Parameters
    ----------
    rung
        Weights, temperature, optimiser.
    teacher
        The teacher's name.
    loss
        ``embedding``, ``in-batch`` or ``candidates``.
    student
        The input stage that holds the student; its vectors give the keep scores.
    """
    encoder = ctx.encoder(job.inputs[student], ctx.recipe.student.loss_scale)
    queries, passages = ctx.texts(encoder, "query"), ctx.texts(encoder, "document")
    seed = ctx.recipe.seed
    if loss == "embedding":
        rows = ctx.splits.train.query_rows.astype(np.int64)
        target = Vectors.open(job.inputs[f"teacher.{teacher}.vectors"])
        learn(ctx, EmbeddingObjective(encoder, queries, passages, target, rows, seed), rung, encoder, job)
        return
    candidates = Candidates.load(job.inputs["candidates"] / "candidates.parquet", ctx.collection)
    if not len(candidates.queries):
        raise StepwellError(
            "there are no training queries with candidates for this rung; check the qrels of the training split."
        )
    over = "batch" if loss == "in-batch" else "candidates"
    scores = (
        scores_of(ctx, teacher, job, candidates) if ctx.teacher(teacher).kind == "cross-encoder" and rung.beta else None
    )
    vectors = {name: Vectors.open(path) for name, path in job.inputs.items() if name.endswith(".vectors")}
    dense = vectors.get(f"teacher.{teacher}.vectors")
    if scores is None and over == "candidates" and dense is not None:
        scores = dense.scores(candidates.queries, candidates.passages)
    beside = getattr(rung, "beside", None)
    hold = next((r.teacher for r in ctx.recipe.ladder if r.loss == "embedding"), None)
    terms = Terms(
        alpha=rung.alpha,
        beta=rung.beta,
        gamma=rung.gamma,
        tau=rung.tau,
        over=over,
        keep_over=rung.keep_over,
        beside=rung.beside_weight if isinstance(rung, Rung) and beside else 0.0,
        hold=rung.hold if isinstance(rung, Rung) and hold else 0.0,
        soft=rung.soft,
        teacher_tau=rung.teacher_tau,
        target=rung.target,
        rest=rung.rest,
    )
    objective = StudentObjective(
        encoder,
        queries,
        passages,
        candidates,
        ctx.splits.train,
        terms,
        Draw(rung.candidates, seed),
        teacher_scores=scores,
        teacher=dense,
        start=vectors.get(f"{student}.vectors"),
        beside=vectors.get(f"teacher.{beside}.vectors"),
        hold=vectors.get(f"teacher.{hold}.vectors"),
    )
    learn(ctx, objective, rung, encoder, job)
