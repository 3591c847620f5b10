"""Stages that judge: evaluation, the teacher's headroom, and whether a rung is promoted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stepwell import distributed
from stepwell.collection import Qrels
from stepwell.errors import StepwellError
from stepwell.evaluation import (
    Evaluation,
    cutoff_of,
    cutoff_of_set,
    evaluate,
    measure_name,
    paired_test,
    reached,
)
from stepwell.ladder.context import Context
from stepwell.ladder.teachers import opened
from stepwell.ladder.workspace import Job
from stepwell.retrieval.bm25 import bm25_of
from stepwell.retrieval.fusion import reciprocal_rank_fusion
from stepwell.retrieval.run import Run
from stepwell.retrieval.search import retrieve
from stepwell.retrieval.vectors import Vectors


def measures_of(ctx: Context) -> tuple[str, ...]:
    """Return the measures of all tables, the deciding one among them; of the usual ones those that `depth` reaches."""
    judging = ctx.recipe.judging
    others = judging.measures or reached(judging.depth)
    return tuple(dict.fromkeys(map(measure_name, (judging.measure, *others))))


def check_measures(ctx: Context) -> None:
    """Refuse, before anything runs, measures that can't be had, and a deciding one that reranking can't change.

    Raises
    ------
    StepwellError
        When one is unknown or looks deeper than the lists, or a rung would be left out whatever its teacher knows.
    """
    judging, ladder = ctx.recipe.judging, ctx.recipe.ladder
    measures = measures_of(ctx)
    if too_deep := sorted(set(measures) - set(reached(judging.depth, measures)), key=measures.index):
        deepest = cutoff_of(too_deep[0])
        raise StepwellError(
            f"judging: {too_deep[0]} looks at the first {deepest} passages, and {judging.depth} are retrieved a query "
            f"(judging.depth): the figure would be another measure's. Set `depth` to {deepest}, or leave it out."
        )
    cutoff = cutoff_of_set(judging.measure)
    gated = [rung.teacher for rung in ladder if not (rung.force or ctx.teacher(rung.teacher).embeds)]
    if gated and cutoff is not None and cutoff >= judging.rerank:
        raise StepwellError(
            f"judging.measure: {judging.measure} asks what is among the first {cutoff} passages, in any order, and "
            f"{gated[0]} only reorders the first {judging.rerank} of the student's list (judging.rerank): it could "
            f"never be ahead, and its rung would always be left out. Set `rerank` above {cutoff}, decide by a measure "
            "that sees the order (nDCG@10), or give the rung `force: true`."
        )


def _keep(ctx: Context, run: Run, qrels: Qrels, folder: Path, trec: bool = False) -> Evaluation:
    evaluation = evaluate(run, qrels, measures_of(ctx))
    run.save(folder / "run.parquet", ctx.collection)
    evaluation.save(folder / "evaluation.parquet", ctx.collection)
    if trec:
        run.to_trec(folder / "run.trec", ctx.collection)
    return evaluation


def search_split(ctx: Context, split: str, queries: str, passages: str | None, job: Job) -> None:
    """Search dev or test with vectors, and evaluate; ``passages`` names other vectors for that side (asymmetric).

    Each process takes a share of the queries.
    """
    qrels: Qrels = getattr(ctx.splits, split)
    other = Vectors.open(job.inputs[passages]) if passages is not None else None
    run = retrieve(Vectors.open(job.inputs[queries]), qrels.query_rows, ctx.recipe.judging.depth, other)
    if distributed.is_main():
        _keep(ctx, run, qrels, job.folder, trec=split == "test")


def search_bm25(ctx: Context, split: str, job: Job) -> None:
    """Search dev or test with BM25, and evaluate. Each process takes a share of the queries."""
    qrels: Qrels = getattr(ctx.splits, split)
    run = bm25_of(ctx.collection).run(ctx.collection, qrels.query_rows, ctx.recipe.judging.depth)
    if distributed.is_main():
        _keep(ctx, run, qrels, job.folder, trec=split == "test")


def fuse(ctx: Context, split: str, sources: tuple[str, ...], job: Job) -> None:
    """Evaluate the reciprocal rank fusion of other stages' runs."""
    runs = [Run.load(job.inputs[source] / "run.parquet", ctx.collection) for source in sources]
    run = reciprocal_rank_fusion(runs, ctx.recipe.judging.depth)
    _keep(ctx, run, getattr(ctx.splits, split), job.folder, trec=split == "test")


def rerank(ctx: Context, split: str, source: str, teacher: str, job: Job) -> None:
    """Evaluate a teacher that reranks the top of another stage's run."""
    run = Run.load(job.inputs[source] / "run.parquet", ctx.collection)
    found, _ = reranked(ctx, run, teacher, ctx.recipe.judging.rerank, job)
    if distributed.is_main():
        _keep(ctx, found, getattr(ctx.splits, split), job.folder, trec=True)


