"""Stages that judge: dev and test figures, the teacher's headroom, and whether a rung is promoted."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stepwell import distributed
from stepwell.collection import Qrels
from stepwell.evaluation import Evaluation, bootstrap_interval, evaluate, measure_name, paired_test, reached
from stepwell.evaluation.significance import smallest_seen
from stepwell.ladder.builder import Builder
from stepwell.ladder.prices import Prices, Work
from stepwell.ladder.stage import Job, Stage, Surroundings, recorded, say_nothing
from stepwell.recipe import Judging
from stepwell.retrieval.bm25 import bm25_of
from stepwell.retrieval.run import Run, reciprocal_rank_fusion
from stepwell.retrieval.search import retrieve
from stepwell.systems.records import Headroom, Promotion

# -- figures on dev and test --------------------------------------------------------------------------------


def searched(b: Builder, split: str, model: str, title: str) -> str:
    """Add the search of dev or test with a model's vectors; return the stage."""
    name, kind, inputs = f"{model}.{split}", f"search-{split}", {"queries": f"{model}.vectors"}
    says = say_figures if split == "dev" else say_nothing
    return b.add(Stage(name, kind, f"{split}: {title}", b.judging, inputs, search, says, reads=(split,)))


def judged(b: Builder, model: str, title: str) -> None:
    """Add a student's vectors and its dev figures."""
    b.vectors(model, title, b.recipe.student, b.recipe.student.loss_scale)
    searched(b, "dev", model, title)


def measures_of(settings: dict[str, Any]) -> tuple[str, ...]:
    """Return the measures of all tables, the deciding one first; of the usual ones those that `depth` reaches."""
    others = settings.get("measures") or reached(settings["depth"])
    return tuple(dict.fromkeys(map(measure_name, (settings["measure"], *others))))


def search(job: Job) -> None:
    """Search the split's queries with vectors; with a role ``passages`` that side has other vectors (asymmetric)."""
    queries = job.vectors("queries")
    assert queries is not None
    keep(job, retrieve(queries, _judged_queries(job).query_rows, job.settings["depth"], job.vectors("passages")))


def _judged_queries(job: Job) -> Qrels:
    """Return the split that the stage's name ends with: dev or test."""
    found: Qrels = getattr(job.surroundings.splits, job.stage.rpartition(".")[2])
    return found


def search_bm25(job: Job) -> None:
    """Search the test queries with BM25, and evaluate. Each process takes a share of the queries."""
    collection, rows = job.surroundings.collection, _judged_queries(job).query_rows
    keep(job, bm25_of(collection).run(collection, rows, job.settings["depth"]))


def fuse(job: Job) -> None:
    """Evaluate the reciprocal rank fusion of two lists of the test queries."""
    keep(job, reciprocal_rank_fusion([job.run("bm25"), job.run("student")], job.settings["depth"]))


def rerank(job: Job) -> None:
    """Evaluate a teacher that reranks the top of the student's lists of the test queries."""
    keep(job, reranked(job, job.run("student"), job.settings["rerank"])[0])


def keep(job: Job, run: Run) -> None:
    """Write lists and their figures, on the main process; those of test also as a TREC run file."""
    if not distributed.is_main():
        return
    collection = job.surroundings.collection
    run.save(job.folder / "run.parquet", collection)
    evaluate(run, _judged_queries(job), measures_of(job.settings)).save(job.folder / "evaluation.parquet", collection)
    if job.stage.endswith(".test"):
        run.to_trec(job.folder / "run.trec", collection)


def say_figures(folder: Path, surroundings: Surroundings) -> Iterable[str]:
    """Say the dev figures of a model."""
    evaluation = Evaluation.load(folder / "evaluation.parquet", surroundings.collection)
    figures = ", ".join(f"{measure} {evaluation.mean(measure):.3f}" for measure in evaluation.values)
    yield f"{surroundings.dev_name} {figures}"


def reranked(job: Job, run: Run, depth: int) -> tuple[Run, NDArray[np.bool_]]:
    """Return ``run`` with its first ``depth`` passages in the teacher's order; what follows stays behind them.

    Passages of which the teacher has no score (a file may lack some) come after those that have one, in the run's
    order. Also of which queries the teacher has any score (Q,).
    """
    head = run.top(depth)
    logits = job.teacher().score(head.queries, head.passages, job.progress)
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


# -- headroom: can a rung pay? ------------------------------------------------------------------------------


