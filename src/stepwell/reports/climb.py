"""The facts of the climb: steps, trainings, scores, refine, mining, and the time of each stage."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from stepwell.collection import Collection
from stepwell.distil.negatives import Candidates
from stepwell.errors import StepwellError
from stepwell.reports.folder import Kept, RunFolder
from stepwell.retrieval.vectors import Vectors
from stepwell.teachers.spread import Histogram, histogram

POINTS = 120
"""Points of a loss curve: each is the mean of as many steps."""


@dataclass(frozen=True)
class Step:
    """A rung or a round of refine: what was measured on dev before and after, and what was decided.

    ``state`` is ``climbed``, ``taken back``, ``left out`` or ``not there yet``; ``level`` is the dev quality of the
    student that goes on from here. ``teacher_dev`` is the teacher's own dev quality (a cross-encoder's: reranking the
    student's list), on ``queries`` dev queries.
    """

    label: str
    teacher: str
    loss: str
    state: str
    before: float | None = None
    after: float | None = None
    p: float | None = None
    level: float | None = None
    teacher_dev: float | None = None
    headroom: float | None = None
    queries: int | None = None
    forced: bool = False


@dataclass(frozen=True)
class Training:
    """One training: its loss and the loss's parts against the step, and the work. Unknown work is None."""

    stage: str
    title: str
    steps: int
    seconds: float
    at: list[float]
    loss: list[float]
    parts: dict[str, list[float]]
    texts: int | None = None
    tokens: int | None = None
    peak: float | None = None


@dataclass(frozen=True)
class Scores:
    """How far the scores of teacher and student lie apart on the candidates of one distillation (logits)."""

    stage: str
    title: str
    teacher: str
    tau: float
    teacher_scores: Histogram | None
    student_scores: Histogram | None


@dataclass(frozen=True)
class Refined:
    """A round of refine: the funnel by rank groups, and what became of the selected queries."""

    label: str
    teacher: str
    rule: str
    queries: int
    asked: int
    selected: int
    funnel: list[dict[str, Any]]
    outcome: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Mined:
    """One mining: :class:`stepwell.distil.mining_report.MiningReport` as plain values, with the stages that used it."""

    stage: str
    title: str
    report: dict[str, Any]


@dataclass(frozen=True)
class Spent:
    """The time and work of one stage."""

    stage: str
    title: str
    part: str
    seconds: float
    steps: int | None
    tokens: int | None
    finished: str
    key: str


def measure_of(run: RunFolder) -> str:
    """Return the measure that decides."""
    return str(run.recipe.get("judging", {}).get("measure", "nDCG@10"))


def rungs_of(run: RunFolder) -> list[dict[str, Any]]:
    """Return the rungs of the recipe."""
    return [rung for rung in run.recipe.get("ladder", []) if isinstance(rung, dict)]


def steps(run: RunFolder) -> tuple[float | None, list[Step]]:
    """Return the dev quality of the student at the start, and all steps of the recipe."""
    rungs, refine = rungs_of(run), run.recipe.get("refine") or {}
    last = str(rungs[-1].get("teacher", "")) if rungs else ""
    planned = [(f"rung {n}", str(r.get("teacher")), str(r.get("loss"))) for n, r in enumerate(rungs, start=1)]
    teacher = str(refine.get("teacher") or last)
    planned += [(f"refine {n}", teacher, "candidates") for n in range(1, int(refine.get("rounds", 1)) + 1)]
    found = [_step(run, number, *words) for number, words in enumerate(planned, start=1)]
    return dev_quality(run, run.named("start.dev")), found


def _step(run: RunFolder, number: int, label: str, teacher: str, loss: str) -> Step:
    decision, head = run.decision(f"promote-{number}"), run.decision(f"headroom-{number}") or {}
    known: dict[str, Any] = {
        "teacher_dev": head.get("teacher"),
        "headroom": head.get("headroom"),
        "queries": head.get("queries"),
        "forced": bool(head.get("forced", False)),
    }
    if decision is None:
        return Step(label, teacher, loss, "not there yet", **known)
    before, after = decision["before"], decision["after"]
    on = decision["student"] == f"rung-{number}"
    state = "left out" if after is None else "climbed" if on else "taken back"
    return Step(label, teacher, loss, state, before, after, decision["p"], after if on else before, **known)


def dev_quality(run: RunFolder, kept: Kept | None) -> float | None:
    """Return the mean of the deciding measure on dev."""
    if kept is None:
        return None
    try:
        return float(np.mean(pq.read_table(kept.folder / "evaluation.parquet")[measure_of(run)].to_numpy()))
    except (OSError, ValueError, KeyError):
        return None


def trainings(run: RunFolder) -> list[Training]:
    """Return the loss curves of all stages that trained, in their order."""
    found = []
    for kept in run.stages:
        for place, more in (("imitation/training.json", ": first imitates"), ("training.json", "")):
            log = kept.json(place)
            if isinstance(log, dict) and log.get("losses"):
                found.append(_training(kept, f"{kept.manifest['title']}{more}", log))
    return found


