"""The facts of the climb: steps, trainings, scores, refine, mining, and the time of each stage."""

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from stepwell.collection import Collection
from stepwell.distil.candidates import Candidates
from stepwell.distil.training import TrainingLog
from stepwell.errors import StepwellError
from stepwell.retrieval.vectors import Vectors
from stepwell.systems import records
from stepwell.systems.folder import RunFolder, StageFolder
from stepwell.systems.records import Headroom, Mining, Outcome, Promotion, Selection, TeacherScores
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
    """One mining: :class:`stepwell.distil.negatives.MiningReport` as plain values, with the stage that it is of."""

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
    return str(run.recipe_values.get("judging", {}).get("measure", "nDCG@10"))


def rungs_of(run: RunFolder) -> list[dict[str, Any]]:
    """Return the rungs of the recipe."""
    return [rung for rung in run.recipe_values.get("ladder", []) if isinstance(rung, dict)]


def steps(run: RunFolder) -> tuple[float | None, list[Step]]:
    """Return the dev quality of the student at the start, and all steps of the recipe."""
    rungs, refine = rungs_of(run), run.recipe_values.get("refine") or {}
    last = str(rungs[-1].get("teacher", "")) if rungs else ""
    planned = [(f"rung {n}", str(r.get("teacher")), str(r.get("loss"))) for n, r in enumerate(rungs, start=1)]
    teacher = str(refine.get("teacher") or last)
    planned += [(f"refine {n}", teacher, "candidates") for n in range(1, int(refine.get("rounds", 1)) + 1)]
    return _dev_quality(run, "start.dev"), [_step(run, n, *words) for n, words in enumerate(planned, start=1)]


def _step(run: RunFolder, number: int, label: str, teacher: str, loss: str) -> Step:
    known: dict[str, Any] = {}
    if head := run.read(f"headroom-{number}", Headroom):
        known = {"teacher_dev": head.teacher, "headroom": head.headroom, "queries": head.queries, "forced": head.forced}
    decision = run.read(f"promote-{number}", Promotion)
    if decision is None:
        return Step(label, teacher, loss, "not there yet", **known)
    before, after = decision.before, decision.after
    on = decision.student == f"rung-{number}"
    state = "left out" if after is None else "climbed" if on else "taken back"
    return Step(label, teacher, loss, state, before, after, decision.p, after if on else before, **known)


def _dev_quality(run: RunFolder, name: str) -> float | None:
    """Return the mean of the deciding measure that a stage reached on dev."""
    stage = run.named(name)
    try:
        table = pq.read_table(stage.folder / "evaluation.parquet") if stage else None
        return float(np.mean(table[measure_of(run)].to_numpy())) if table else None
    except (OSError, ValueError, KeyError):
        return None


def trainings(run: RunFolder) -> list[Training]:
    """Return the loss curves of all stages that trained, in their order."""
    found = []
    for stage in run.stages:
        for part, more in (("imitation", ": first imitates"), ("", "")):
            kept = stage.read(records.Training, part)
            if kept and kept.log.losses:
                found.append(_training(stage.name, f"{stage.title}{more}", kept.log))
    return found


def _training(stage: str, title: str, log: TrainingLog) -> Training:
    at, loss = thinned(log.losses)
    parts = {name: thinned(values)[1] for name, values in sorted(log.parts.items())}
    work = (log.texts or None, log.tokens or None, log.peak)
    return Training(stage, title, log.steps, log.seconds, at, loss, parts if len(parts) > 1 else {}, *work)


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
    for stage in run.stages:
        settings = stage.manifest.settings
        if stage.kind != "distil" or ("rule" not in settings and settings.get("loss") == "embedding"):
            continue
        inputs, teacher = run.inputs(stage), str(settings["teacher"])
        mined = next((s for s in inputs.values() if (s.folder / "candidates.parquet").is_file()), None)
        kept = stage.read(TeacherScores)
        theirs = kept.histogram if kept else None
        theirs = theirs or _histogram(run.named(f"teacher.{teacher}.vectors"), mined, collection)
        own = _histogram(run.named(f"{stage.name}.vectors"), mined, collection)
        if theirs or own:
            found.append(Scores(stage.name, stage.title, teacher, float(settings.get("tau", 1.0)), theirs, own))
    return found


def _histogram(vectors: StageFolder | None, mined: StageFolder | None, on: Collection | None) -> Histogram | None:
    """Return the histogram of a dual encoder's logits on mined candidates, None where it can't be made."""
    if vectors is None or mined is None or on is None:
        return None
    try:
        candidates = Candidates.load(mined.folder / "candidates.parquet", on)
        logits = Vectors.open(vectors.folder).score(candidates.queries, candidates.passages)
    except (OSError, ValueError, KeyError, StepwellError):
        return None
    return histogram(np.where(candidates.passages >= 0, logits, np.nan))


def refined(run: RunFolder) -> list[Refined]:
    """Return the rounds of refine that were begun."""
    first, found = len(rungs_of(run)), []
    for stage in run.stages:
        chosen = stage.read(Selection) if stage.kind == "select" else None
        if chosen is None or run.named(stage.name) is not stage:
            continue
        number = int(stage.name.partition("-")[2])
        outcome = run.read(f"outcome-{number}", Outcome)
        figures = (chosen.rule, chosen.queries, chosen.asked, chosen.selected, chosen.funnel)
        teacher = str(stage.manifest.settings.get("teacher", ""))
        found.append(Refined(f"refine {number - first}", teacher, *figures, asdict(outcome) if outcome else {}))
    return found


def mined(run: RunFolder) -> list[Mined]:
    """Return the accounts of all minings."""
    reports = [(stage, stage.read(Mining)) for stage in run.stages if stage.kind in ("mine", "select")]
    return [Mined(stage.name, stage.title, report.to_json()) for stage, report in reports if report]


def spent(run: RunFolder) -> list[Spent]:
    """Return the time and work of every finished stage, in their order."""
    found, rungs = [], len(rungs_of(run))
    for stage in run.stages:
        kept, made = stage.read(records.Training), stage.manifest
        done, tokens = (kept.log.steps, kept.log.tokens or None) if kept else (None, None)
        part, seconds = part_of(stage, rungs), made.seconds or 0.0
        found.append(Spent(stage.name, stage.title, part, seconds, done, tokens, made.finished, made.key))
    return found


def part_of(stage: StageFolder, rungs: int) -> str:
    """Return which part of a run a stage belongs to: teachers, ladder, refine or proof."""
    name, kind = stage.name, stage.kind
    word, _, number = name.partition(".")[0].replace("@", "-").partition("-")
    if kind in ("select", "outcome"):
        return "refine"
    if (
        name.endswith(".test")
        or name in ("candidates.proof", "candidates.contrastive")
        or kind in ("straight", "contrast", "base", "updates", "table")
        or word in ("straight", "contrastive", "base", "table")
    ):
        return "proof"
    if word == "teacher" or name.startswith("candidates."):
        return "teachers"
    beyond = number.isdigit() and int(number) > rungs
    return "refine" if beyond or name == f"student@{rungs}.train" else "ladder"