def headroom(b: Builder, number: int, name: str, force: bool) -> Stage:
    """Return the decision whether rung ``number`` is climbed: whether the teacher is ahead of the student on dev."""
    judging = b.recipe.judging
    embeds, compared = b.embeds(name), b.embeds(name, queries=True)
    theirs = {"teacher": f"teacher.{name}.dev"} if compared else {} if embeds else b.opens(name)
    settings = {"measure": judging.measure, "teacher": name, "force": force}
    reads: tuple[str, ...] = ()
    if not embeds:
        settings |= {"rerank": judging.rerank, "headroom_queries": judging.headroom_queries}
        reads = ("seed", "dev")
    inputs, title = {"student": f"student@{number - 1}.dev", **theirs}, f"headroom of {name} over the student"

    def cost(prices: Prices) -> Work:
        return b.scoring(name, prices, min(prices.dev, judging.headroom_queries), judging.rerank)

    says = recorded(Headroom)
    return Stage(f"headroom-{number}", "headroom", title, settings, inputs, decide_headroom, says, cost, reads=reads)


def decide_headroom(job: Job) -> None:
    """Compare teacher and student on dev, and write ``decision.json``.

    A teacher that embeds is compared by its own retrieval, any other by reranking the student's list on at most
    ``judging.headroom_queries`` queries (the ceiling of what its scores can teach). When a teacher has scores of no
    dev query, or vectors of passages alone, nothing can be said, and the rung is climbed.
    """
    measure, force, mine = job.settings["measure"], job.settings["force"], job.evaluation("student")
    theirs: Evaluation | None = None
    if "teacher" in job.inputs and (job.inputs["teacher"] / "evaluation.parquet").is_file():
        theirs = job.evaluation("teacher")
    elif "teacher" in job.inputs:
        run = job.run("student")
        rows = dev_queries(run.queries, job.settings["headroom_queries"], job.surroundings.seed)
        found, known = reranked(job, run.select(rows), job.settings["rerank"])
        rows = rows[known]
        if len(rows):
            theirs = evaluate(found.select(rows), job.surroundings.splits.dev.restrict(rows), (measure,))
    if theirs is None:
        job.leave(Headroom(True, measure, mine.mean(measure)))
        return
    before, after = _paired(mine, theirs, measure)
    gap, ahead = float(after.mean() - before.mean()), bool(after.mean() > before.mean())
    figures = float(before.mean()), float(after.mean()), gap, len(after), force and not ahead
    job.leave(Headroom(ahead or force, measure, *figures, bootstrap_interval(after - before, seed=0)))


def dev_queries(rows: NDArray[np.int32], most: int, seed: int) -> NDArray[np.int32]:
    """Return at most so many of the dev queries, the same ones for every teacher that reranks."""
    return rows if len(rows) <= most else np.sort(np.random.default_rng(seed).permutation(rows)[:most])


def _paired(one: Evaluation, other: Evaluation, measure: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return two systems' values (Q,) of the queries that both were judged on."""
    rows = np.intersect1d(one.queries, other.queries)
    first, second = (of.of(measure)[np.searchsorted(of.queries, rows)] for of in (one, other))
    return first, second


# -- promotion: which student goes on? ----------------------------------------------------------------------


def promotion(b: Builder, number: int) -> Stage:
    """Return the decision which student goes on after rung ``number``."""
    name, title, says = f"promote-{number}", f"promote the student of rung {number}?", recorded(Promotion)
    judging, before = b.recipe.judging, {"before": f"student@{number - 1}.dev"}
    settings = {"measure": judging.measure, "level": judging.level, "number": number}
    after, run = {"after": f"rung-{number}.dev"}, decide_promotion
    return Stage(name, "promote", title, settings, before, run, says, optional=after, collective=False, named=True)


def decide_promotion(job: Job) -> None:
    """Take the rung's student, unless it is worse on dev (below `judging.level`) or left out; ``go``: it is better."""
    judging = job.settings.read(Judging)
    measure, old = judging.measure, job.evaluation("before")
    keeper, before = job.names["before"].removesuffix(".dev"), old.mean(measure)
    if "after" not in job.inputs:
        job.leave(Promotion(False, keeper, measure, before))
        return
    new = job.evaluation("after")
    was, now = _paired(old, new, measure)
    after, p, gaps = new.mean(measure), paired_test(now, was), now - was
    worse = after < before and (p < judging.level or judging.level == 1)
    student = keeper if worse else job.names["after"].removesuffix(".dev")
    seen = smallest_seen(gaps)
    known = bootstrap_interval(gaps, seed=0), None if np.isnan(seen) else seen, len(gaps)
    job.leave(Promotion(after > before, student, measure, before, after, p, *known))
