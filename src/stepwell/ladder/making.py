"""Stages that make the student: built, warmed up and distilled."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stepwell import distributed
from stepwell.display import warn
from stepwell.distil.embedding import EmbeddingObjective, Imitated
from stepwell.distil.negatives import Candidates
from stepwell.distil.objectives import Draw, StudentObjective, Terms
from stepwell.distil.training import Objective, TrainingLog, train
from stepwell.errors import StepwellError
from stepwell.ladder.context import Context
from stepwell.ladder.finding import MORE, warn_of
from stepwell.ladder.teachers import Targets, targets
from stepwell.ladder.workspace import Job
from stepwell.models.build import build_student, transformer_of
from stepwell.models.encoder import Encoder
from stepwell.models.engines.flops import inner_width, layer_peak, operations
from stepwell.models.engines.machine import precision
from stepwell.models.late_interaction import LateInteraction
from stepwell.models.reranker import Reranker
from stepwell.models.token_store import unlabelled_tokens
from stepwell.recipe import DenseTraining, Optimiser, Refine, Rung, StudentSection
from stepwell.recipe.ladder import teacher_temperature
from stepwell.recipe.teachers import DualEncoderTeacher
from stepwell.retrieval.vectors import Vectors
from stepwell.teachers.spread import histogram

LOOKED_AT = 512
"""Queries whose scores are looked at before an in-batch training."""


def build_dense(ctx: Context, section: StudentSection | DualEncoderTeacher, folder: Path) -> Encoder:
    """Build a student, or the base of a dual-encoder teacher, and save it."""
    pick, towers = (section.pick, section.towers) if isinstance(section, StudentSection) else ("first", 1)
    model = build_student(
        section.base,
        section.layers,
        pick,
        section.pooling,
        section.similarity,
        towers,
        ctx.recipe.tokens.longest,
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
        *ctx.texts(encoder),
        candidates,
        ctx.splits.train,
        Terms(),
        Draw(1 + settings.negatives, ctx.recipe.seed),
    )
    learn(ctx, objective, settings, encoder, job)


def learn(
    ctx: Context,
    objective: Objective,
    settings: Optimiser,
    model: Encoder | Reranker | LateInteraction,
    job: Job,
) -> None:
    """Run a training to its end, save the model and the log."""
    model.gradient_cache = settings.gradient_cache
    log = train(objective, settings, job.folder, ctx.recipe.seed, job.progress)
    if distributed.is_main():
        log.peak = _share_of_peak(model, log)
        model.save(job.folder / "model")
        job.write_json("training.json", log.to_json())
    distributed.barrier()


def _share_of_peak(model: Encoder | Reranker | LateInteraction, log: TrainingLog) -> float | None:
    """Return a training's operations a second over those of bare matrix products; backward counts twice forward."""
    config = transformer_of(model.model).auto_model.config
    if not log.seconds or not hasattr(config, "hidden_size"):
        return None
    peak = layer_peak(int(config.hidden_size), inner_width(config), precision())
    return 3 * operations(config, log.tokens, log.squares) / log.seconds / peak


def go_on(ctx: Context, first: str, found: str, settings: DenseTraining, scale: float | None, job: Job) -> None:
    """Go on with the contrastive training of the stage ``first``, on the candidates of the stage ``found``."""
    assert settings.further is not None
    encoder = ctx.encoder(job.inputs[first], scale)
    candidates = Candidates.load(job.inputs[found] / "candidates.parquet", ctx.collection)
    contrast(ctx, encoder, candidates, settings.model_copy(update=dict(settings.further)), job)


def start_student(ctx: Context, job: Job) -> None:
    """Build the student and warm it up where the recipe asks for it."""
    encoder = build_dense(ctx, ctx.recipe.student, job.folder)
    if ctx.recipe.warmup.trains:
        candidates = Candidates.load(job.inputs["candidates.warmup"] / "candidates.parquet", ctx.collection)
        contrast(ctx, encoder, candidates, ctx.recipe.warmup, job)


def imitate(ctx: Context, rung: Rung, student: str, job: Job) -> None:
    """Climb an embedding rung: pull the vectors of the student that the stage ``student`` left to its teacher's."""
    encoder = ctx.encoder(job.inputs[student], ctx.recipe.student.loss_scale)
    objective = EmbeddingObjective(
        encoder,
        *ctx.texts(encoder),
        Vectors.open(job.inputs[f"teacher.{rung.teacher}.vectors"]),
        ctx.splits.train.query_rows.astype(np.int64),
        ctx.recipe.seed,
        _more(ctx, rung, encoder, job),
    )
    learn(ctx, objective, rung, encoder, job)


