"""A recipe's teachers, opened for a stage: behind one protocol, whichever their kind."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from stepwell import distributed
from stepwell.display import SILENT, Progress
from stepwell.distil.negatives import Candidates
from stepwell.errors import StepwellError
from stepwell.ladder.context import Context
from stepwell.ladder.workspace import Job, read_json
from stepwell.models.encoder import Side
from stepwell.recipe import Recipe
from stepwell.recipe.teachers import (
    BestTeacher,
    DualEncoderTeacher,
    HostedTeacher,
    ListTeacher,
    MeanTeacher,
    ScoresTeacher,
    SeveralTeachers,
)
from stepwell.retrieval.vectors import Vectors
from stepwell.teachers.from_file import FileTeacher
from stepwell.teachers.hosted import HostedReranker
from stepwell.teachers.pair_teachers import hosted_scorer
from stepwell.teachers.protocol import EmbeddingTeacher, LogOdds, Several, Teacher
from stepwell.teachers.scoring import Scorer, Stored
from stepwell.teachers.store import ScoreStore

Rows = NDArray[np.int32]

MISSING = "missing.jsonl"
"""The file in an unfinished stage's folder that lists the pairs without a score."""


def inputs_of(recipe: Recipe, name: str) -> tuple[str, ...]:
    """Return the stages whose folders :func:`opened` reads for a teacher."""
    teacher = recipe.teachers[name]
    if teacher.embeds:
        return (f"teacher.{name}.vectors",)
    others = teacher.of if isinstance(teacher, SeveralTeachers) else []
    return (f"teacher.{name}", *(stage for other in others for stage in inputs_of(recipe, other)))


def opened(ctx: Context, name: str, inputs: dict[str, Path]) -> Teacher:
    """Open a teacher of the recipe; ``inputs`` holds the folders of the stages that :func:`inputs_of` names."""
    teacher = ctx.teacher(name)
    match teacher:
        case DualEncoderTeacher():
            return _embedding(inputs[f"teacher.{name}.vectors"])
        case ListTeacher():
            return _pair_teacher(ctx, name, inputs[f"teacher.{name}"])
        case ScoresTeacher():
            found: Teacher = file_teacher(ctx, teacher, inputs[f"teacher.{name}"])
            return LogOdds(found, name) if teacher.logit else found
        case HostedTeacher():
            found = _hosted(ctx, teacher)
            return LogOdds(found, name) if teacher.logit else found
        case MeanTeacher() | BestTeacher():
            standardise = teacher.standardise if isinstance(teacher, MeanTeacher) else True
            return Several([opened(ctx, other, inputs) for other in teacher.of], standardise)


class _Embedded:
    """A dual encoder by the vectors that it gave: nothing runs any more."""

    def __init__(self, vectors: Vectors, fingerprint: str) -> None:
        self.vectors, self.fingerprint = vectors, fingerprint

    def score(self, queries: Rows, candidates: Rows, progress: Progress = SILENT) -> NDArray[np.float32]:
        return self.vectors.scores(queries, candidates)

    def embed(self, rows: Rows, side: Side) -> NDArray[np.float32]:
        return self.vectors.of_queries(rows) if side == "query" else np.asarray(self.vectors.passages[rows])


def _embedding(folder: Path) -> EmbeddingTeacher:
    return _Embedded(Vectors.open(folder), str(read_json(folder / "manifest.json")["key"]))


def _pair_teacher(ctx: Context, name: str, folder: Path) -> Stored:
    model = ctx.pair_model(name, folder / "model")

    def scorer() -> Scorer:
        queries, passages = ctx.texts(model)

        def score(query_rows: Rows, passage_rows: Rows, progress: Progress) -> NDArray[np.float32]:
            return model.score(queries, passages, query_rows.astype(np.int64), passage_rows.astype(np.int64), progress)

        return score

    return Stored(ctx.store_root, model.fingerprint, ctx.collection.texts_fingerprint, scorer)


def file_teacher(ctx: Context, teacher: ScoresTeacher, folder: Path) -> FileTeacher:
    """Open the scores that a stage read from a file into its folder."""
    content = read_json(folder / "scores.json")["sha256"]
    store = ScoreStore.open(folder / "scores", content, ctx.collection.texts_fingerprint)
    floors = np.load(folder / "floors.npy", allow_pickle=False) if teacher.missing == "floor" else None
    return FileTeacher(store, floors)


def _hosted(ctx: Context, teacher: HostedTeacher) -> Stored:
    name, scorer = HostedReranker.fingerprint_of(teacher), partial(hosted_scorer, teacher, ctx.collection)
    return Stored(ctx.store_root, name, ctx.collection.texts_fingerprint, scorer, teacher.batch * teacher.parallel)


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
    teacher = opened(ctx, name, job.inputs)
    if isinstance(ctx.teacher(name), BestTeacher) and isinstance(teacher, Several):
        scores = teacher.each(candidates.queries, candidates.passages, progress)
    else:
        scores = teacher.score(candidates.queries, candidates.passages, progress)
    lacking = np.asarray(np.isnan(scores).reshape(-1, *candidates.passages.shape).any(axis=0))  # (Q, M)
    if not lacking.any():
        return Targets(candidates, scores, 0, 0)
    if not _may_lack(ctx.recipe, name):
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


def _may_lack(recipe: Recipe, name: str) -> bool:
    teacher = recipe.teachers[name]
    parts = [teacher, *(recipe.teachers[other] for other in teacher.names)]
    files = [part.missing for part in parts if isinstance(part, ScoresTeacher)]
    return bool(files) and "error" not in files


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