def _training(kept: Kept, title: str, log: dict[str, Any]) -> Training:
    at, loss = thinned(log["losses"])
    parts = {name: thinned(values)[1] for name, values in sorted(log.get("parts", {}).items())}
    steps, seconds = int(log["steps"]), float(log.get("seconds", 0.0))
    work = (log.get("texts"), log.get("tokens"), log.get("peak"))
    return Training(kept.name, title, steps, seconds, at, loss, parts if len(parts) > 1 else {}, *work)


def thinned(values: list[float]) -> tuple[list[float], list[float]]:
    """Return at most :data:`POINTS` means of neighbouring values, and the step (from 1) that each is centred on.

    >>> thinned([4.0, 2.0])
    ([1.0, 2.0], [4.0, 2.0])
    """
    groups = np.array_split(np.arange(len(values)), min(POINTS, len(values)))
    series = np.asarray(values, dtype=np.float64)
    return [float(group.mean() + 1) for group in groups], [float(series[group].mean()) for group in groups]


def scores(run: RunFolder, collection: Collection | None) -> list[Scores]:
    """Return the histograms of each distillation over candidates; the student is the one that it made."""
    found = []
    for kept in run.stages:
        loss = "candidates" if "rule" in kept.manifest["settings"] else kept.manifest["settings"].get("loss")
        if kept.kind != "distil" or loss == "embedding":
            continue
        inputs = run.inputs(kept)
        mined = next((s for name, s in inputs.items() if name.startswith(("candidates", "select-", "scores"))), None)
        teacher = str(kept.manifest["settings"]["teacher"])
        kept_scores = kept.json("teacher_scores.json")
        theirs = (
            Histogram(**kept_scores)
            if kept_scores
            else _seen(inputs.get(f"teacher.{teacher}.vectors"), mined, collection)
        )
        own = _seen(run.named(f"{kept.name}.vectors"), mined, collection)
        if theirs or own:
            tau = float(kept.manifest["settings"].get("tau", 1.0))
            found.append(Scores(kept.name, str(kept.manifest["title"]), teacher, tau, theirs, own))
    return found


def _seen(vectors: Kept | None, mined: Kept | None, collection: Collection | None) -> Histogram | None:
    """Return the histogram of a dual encoder's logits on mined candidates, None where it can't be made."""
    if vectors is None or mined is None or collection is None:
        return None
    try:
        candidates = Candidates.load(mined.folder / "candidates.parquet", collection)
        logits = Vectors.open(vectors.folder).scores(candidates.queries, candidates.passages)
    except (OSError, ValueError, KeyError, StepwellError):
        return None
    return histogram(np.where(candidates.passages >= 0, logits, np.nan))


def refined(run: RunFolder) -> list[Refined]:
    """Return the rounds of refine that were begun."""
    first, found = len(rungs_of(run)), []
    for kept in run.stages:
        decision = kept.json("decision.json") if kept.kind == "select" else None
        if not decision or run.named(kept.name) is not kept:
            continue
        number = int(kept.name.partition("-")[2])
        after = run.named(f"outcome-{number}")
        facts = {name: decision[name] for name in ("rule", "queries", "asked", "selected", "funnel")}
        outcome = (after.json("outcome.json") if after else None) or {}
        teacher = str(kept.manifest["settings"].get("teacher", ""))
        found.append(Refined(f"refine {number - first}", teacher, outcome=outcome, **facts))
    return found


def mined(run: RunFolder) -> list[Mined]:
    """Return the accounts of all minings."""
    reports = [(kept, kept.json("report.json")) for kept in run.stages if kept.kind in ("mine", "select")]
    return [Mined(kept.name, str(kept.manifest["title"]), report) for kept, report in reports if report]


def spent(run: RunFolder) -> list[Spent]:
    """Return the time and work of every finished stage, in their order."""
    found = []
    for kept in run.stages:
        log = kept.json("training.json") or {}
        found.append(
            Spent(
                kept.name,
                str(kept.manifest.get("title", kept.name)),
                part_of(kept, len(rungs_of(run))),
                float(kept.manifest.get("seconds", 0.0)),
                log.get("steps"),
                log.get("tokens"),
                str(kept.manifest["finished"]),
                str(kept.manifest["key"]),
            )
        )
    return found


def part_of(kept: Kept, rungs: int) -> str:
    """Return which part of a run a stage belongs to: teachers, ladder, refine or proof."""
    head = kept.name.partition(".")[0]
    word, _, number = head.replace("@", "-").partition("-")
    if kept.kind in ("select", "outcome"):
        return "refine"
    if kept.name.endswith(".test") or kept.kind in ("straight", "contrast", "base", "updates", "table"):
        return "proof"
    if word in ("straight", "contrastive", "base", "table") or kept.name in (
        "candidates.proof",
        "candidates.contrastive",
    ):
        return "proof"
    if word == "teacher" or kept.name.startswith("candidates."):
        return "teachers"
    beyond = number.isdigit() and int(number) > rungs
    return "refine" if beyond or kept.name == f"student@{rungs}.train" else "ladder"
