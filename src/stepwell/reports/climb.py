"""The facts of the climb: steps, trainings, scores, refine, mining, and the time of each stage."""

from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from stepwell.collection import Collection
from stepwell.distil.candidates import Candidates
from stepwell.errors import StepwellError
from stepwell.evaluation import Evaluation
from stepwell.evaluation.comparison import Interval
from stepwell.retrieval.vectors import Vectors
from stepwell.systems import records
from stepwell.systems.folder import RunFolder, StageFolder
from stepwell.teachers.spread import Histogram, histogram

POINTS = 120
"""Points of a loss curve: each is the mean of as many steps."""


@dataclass(frozen=True)
class Step:
    """A rung or a round of refine: what was measured on dev before and after, and what was decided."""

    label: str
    teacher: str
    loss: str
    state: str  # climbed, taken back, left out or not there yet
    before: float | None = None
    after: float | None = None
    p: float | None = None
    level: float | None = None  # the dev quality of the student that goes on from here
    teacher_dev: float | None = None  # the teacher's own dev quality (a cross-encoder's: reranking the student's list)
    headroom: float | None = None
    queries: int | None = None  # of dev that the teacher was measured on
    forced: bool = False
    interval: Interval | None = None  # of after minus before: 95 %
    seen: float | None = None  # the true loss that so few dev queries show with a chance of 80 %
    headroom_interval: Interval | None = None


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
    ranks: str = "qrels"


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
    part: str  # teachers, ladder, refine or proof
    seconds: float
    steps: int | None
    tokens: int | None
    finished: str
    key: str


def rungs_of(run: RunFolder) -> list[dict[str, Any]]:
    """Return the rungs of the recipe."""
    return [rung for rung in run.recipe_values.get("ladder", []) if isinstance(rung, dict)]


def steps(run: RunFolder) -> list[Step]:
    """Return all steps of the recipe."""
    rungs, refine = rungs_of(run), run.recipe_values.get("refine") or {}
    last = str(rungs[-1].get("teacher", "")) if rungs else ""
    planned = [(f"rung {n}", str(r.get("teacher")), str(r.get("loss"))) for n, r in enumerate(rungs, start=1)]
    teacher = str(refine.get("teacher") or last)
    planned += [(f"refine {n}", teacher, "candidates") for n in range(1, int(refine.get("rounds", 1)) + 1)]
    found = []
    for number, words in enumerate(planned, start=1):
        step = Step(*words, "not there yet")
        if head := run.read(f"headroom-{number}", records.Headroom):
            step = replace(step, teacher_dev=head.teacher, forced=head.forced, queries=head.queries)
            step = replace(step, headroom=head.headroom, headroom_interval=head.interval)
        if decision := run.read(f"promote-{number}", records.Promotion):
            before, after, on = decision.before, decision.after, decision.student == f"rung-{number}"
            state, level = "left out" if after is None else "climbed" if on else "taken back", after if on else before
            step = replace(step, state=state, before=before, after=after, p=decision.p, level=level)
            step = replace(step, interval=decision.interval, seen=decision.seen)
        found.append(step)
    return found


def start_quality(run: RunFolder, measure: str) -> float | None:
    """Return the mean of a measure that the student reached on dev at the start."""
    stage = run.named("start.dev")
    try:
        return Evaluation.load(stage.folder / "evaluation.parquet").mean(measure) if stage else None
    except (OSError, ValueError, StepwellError):
        return None


def trainings(run: RunFolder) -> list[Training]:
    """Return the loss curves of all stages that trained, in their order."""
    found = []
    for stage in run.stages:
        for part, more in (("imitation", ": first imitates"), ("", "")):
            if not (kept := stage.read(records.Training, part)) or not kept.log.losses:
                continue
            log = kept.log
            parts = {name: thinned(values)[1] for name, values in sorted(log.parts.items()) if len(log.parts) > 1}
            curve, work = (*thinned(log.losses), parts), (log.texts or None, log.tokens or None, log.peak)
            found.append(Training(stage.name, stage.title + more, log.steps, log.seconds, *curve, *work))
    return found


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
        kept = stage.read(records.TeacherScores)
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
        chosen = stage.read(records.Selection) if stage.kind == "select" else None
        if chosen is None or run.named(stage.name) is not stage:
            continue
        number = int(stage.name.partition("-")[2])
        outcome = run.read(f"outcome-{number}", records.Outcome)
        figures = (chosen.rule, chosen.queries, chosen.asked, chosen.selected, chosen.funnel)
        teacher = str(stage.manifest.settings.get("teacher", ""))
        became = asdict(outcome) if outcome else {}
        found.append(Refined(f"refine {number - first}", teacher, *figures, became, chosen.ranks))
    return found


def mined(run: RunFolder) -> list[Mined]:
    """Return the accounts of all minings."""
    reports = [(stage, stage.read(records.Mining)) for stage in run.stages if stage.kind in ("mine", "select")]
    return [Mined(stage.name, stage.title, report.to_json()) for stage, report in reports if report]


def spent(run: RunFolder) -> list[Spent]:
    """Return the time and work of every finished stage, in their order."""
    found, rungs = [], len(rungs_of(run))
    for stage in run.stages:
        kept, made = stage.read(records.Training), stage.manifest
        steps, tokens = (kept.log.steps, kept.log.tokens or None) if kept else (None, None)
        part, seconds = part_of(stage, rungs), made.seconds or 0.0
        found.append(Spent(stage.name, stage.title, part, seconds, steps, tokens, made.finished, made.key))
    return found


_PROOF = {"straight", "contrast", "contrastive", "base", "updates", "table"}
_PROOF |= {"candidates.proof", "candidates.contrastive", "first", "rate", "strength", "strongest"}
"""Names, first words of names, and kinds of the stages that compare."""


def part_of(stage: StageFolder, rungs: int) -> str:
    """Return which part of a run a stage belongs to: teachers, ladder, refine or proof."""
    name = stage.name
    word, _, number = name.partition(".")[0].replace("@", "-").partition("-")
    if stage.kind in ("select", "outcome"):
        return "refine"
    if name.endswith(".test") or name.startswith("scores.") or _PROOF & {stage.kind, word, name}:
        return "proof"
    if word == "teacher" or name.startswith("candidates."):
        return "teachers"
    beyond = number.isdigit() and int(number) > rungs
    return "refine" if beyond or name == f"student@{rungs}.train" else "ladder"
