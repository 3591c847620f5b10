"""How near the student's lists in a teacher's vectors come to the teacher's own: for an index that is there already."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stepwell.display import Table
from stepwell.evaluation import bootstrap_interval
from stepwell.ladder.builder import Builder
from stepwell.ladder.stage import Job, Stage, Surroundings
from stepwell.retrieval.bm25 import bm25_of
from stepwell.retrieval.run import Run
from stepwell.retrieval.search import retrieve
from stepwell.systems.records import Overlap

DEPTHS = 10, 100


def overlap(b: Builder, name: str, label: str, top: str, gates: tuple[str, ...] | None) -> None:
    """Add the comparison of lists in the vectors of the teacher ``name``, where it has vectors of held-out queries."""
    if not b.recipe.teachers[name].has_query_vectors:
        return
    inputs = {"student": f"student@{b.last}.vectors", "teacher": f"teacher.{name}.vectors"}
    settings = {"teacher": name, "asymmetric": label, "student": top}
    title = f"compare the student's lists with those of {name}"
    reads = ("held_out", "held_out_of")
    b.add(Stage("overlap", "overlap", title, settings, inputs, compare_lists, say_overlap, reads=reads, only_if=gates))


def compare_lists(job: Job) -> None:
    """Compare lists with those that the teacher's vectors of the queries give; needs no labels."""
    splits, collection = job.surroundings.splits, job.surroundings.collection
    ours, theirs, deepest = job.vectors("student"), job.vectors("teacher"), max(DEPTHS)
    assert ours is not None and theirs is not None
    rows = np.intersect1d(splits.held_out, theirs.query_rows).astype(np.int32)
    own = retrieve(theirs, rows, deepest)
    lists = {
        job.settings["asymmetric"]: retrieve(ours, rows, deepest, theirs),
        job.settings["student"]: retrieve(ours, rows, deepest),
        "BM25": bm25_of(collection).run(collection, rows, deepest),
    }
    systems = {}
    for system, found in lists.items():
        shares = {f"R@{k}": shared(own, found, k) for k in DEPTHS}
        systems[system] = {name: (float(of.mean()), *bootstrap_interval(of, seed=0)) for name, of in shares.items()}
    job.leave(Overlap(job.settings["teacher"], len(rows), splits.held_out_of, systems))


def shared(own: Run, found: Run, k: int) -> NDArray[np.float64]:
    """Return which share of the first ``k`` passages of each query's own list the other has among its first (Q,).

    >>> own = Run(np.int32([0]), np.int32([[4, 2, 7]]), np.float32([[3, 2, 1]]))
    >>> found = Run(np.int32([0]), np.int32([[2, 9, 4]]), np.float32([[3, 2, 1]]))
    >>> shared(own, found, 2).tolist(), shared(own, found, 3).round(2).tolist()
    ([0.5], [0.67])
    """
    pairs = zip(own.passages[:, :k], found.passages[:, :k], strict=True)
    return np.array([np.isin(mine, others).sum() / max(1, (mine >= 0).sum()) for mine, others in pairs])


def say_overlap(folder: Path, surroundings: Surroundings) -> Iterable[Table]:
    """Say how many passages are shared."""
    yield Overlap.load(folder).table()
