"""Data progressive distillation: only the queries that the teacher gets right and the student still gets wrong.

Source: PROD, section 3.3. The rule looks at two ranks of a query's first positive, 1 = best: in the
student's list, and after the teacher has reranked that list.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from stepwell import distributed
from stepwell.collection import Qrels
from stepwell.ladder.context import Context
from stepwell.ladder.finding import mine_from
from stepwell.ladder.judging import reranked
from stepwell.ladder.workspace import Job, read_json
from stepwell.recipe import Refine
from stepwell.retrieval.run import Run

MISSING = 2**30
"""The rank of a positive that is not in the list: worse than any."""

EDGES = (1, 2, 4, 8, 16, MISSING)
GROUPS = ("1", "2-3", "4-7", "8-15", "16+", "missing")
"""The rank groups of the funnel: where each begins, and its name."""


def first_positive_ranks(run: Run, qrels: Qrels) -> NDArray[np.int64]:
    """Return the rank of each query's best-placed positive, 1 = best, :data:`MISSING` when it has none in its list.

    Returns
    -------
    NDArray
        Shape (Q,).
    """
    right = qrels.is_positive(run.queries[:, None], run.passages) & (run.passages >= 0)  # (Q, k)
    return np.where(right.any(axis=1), right.argmax(axis=1) + 1, MISSING).astype(np.int64)


def selected(teacher: NDArray[np.int64], student: NDArray[np.int64], rule: str, worst: int) -> NDArray[np.bool_]:
    """Return which queries a rule selects.

    Parameters
    ----------
    teacher, student
        Ranks of the first positive, shape (Q,).
    rule
        ``top``: teacher rank 1 and student rank 2 to ``worst`` (the paper's MS MARCO rule); ``better``: teacher
        rank smaller than the student's and at most ``worst`` (its NQ rule).

    Examples
    --------
    >>> teacher, student = np.array([1, 1, 3, 1]), np.array([1, 15, 4, 16])
    >>> selected(teacher, student, "top", 15).tolist(), selected(teacher, student, "better", 15).tolist()
    ([False, True, False, False], [False, True, True, True])
    """
    if rule == "top":
        chosen: NDArray[np.bool_] = (teacher == 1) & (student >= 2) & (student <= worst)
    else:
        chosen = (teacher < student) & (teacher <= worst)
    return chosen


def can_be_selected(student: NDArray[np.int64], rule: str, worst: int, depth: int) -> NDArray[np.bool_]:
    """Return the queries whose selection still depends on the teacher; only these are paid for."""
    bound = min(worst, depth) if rule == "top" else depth
    return (student >= 2) & (student <= bound)


def select(ctx: Context, settings: Refine, teacher: str, student: str, job: Job) -> None:
    """Let the teacher rerank the student's lists of the training queries, select by the rule, and mine.

    ``job.inputs`` has the student's training run. Writes the candidates of the selected queries, hardest first, and
    the funnel: how many queries stand at each pair of rank groups.
    """
    run = Run.load(job.inputs[f"{student}.train"] / "train.parquet", ctx.collection)
    qrels = ctx.splits.train
    student_ranks = first_positive_ranks(run, qrels)
    open_ = can_be_selected(student_ranks, settings.rule, settings.worst, settings.depth)
    teacher_ranks = np.full(len(student_ranks), -1, dtype=np.int64)  # -1: not asked
    if open_.any():
        head = Run(run.queries[open_], run.passages[open_], run.scores[open_]).top(settings.depth)
        found, _ = reranked(ctx, head, teacher, settings.depth, job)
        teacher_ranks[open_] = first_positive_ranks(found, qrels)
    chosen = open_ & selected(teacher_ranks, student_ranks, settings.rule, settings.worst)
    picked = run.select(run.queries[chosen])
    how = ctx.recipe.mining.model_copy(update={"sampling": "hardest", "first": 1, "pool": None})
    mine_from(ctx, picked, how, settings.candidates, teacher, job)
    if not distributed.is_main():
        return
    job.write_json(
        "decision.json",
        {
            "go": bool(chosen.any()),
            "rule": settings.rule,
            "queries": len(chosen),
            "asked": int(open_.sum()),
            "selected": int(chosen.sum()),
            "selected_queries": run.queries[chosen].tolist(),
            "funnel": funnel(student_ranks, teacher_ranks),
        },
    )


def funnel(student: NDArray[np.int64], teacher: NDArray[np.int64]) -> list[dict[str, Any]]:
    """Count the queries at each pair of rank groups; teacher ``-`` where it was not asked."""
    groups = [_group(ranks) for ranks in (student, teacher)]
    pairs, counts = np.unique(np.array(groups), axis=1, return_counts=True)
    return [
        {"student": str(s), "teacher": str(t), "queries": int(n)} for (s, t), n in zip(pairs.T, counts, strict=True)
    ]


def _group(ranks: NDArray[np.int64]) -> list[str]:
    return ["-" if rank < 0 else GROUPS[int(np.searchsorted(EDGES, rank, side="right")) - 1] for rank in ranks]


def outcome(ctx: Context, before: str, after: str, number: int, job: Job) -> None:
    """Count what a round of refine did to the training queries: how many it fixed, how many it broke."""
    qrels = ctx.splits.train
    old = Run.load(job.inputs[f"{before}.train"] / "train.parquet", ctx.collection)
    new = Run.load(job.inputs[f"{after}.train"] / "train.parquet", ctx.collection).select(old.queries)
    was, now = first_positive_ranks(old, qrels), first_positive_ranks(new, qrels)
    decision = read_json(job.inputs[f"select-{number}"] / "decision.json")
    chosen = np.isin(old.queries, np.array(decision["selected_queries"], dtype=np.int32))
    job.write_json(
        "outcome.json",
        {
            "selected": int(chosen.sum()),
            "fixed": int((chosen & (now == 1)).sum()),
            "nearer": int((chosen & (now < was)).sum()),
            "farther": int((chosen & (now > was)).sum()),
            "broken": int(((was == 1) & (now > 1)).sum()),
            "right_before": int((was == 1).sum()),
            "right_after": int((now == 1).sum()),
        },
    )
