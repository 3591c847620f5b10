"""Stages that find passages: BM25, vectors, runs, mined candidates, teacher scores."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
from numpy.typing import NDArray

from stepwell import distributed
from stepwell.display import warn
from stepwell.distil.negatives import Candidates, mine
from stepwell.ladder.context import Context
from stepwell.ladder.teachers import MISSING, opened, targets
from stepwell.ladder.workspace import Job
from stepwell.models.encoder import Side
from stepwell.recipe import Mining, Rung
from stepwell.retrieval.bm25 import bm25_of
from stepwell.retrieval.run import Run
from stepwell.retrieval.search import retrieve
from stepwell.retrieval.vectors import Vectors, write_unlabelled, write_vectors
from stepwell.teachers.spread import check_scores, spread

MORE = "texts.npy"
"""The file with a teacher's vectors of texts from elsewhere."""


def bm25(ctx: Context, job: Job) -> None:
    """Retrieve for the training queries with BM25, to mine from. Each process takes a share of the queries."""
    queries = ctx.splits.train.query_rows
    run = bm25_of(ctx.collection).run(ctx.collection, queries, ctx.recipe.mining.depth)
    if distributed.is_main():
        run.save(job.folder / "train.parquet", ctx.collection)


def vectors(ctx: Context, model: str, scale: float | None, job: Job, exact: bool = False) -> None:
    """Encode all passages, and the queries of all splits, with the model of the stage ``model``.

    ``scale`` is the factor from its similarities to its logits; the similarity's own when None. ``exact``: in fp32, and
    passages alone.
    """
    encoder, rows = ctx.encoder(job.inputs[model], scale), ctx.query_rows
    if exact:
        encoder.inference.be_exact()
        rows = rows[:0]
    job.progress.start(ctx.collection.n_passages + len(rows), "texts")
    write_vectors(encoder, ctx.collection, rows, job.folder, job.progress)


def more_vectors(ctx: Context, rung: Rung, side: Side, job: Job) -> None:
    """Encode texts from elsewhere that a rung learns from with its teacher."""
    texts = ctx.more(rung)[side]
    encoder = ctx.encoder(job.inputs[f"teacher.{rung.teacher}"])
    write_unlabelled(encoder, texts, side, job.folder / MORE, job.progress.start(len(texts), "texts"))


def training_run(ctx: Context, model: str, job: Job) -> None:
    """Retrieve passages for every training query with the vectors of ``model``; each process takes a share."""
    rows = ctx.splits.train.query_rows
    run = retrieve(Vectors.open(job.inputs[f"{model}.vectors"]), rows, ctx.recipe.mining.depth)
    if distributed.is_main():
        run.save(job.folder / "train.parquet", ctx.collection)


def candidates(
    ctx: Context, source: str, settings: Mining, k: int, teacher: str | None, limit: int | None, job: Job
) -> None:
    """Mine K candidates of each training query from the training run of the stage ``source``.

    With ``settings.denoise``, the ``teacher`` scores what would be a negative and what it takes for
    positive is dropped. ``limit`` uses only so many of the queries, spread evenly over them.
    """
    run = Run.load(job.inputs[source] / "train.parquet", ctx.collection)
    if limit is not None and limit < len(run.queries):
        order = np.random.default_rng(ctx.recipe.seed).permutation(len(run.queries))[:limit]
        run = run.select(run.queries[np.sort(order)])
    mine_from(ctx, run, settings, k, teacher, job)


def warn_of(teacher: str, scores: NDArray[np.float32], tau: float | None) -> list[str]:
    """Warn of scores (..., Q, K) that teach nothing at ``tau``, and return the warnings."""
    warnings = check_scores(scores, tau)
    for text in warnings:
        warn(f"{teacher}: {text}")
    return warnings


def mine_from(ctx: Context, run: Run, settings: Mining, k: int, teacher: str | None, job: Job) -> Candidates:
    """Mine K candidates of each query of a run, write them and the report of what was dropped, and return them.

    With ``settings.denoise``, the ``teacher`` says what is no negative.
    """
    denoiser = None
    if settings.denoise is not None and teacher is not None:
        judge = opened(ctx, teacher, job.inputs)

        def denoiser(queries: np.ndarray, passages: np.ndarray) -> np.ndarray:
            return judge.score(queries, passages[:, None], job.progress)[:, 0]

    found, report = mine(run, ctx.splits.train, ctx.collection, settings, k, ctx.recipe.seed, denoiser)
    if distributed.is_main():
        found.save(job.folder / "candidates.parquet", ctx.collection)
        job.write_json("report.json", report.to_json())
    return found


def scores(ctx: Context, teacher: str, tau: float | None, mined: str, job: Job) -> None:
    """Have a teacher score all candidates of the stage ``mined`` (each pair once, ever) and look at their spread.

    ``tau`` is what the loss divides them by, None for a loss without temperature.
    """
    asked = Candidates.load(job.inputs[mined] / "candidates.parquet", ctx.collection)
    found = targets(ctx, teacher, job, asked, job.progress)
    if not distributed.is_main():
        return
    (job.folder / MISSING).unlink(missing_ok=True)  # of an attempt before the file was complete
    tables = np.where(found.candidates.passages >= 0, found.scores, np.nan)
    tables = tables.reshape(-1, *found.candidates.passages.shape)  # (T, Q, M)
    facts = {"warnings": warn_of(teacher, tables, tau), "spread": asdict(spread(tables[0], tau or 1.0))}
    job.write_json("spread.json", {**facts, "missing": found.missing, "left_out": found.left_out})
