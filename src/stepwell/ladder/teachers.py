"""What a stage asks of a recipe's teachers: to be opened, and the scores that a rung learns from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from stepwell import distributed
from stepwell.display import SILENT, Progress
from stepwell.distil.negatives import Candidates
from stepwell.errors import StepwellError
from stepwell.ladder.context import Context
from stepwell.ladder.workspace import Job
from stepwell.recipe import Recipe
from stepwell.teachers.opening import Texts, kind_of, open_teacher
from stepwell.teachers.protocol import Teacher

MISSING = "missing.jsonl"
"""The file in an unfinished stage's folder that lists the pairs without a score."""


def inputs_of(recipe: Recipe, name: str) -> tuple[str, ...]:
    """Return the stages whose folders :func:`opened` reads for a teacher."""
    return kind_of(name, recipe.teachers).inputs()


def opened(ctx: Context, name: str, inputs: dict[str, Path]) -> Teacher:
    """Open a teacher of the recipe; ``inputs`` holds the folders of the stages that :func:`inputs_of` names."""
    texts = Texts(ctx.collection, ctx.recipe.tokens, ctx.store_root)
    return open_teacher(name, ctx.recipe.teachers, texts, inputs)


class Targets(NamedTuple):
    """What a rung learns from a teacher: candidates, their scores, and how many of both had to go.

    ``scores`` has the shape (Q, M), or (T, Q, M) of several teachers of which one counts for each query.
    """

    candidates: Candidates
    scores: NDArray[np.float32]
    missing: int
    left_out: int


def targets(ctx: Context, name: str, job: Job, candidates: Candidates, progress: Progress = SILENT) -> Targets:
    """Return a teacher's logits of candidates, without what it has no scores of.

    A softmax over candidates must not see one whose score is unknown: it is padding. A query whose positives all lack
    a score, or which has fewer than two scores, teaches nothing and is left out.

    Raises
    ------
    StepwellError
        When scores are missing and the recipe does not say what to do, or none is left.
    """
    teacher, kind = opened(ctx, name, job.inputs), kind_of(name, ctx.recipe.teachers)
    scores = kind.targets(teacher, candidates.queries, candidates.passages, progress)
    lacking = np.asarray(np.isnan(scores).reshape(-1, *candidates.passages.shape).any(axis=0))  # (Q, M)
    if not lacking.any():
        return Targets(candidates, scores, 0, 0)
    if not kind.missing or "error" in kind.missing:
        raise _lacking(ctx, name, job, candidates, lacking)
    passages = np.where(lacking, -1, candidates.passages)
    grades = np.where(lacking, 0, candidates.grades)
    kept = ((passages >= 0).sum(axis=1) >= 2) & (grades > 0).any(axis=1)
    if not kept.any():
        raise StepwellError(
            f"the teacher {name!r} has scores of no training query's positive together with another of its candidates: "
            "there is nothing to learn. Are they of the queries of another split?"
        )
    rest = Candidates(candidates.queries[kept], passages[kept], grades[kept])
    return Targets(rest, np.where(lacking, 0, scores)[..., kept, :], int(lacking.sum()), int((~kept).sum()))


def _lacking(ctx: Context, name: str, job: Job, candidates: Candidates, lacking: NDArray[np.bool_]) -> StepwellError:
    row, column = np.nonzero(lacking)
    ids = ctx.collection.query_ids, ctx.collection.passage_ids
    pairs = [
        (ids[0][int(query)], ids[1][int(passage)])
        for query, passage in zip(candidates.queries[row], candidates.passages[row, column], strict=True)
    ]
    listed = job.folder / MISSING
    if distributed.is_main():
        lines = (json.dumps({"query-id": query, "corpus-id": passage}) for query, passage in pairs)
        listed.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    some = ", ".join(f"{query!r} with {passage!r}" for query, passage in pairs[:3])
    return StepwellError(
        f"the teacher {name!r} has no score of {len(pairs):,} of the {int((candidates.passages >= 0).sum()):,} "
        f"candidates of this rung, such as {some}; the student can't be compared with it there. All are listed in "
        f"{listed} (which `stepwell score` reads): score these too and add them to the file, or set `missing` of the "
        "teacher to `drop` (leave them out) or `floor` (they get the query's lowest score)."
    )