def distil(
    ctx: Context,
    rung: Rung | Refine,
    teacher: str,
    loss: str,
    student: str,
    found: str,
    job: Job,
    *,
    looked_at: bool = False,
) -> None:
    """Climb one rung: distil ``teacher`` into the student that the stage ``student`` left, and save it.

    Parameters
    ----------
    rung
        Weights, temperature, optimiser.
    teacher
        The teacher's name.
    loss
        ``in-batch`` or ``candidates``.
    student
        The input stage that holds the student; its vectors give the keep scores.
    found
        The input stage that holds the candidates.
    looked_at
        Whether a stage before this one has warned of the teacher's scores of them.
    """
    encoder = ctx.encoder(job.inputs[student], ctx.recipe.student.loss_scale)
    candidates = Candidates.load(job.inputs[found] / "candidates.parquet", ctx.collection)
    if not len(candidates.queries):
        raise StepwellError(
            "there are no training queries with candidates for this rung; check the qrels of the training split."
        )
    over = "batch" if loss == "in-batch" else "candidates"
    scores = None
    if over == "candidates" and rung.beta:
        given = targets(ctx, teacher, job, candidates)
        candidates, scores = given.candidates, given.scores
        if distributed.is_main():
            _look_at(given, teacher, None if looked_at else rung, job)
    vectors = {name: Vectors.open(path) for name, path in job.inputs.items() if name.endswith(".vectors")}
    terms, draw = _terms(rung, over), Draw(rung.candidates, ctx.recipe.seed)
    teaches = vectors.get(f"teacher.{teacher}.vectors")
    if over == "batch" and teaches is not None and rung.beta and distributed.is_main():
        warn_of(teacher, _in_batch_scores(teaches, candidates, draw, rung.batch), teacher_temperature(rung))
    objective = StudentObjective(
        encoder,
        *ctx.texts(encoder),
        candidates,
        ctx.splits.train,
        terms,
        draw,
        teacher_scores=scores,
        teacher=teaches,
        start=vectors.get(f"{student}.vectors"),
        beside=vectors.get(f"teacher.{getattr(rung, 'beside', None)}.vectors"),
        hold=vectors.get(f"teacher.{ctx.recipe.embedding_teacher}.vectors"),
    )
    learn(ctx, objective, rung, encoder, job)


def _look_at(given: Targets, teacher: str, rung: Rung | Refine | None, job: Job) -> None:
    """Say how many candidates have no score, keep a histogram of the others, warn where they teach ``rung`` nothing."""
    queries = len(given.candidates.queries)
    if given.missing:
        warn(
            f"{teacher} has no score of {given.missing:,} candidates, which are left out, and with them "
            f"{given.left_out:,} queries; {queries:,} queries train."
        )
    known = np.where(given.candidates.passages >= 0, given.scores, np.nan)
    seen = histogram(known)
    job.write_json("teacher_scores.json", None if seen is None else asdict(seen))
    if rung is not None:
        warn_of(teacher, known, teacher_temperature(rung))


def _in_batch_scores(teacher: Vectors, candidates: Candidates, draw: Draw, batch: int) -> NDArray[np.float32]:
    """Return a teacher's scores of all passages in a training's first batches: (Q, P), NaN where one has fewer."""
    tables = []
    for start in range(0, min(LOOKED_AT, len(candidates)), batch):
        examples = np.arange(start, min(start + batch, len(candidates)))
        drawn = np.take_along_axis(candidates.passages[examples], draw.columns(candidates, examples, 0), axis=1)
        passages = np.unique(drawn[drawn >= 0])
        queries = teacher.of_queries(candidates.queries[examples][:LOOKED_AT])
        tables.append(queries @ np.asarray(teacher.passages[passages]).T * teacher.scale)
    width = max(table.shape[1] for table in tables)
    padded = [np.pad(table, ((0, 0), (0, width - table.shape[1])), constant_values=np.nan) for table in tables]
    return np.concatenate(padded).astype(np.float32)


def _more(ctx: Context, rung: Rung, encoder: Encoder, job: Job) -> list[Imitated]:
    """Return the texts from elsewhere that a rung learns from too, with its teacher's vectors of them."""
    found = list[Imitated]()
    for side, texts in ctx.more(rung).items():
        folder = next(path for name, path in job.inputs.items() if name.endswith(f".more-{side}"))
        vectors = np.load(folder / MORE, mmap_mode="r")
        own = unlabelled_tokens(texts, encoder, side)
        found.append(Imitated(side, own, np.arange(len(texts)), vectors.__getitem__))
    return found


def _terms(rung: Rung | Refine, over: str) -> Terms:
    """Return the weights of a rung's loss."""
    return Terms(
        alpha=rung.alpha,
        beta=rung.beta,
        gamma=rung.gamma,
        tau=rung.tau,
        over=over,
        keep_over=rung.keep_over,
        beside=rung.beside_weight if isinstance(rung, Rung) and rung.beside else 0.0,
        hold=rung.hold if isinstance(rung, Rung) else 0.0,
        soft=rung.soft,
        teacher_tau=rung.teacher_tau,
        target=rung.target,
        rest=rung.rest,
    )