def reranked(ctx: Context, run: Run, teacher: str, depth: int, job: Job) -> tuple[Run, NDArray[np.bool_]]:
    """Return ``run`` with its first ``depth`` passages in the teacher's order; what follows stays behind them.

    Passages of which the teacher has no score (a file may lack some) come after those that have one, in the run's
    order.

    Returns
    -------
    tuple
        The run, and of which queries the teacher has any score (Q,).
    """
    head = run.top(depth)
    logits = opened(ctx, teacher, job.inputs).score(head.queries, head.passages, job.progress)
    filled = head.passages >= 0
    known: NDArray[np.bool_] = filled & ~np.isnan(logits)
    behind = _lowest(np.where(known, logits, np.inf)) - np.arange(1, head.depth + 1, dtype=np.float32)
    logits = np.where(known, logits, np.where(filled, behind, -np.inf))
    order = np.argsort(-logits, axis=1, kind="stable")
    tail = np.arange(1, run.depth - head.depth + 1, dtype=np.float32)[None, :]
    rest = np.where(run.passages[:, depth:] >= 0, _lowest(np.where(filled, logits, np.inf)) - tail, -np.inf)
    found = Run(
        run.queries,
        np.concatenate([np.take_along_axis(head.passages, order, 1), run.passages[:, depth:]], axis=1),
        np.concatenate([np.take_along_axis(logits, order, 1), rest], axis=1).astype(np.float32),
    )
    return found, np.asarray(known.any(axis=1))


def _lowest(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the smallest finite score of each query, 0 for one without: (Q, 1)."""
    lowest: NDArray[np.float32] = scores.min(axis=1, keepdims=True)
    return np.where(np.isfinite(lowest), lowest, 0)


def headroom(ctx: Context, teacher: str, student: str, force: bool, job: Job) -> None:
    """Decide whether a rung can pay: whether the teacher is ahead of the student on dev.

    One that embeds is compared by its own retrieval, any other by reranking the student's list on at most
    ``judging.headroom_queries`` queries (the ceiling of what its scores can teach). When a teacher has scores of no
    dev query, nothing can be said, and the rung is climbed.
    """
    measure = ctx.recipe.judging.measure
    mine = Evaluation.load(job.inputs[student] / "evaluation.parquet", ctx.collection)
    theirs: Evaluation | None = None
    if ctx.teacher(teacher).embeds:
        theirs = Evaluation.load(job.inputs[f"teacher.{teacher}.dev"] / "evaluation.parquet", ctx.collection)
    else:
        run = Run.load(job.inputs[student] / "run.parquet", ctx.collection)
        rows = run.queries
        most = ctx.recipe.judging.headroom_queries
        if len(rows) > most:
            rows = np.sort(np.random.default_rng(ctx.recipe.seed).permutation(rows)[:most])
        found, known = reranked(ctx, run.select(rows), teacher, ctx.recipe.judging.rerank, job)
        rows = rows[known]
        if len(rows):
            theirs = evaluate(found.select(rows), ctx.splits.dev.restrict(rows), (measure,))
    if distributed.is_main():
        job.write_json("decision.json", _decision(measure, mine, theirs, force))


def _decision(measure: str, mine: Evaluation, theirs: Evaluation | None, force: bool) -> dict[str, Any]:
    if theirs is None:
        before, unknown = mine.mean(measure), {"teacher": None, "headroom": None, "queries": 0, "forced": False}
        return {"go": True, "measure": measure, "student": before, **unknown}
    own = np.isin(mine.queries, theirs.queries)
    before = float(mine.of(measure)[own].mean())
    after = theirs.mean(measure)
    return {
        "go": bool(after > before or force),
        "measure": measure,
        "student": before,
        "teacher": after,
        "headroom": after - before,
        "queries": int(own.sum()),
        "forced": bool(force and after <= before),
    }


def promote(ctx: Context, number: int, before: str, job: Job) -> None:
    """Decide which student goes on: that of the rung, unless dev got significantly worse or it was left out.

    ``decision.json`` names the stage of the student to go on with, and says by ``go`` whether dev got better.
    """
    measure, level = ctx.recipe.judging.measure, ctx.recipe.judging.level
    old = Evaluation.load(job.inputs[f"{before}.dev"] / "evaluation.parquet", ctx.collection)
    keeper = job.names[f"{before}.dev"].removesuffix(".dev")
    decision = {
        "go": False,
        "student": keeper,
        "measure": measure,
        "before": old.mean(measure),
        "after": None,
        "p": None,
    }
    rung = job.inputs.get(f"rung-{number}.dev")
    if rung is not None:
        new = Evaluation.load(rung / "evaluation.parquet", ctx.collection)
        p = paired_test(new.of(measure), old.of(measure))
        worse = new.mean(measure) < old.mean(measure) and p < level
        decision |= {
            "go": new.mean(measure) > old.mean(measure),
            "student": keeper if worse else f"rung-{number}",
            "after": new.mean(measure),
            "p": p,
        }
    job.write_json("decision.json", decision)
