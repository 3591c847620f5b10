"""The stage in which a teacher scores a training's candidates; the training learns from what it wrote."""

import json
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from stepwell import distributed
from stepwell.display import warn
from stepwell.distil.candidates import Candidates
from stepwell.errors import RunError, StepwellError
from stepwell.ladder.builder import Builder
from stepwell.ladder.prices import Prices, Work
from stepwell.ladder.stage import Job, Stage, recorded
from stepwell.recipe import Refine, Rung, Together, teacher_temperature
from stepwell.systems.records import ScoreFacts
from stepwell.teachers.scoring import Named
from stepwell.teachers.spread import check_scores, spread

MISSING = "missing.jsonl"
"""The file in an unfinished stage's folder that lists the pairs without a score."""


def lessons(
    b: Builder, name: str, teacher: str, settings: Rung | Refine, found: str, known: bool = False
) -> dict[str, str]:
    """Return what a training reads of its teacher on the candidates of the stage ``found``: scores of them, if any.

    The scores are a stage of their own, ``name``. ``known``: the store has nearly all of them by then.
    """
    if b.embeds(teacher) or not settings.beta:
        return {"candidates": found, **(b.opens(teacher) if isinstance(settings, Rung) else {})}
    k = max(b.recipe.mining.pool or 0, settings.candidates)

    def cost(prices: Prices) -> Work:
        return Work() if known else b.scoring(teacher, prices, prices.train, k)

    title, tau = f"{teacher} scores the candidates", {"tau": teacher_temperature(settings)}
    inputs = {"candidates": found, **b.opens(teacher)}
    return {"scores": b.add(Stage(name, "score", title, tau, inputs, score, recorded(ScoreFacts), cost))}


class Scores(NamedTuple):
    """What a training learns from a teacher: candidates and their scores."""

    candidates: Candidates
    scores: NDArray[np.float32]  # (Q, M), or (T, Q, M) of several teachers
    missing: int = 0  # candidates that had to go
    left_out: int = 0  # queries that had to go
    together: Together | None = None  # what becomes of several teachers' scores

    @property
    def tables(self) -> NDArray[np.float32]:
        """The scores of each teacher (T, Q, M), NaN where there is no candidate."""
        known = np.where(self.candidates.passages >= 0, self.scores, np.nan)
        return known.reshape(-1, *self.candidates.passages.shape)

    @classmethod
    def of(cls, job: Job) -> Self:
        """Read what :func:`score` wrote."""
        folder = job.inputs["scores"]
        scores, facts = np.load(folder / "scores.npy", allow_pickle=False), ScoreFacts.load(folder)
        return cls(job.candidates("scores"), scores, facts.missing, facts.left_out, facts.together)


def score(job: Job) -> None:
    """Have a teacher score all candidates, each pair once, ever; write those with scores, and look at the spread."""
    tau = job.settings["tau"]  # what the loss divides the scores by; None for a loss without temperature
    found = scores_of(job, job.candidates())
    if not distributed.is_main():
        return
    (job.folder / MISSING).unlink(missing_ok=True)  # of an attempt before the file of scores was complete
    teacher = job.kind().name
    if found.missing:
        warn(
            f"{teacher} has no score of {found.missing:,} candidates, which are left out, and with them "
            f"{found.left_out:,} queries; {len(found.candidates):,} queries train."
        )
    found.candidates.save(job.folder / "candidates.parquet", job.surroundings.collection)
    np.save(job.folder / "scores.npy", found.scores)
    warnings = warn_of(teacher, found.tables, tau)
    seen, together = spread(found.tables[0], tau or 1.0), job.kind().together
    job.leave(ScoreFacts(warnings, seen, found.missing, found.left_out, together))


def warn_of(teacher: str, scores: NDArray[np.float32], tau: float | None) -> list[str]:
    """Warn of scores (..., Q, K) that teach nothing at ``tau``, and return the warnings."""
    warnings = check_scores(scores, tau)
    for text in warnings:
        warn(f"{teacher}: {text}")
    return warnings


def refuse_no_numbers(job: Job, candidates: Candidates, scores: NDArray[np.float32], unknown: bool = False) -> None:
    """Refuse scores (..., Q, M) of which one is infinite or NaN; ``unknown``: NaN says that a file has no score."""
    checked = np.where(np.isnan(scores), 0, scores) if unknown else scores
    # (Q, M), no number where one of several teachers' is none
    worst = checked.reshape(-1, *candidates.passages.shape).sum(axis=0, dtype=np.float64)
    filled = candidates.passages >= 0
    queries = np.broadcast_to(candidates.queries[:, None], filled.shape)
    around = job.surroundings
    Named(job.kind().name, around.collection).refuse(queries[filled], candidates.passages[filled], worst[filled])


def scores_of(job: Job, candidates: Candidates) -> Scores:
    """Return a teacher's logits of candidates, without what it has no scores of.

    A softmax over candidates must not see one whose score is unknown: it is padding. A query whose positives all lack
    a score, or which has fewer than two scores, teaches nothing and is left out.
    """
    kind = job.kind()
    scores = kind.targets(job.teacher(), candidates.queries, candidates.passages, job.progress)
    refuse_no_numbers(job, candidates, scores, unknown=bool(kind.missing))
    lacking = np.asarray(np.isnan(scores).reshape(-1, *candidates.passages.shape).any(axis=0))  # (Q, M)
    if not lacking.any():
        return Scores(candidates, scores)
    if not kind.missing or "error" in kind.missing:
        raise _lacking(job, candidates, lacking)
    passages = np.where(lacking, -1, candidates.passages)
    grades = np.where(lacking, 0, candidates.grades)
    kept = ((passages >= 0).sum(axis=1) >= 2) & (grades > 0).any(axis=1)
    if not kept.any():
        raise RunError(
            f"the teacher {kind.name!r} has scores of no training query's positive together with another of "
            "its candidates: there is nothing to learn. Are they of the queries of another split?"
        )
    rest = Candidates(candidates.queries[kept], passages[kept], grades[kept])
    return Scores(rest, np.where(lacking, 0, scores)[..., kept, :], int(lacking.sum()), int((~kept).sum()))


def _lacking(job: Job, candidates: Candidates, lacking: NDArray[np.bool_]) -> StepwellError:
    """List the pairs without a score in a file, and say what to do about them."""
    row, column = np.nonzero(lacking)
    collection = job.surroundings.collection
    pairs = [
        (collection.query_ids[int(query)], collection.passage_ids[int(passage)])
        for query, passage in zip(candidates.queries[row], candidates.passages[row, column], strict=True)
    ]
    listed = job.folder / MISSING
    if distributed.is_main():
        lines = (json.dumps({"query-id": query, "corpus-id": passage}) for query, passage in pairs)
        listed.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    some = ", ".join(f"{query!r} with {passage!r}" for query, passage in pairs[:3])
    return RunError(
        f"the teacher {job.kind().name!r} has no score of {len(pairs):,} of the "
        f"{int((candidates.passages >= 0).sum()):,} candidates of this rung, such as {some}; the student can't be "
        f"compared with it there. All are listed in {listed} (which `stepwell score` reads): score these too and add "
        "them to the file, or set `missing` of the teacher to `drop` (leave them out) or `floor` (they get the query's "
        "lowest score)."
    )
