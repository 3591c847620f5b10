"""Stages that find passages: BM25, vectors, runs, mined candidates, teacher scores."""

from __future__ import annotations

import shutil
from dataclasses import asdict

import numpy as np

from stepwell import distributed
from stepwell.display import warn
from stepwell.ladder.context import Context, score_missing
from stepwell.ladder.making import scores_of
from stepwell.ladder.workspace import Job
from stepwell.negatives import Candidates, mine
from stepwell.recipe import Mining
from stepwell.retrieval.bm25 import BM25Index
from stepwell.retrieval.run import Run
from stepwell.retrieval.search import retrieve
from stepwell.retrieval.vectors import Vectors, write_vectors
from stepwell.score_spread import check_tau, spread


def bm25(ctx: Context, job: Job) -> None:
    """Retrieve with BM25: training queries to mine from, dev and test queries to compare with.

    The main process makes the index and all map it; each takes a share of the queries.
    """
    index = job.folder / "index"
    if distributed.is_main():
        BM25Index.build(ctx.collection).save(index)
    distributed.barrier()
    engine = BM25Index.load(index)
    depths = {
        "train": ctx.recipe.mining.depth,
        "dev": ctx.recipe.judging.depth,
        "test": ctx.recipe.judging.depth,
    }
    for number, (split, depth) in enumerate(depths.items()):
        queries = getattr(ctx.splits, split).query_rows
        run = engine.run(ctx.collection, queries, depth)
        if distributed.is_main():
            run.save(job.folder / f"{split}.parquet", ctx.collection)
        job.advance((number + 1) / 3, split)
    distributed.barrier()
    if distributed.is_main():
        shutil.rmtree(index)


def vectors(ctx: Context, model: str, scale: float | None, job: Job) -> None:
    """Encode all passages, and the queries of all splits, with the model of the stage ``model``.

    ``scale`` is the factor from its similarities to its logits; the similarity's own when None.
    """
    encoder = ctx.encoder(job.inputs[model], scale)
    rows = ctx.query_rows
    total, done = ctx.collection.n_passages + len(rows), 0

    def advance(n: int) -> None:
        nonlocal done
        done += n
        job.advance(done / total, f"{done:,} of {total:,} texts")

    write_vectors(encoder, ctx.collection, rows, job.folder, advance)


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

    With ``settings.denoise``, the cross-encoder ``teacher`` scores what would be a negative and what it takes for
    positive is dropped. ``limit`` uses only so many of the queries, spread evenly over them.
    """
    run = Run.load(job.inputs[source] / "train.parquet", ctx.collection)
    if limit is not None and limit < len(run.queries):
        order = np.random.default_rng(ctx.recipe.seed).permutation(len(run.queries))[:limit]
        run = run.select(run.queries[np.sort(order)])
    denoiser = None
    if settings.denoise is not None and teacher is not None:
        reranker = ctx.reranker(job.inputs[f"teacher.{teacher}"])

        def denoiser(queries: np.ndarray, passages: np.ndarray) -> np.ndarray:
            return score_missing(ctx, reranker, queries, passages[:, None], job.advance)[:, 0]

    found, report = mine(run, ctx.splits.train, ctx.collection, settings, k, ctx.recipe.seed, denoiser)
    if distributed.is_main():
        found.save(job.folder / "candidates.parquet", ctx.collection)
        job.write_json("report.json", report.to_json())


def scores(ctx: Context, teacher: str, tau: float, job: Job) -> None:
    """Score all candidates with a cross-encoder teacher (each pair once, ever) and look at their spread."""
    found = Candidates.load(job.inputs["candidates"] / "candidates.parquet", ctx.collection)
    logits = scores_of(ctx, teacher, job, found, job.advance)
    if distributed.is_main():
        masked = np.where(found.passages >= 0, logits, np.nan)
        warnings = check_tau(masked, tau)
        for text in warnings:
            warn(f"{teacher}: {text}")
        job.write_json("spread.json", {"warnings": warnings, "spread": asdict(spread(masked, tau))})
