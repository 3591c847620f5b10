"""The trained baselines of the proof: the ladder's start, its number of updates, and a rate that dev chose.

Each takes as many optimiser steps as the ladder did, warm-up apart, at three rates of which dev takes the best. Those
that go straight from one teacher start where the ladder starts to distil: from the student that was warmed up, or
behind the first rung where there is no warm-up (whose updates count). Labels are never left out.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple, TypeVar

import numpy as np

from stepwell import distributed
from stepwell.evaluation import Evaluation, evaluate
from stepwell.ladder.builder import Builder
from stepwell.ladder.judging import dev_queries, judged, reranked, searched
from stepwell.ladder.prices import Prices, Work
from stepwell.ladder.rungs import learned
from stepwell.ladder.stage import Job, Stage, recorded
from stepwell.ladder.teacher import last_miner
from stepwell.ladder.trainings import contrast, distil, open_student, reads_of, updates
from stepwell.recipe import MORE, DenseTraining, Optimiser, Recipe, Rung
from stepwell.systems.records import Rate, Strongest, Training, Updates

T = TypeVar("T", bound=Optimiser)

EMBEDDING: dict[str, Any] = {"lr": 1e-3, "batch": 128}
"""How an embedding loss is trained where the ladder has no such rung: as in the recipes that come with stepwell."""


BEHIND = "rung 1"
"""What a baseline starts from that goes on behind the first rung, where the ladder did."""


class Baseline(NamedTuple):
    """A trained row of the table: its test stage, the stage that trained it, and what that is."""

    test: str
    training: str
    start: str
    learned: str


def baselines(b: Builder) -> dict[str, Baseline]:
    """Add the baselines; return them by their labels."""
    rungs = {name: name for name in (f"rung-{number}" for number in range(1, b.last + 1))}
    title, settings = "count the ladder's updates", {"first": "rung-1"}
    count = Stage("updates", "updates", title, settings, {}, count_updates, recorded(Updates), optional=rungs)
    b.add(replace(count, collective=False, by_content=True))
    lists, last = last_miner(b), b.recipe.ladder[-1]
    found = b.candidates("candidates.proof", lists, last.candidates, last.teacher)  # as good as the last rung's
    systems = {"contrastive only": _contrastive(b, lists)}
    first = b.recipe.ladder[0]
    if b.last > 1:
        label = f"rung 1 alone, {first.teacher} {first.loss}"
        systems[label] = _taught(b, "first-alone", first, found, "start", label)
        if (last.teacher, last.loss) != (first.teacher, first.loss):
            label = f"rung 1, then {last.teacher} {last.loss}"
            with b.only_if("updates"):
                systems[label] = _taught(b, "first-then-last", last, found, "student@1", label)
    return systems | _straight(b, found)


def _contrastive(b: Builder, lists: str) -> Baseline:
    section, own = b.recipe.student, b.recipe.warmup
    pairs = b.candidates("candidates.contrastive", lists, 1 + own.negatives)
    inputs = {"student": "start", "updates": "updates", "candidates": pairs}
    title = "baseline: contrastive training only"

    def cost(prices: Prices) -> Work:
        return prices.dense(section, own, 1 + own.negatives, _steps_of(b, prices))

    def stage(name: str, training: DenseTraining) -> Stage:
        settings = {"training": training.model_dump(exclude={"epochs", "steps", "further"}), **b.student}
        run, says, reads = train_contrastive, recorded(Training), ("seed", "train")
        return Stage(name, "contrastive", title, settings, inputs, run, says, cost, reads=reads)

    test, training = _at_the_best_rate(b, "contrastive", own, stage, "contrastive training only")
    return Baseline(test, training, "start", "labels")


def _taught(b: Builder, name: str, rung: Rung, found: str, start: str, label: str, likely: bool = True) -> Baseline:
    """Add a baseline that climbs one rung from ``start`` with all updates that are left; ``likely``: it is priced."""
    section, more = b.recipe.student, b.more(rung)
    known = rung.teacher == b.recipe.ladder[-1].teacher  # whose rung has learned from the same candidates
    inputs = {**learned(b, name, rung, start, found, f"scores.{name}", known), "updates": "updates"}

    def cost(prices: Prices) -> Work:
        return prices.distil(section, rung, more, _steps_of(b, prices, start != "start")) if likely else Work()

    def stage(part: str, training: Rung) -> Stage:
        own = training.model_dump(exclude={"epochs", "steps", "force", "negatives", *MORE.values()})
        settings = {**own, **b.student, "behind": start != "start"}
        title, says, reads = f"baseline: {label}", recorded(Training), reads_of(training)
        return Stage(part, "straight", title, settings, inputs, distil, says, cost, reads=reads)

    test, training = _at_the_best_rate(b, name, rung, stage, label)
    labels = ", labels" if rung.loss != "embedding" and rung.alpha else ""
    begin = "start" if start == "start" else BEHIND
    return Baseline(test, training, begin, f"{rung.teacher} ({rung.loss}){labels}")


# -- straight from one teacher ------------------------------------------------------------------------------


def _straight(b: Builder, found: str) -> dict[str, Baseline]:
    """Add what goes straight from the teacher that dev finds the strongest, or (full) from every one by every loss."""
    systems, full = dict[str, Baseline](), b.recipe.proof == "full"
    behind = b.last > 1 and not b.recipe.warmup.trains
    start, gates, last = "student@1" if behind else "start", ["updates"] if behind else [], b.recipe.ladder[-1].teacher
    # A first rung's own teacher is among them too: where that is the strongest, the row is that of the rung alone.
    rungs, names = straight_rungs(b), sorted(_teachers(b), key=lambda name: name == last)  # the last one is last
    choosing = len(names) > 1 and not full
    if len(names) > 1:
        _strongest(b, names)
    for rung in rungs:
        label = f"straight from {rung.teacher}, {rung.loss}"
        with b.only_if(*gates, *([f"strongest-{rung.teacher}"] if choosing else [])):
            likely = not choosing or rung.teacher == names[-1]
            name = f"straight-{rung.teacher}-{rung.loss}"
            systems[label] = _taught(b, name, rung, found, start, label, likely)
    return systems


def straight_rungs(b: Builder) -> list[Rung]:
    """Return the rungs that the straight baselines climb: each teacher by its usual loss, or (full) by every loss.

    The teachers are those of the ladder and refine's. A baseline has the settings of the ladder's own rung with that
    teacher and loss where there is one, and else those of :func:`_alike`; what belongs to a ladder (keep, a teacher
    beside, hold) is off, and labels are on. What the first rung alone does already is left out.
    """
    recipe, first, last = b.recipe, b.recipe.ladder[0], b.recipe.ladder[-1]
    wanted = list[tuple[str, Any]]()
    for name in _teachers(b):
        losses = {"in-batch": b.embeds(name, queries=True), "embedding": b.embeds(name)}
        can = [loss for loss, does in losses.items() if does] or ["candidates"]
        late = [rung.loss for rung in recipe.ladder[::-1] if rung.teacher == name and rung.loss != "embedding"]
        can = list(dict.fromkeys([*late, *can]))  # the ladder's own loss with this teacher first
        wanted += [(name, loss) for loss in (can if recipe.proof == "full" else can[:1])]
    own = {(rung.teacher, rung.loss): rung for rung in recipe.ladder}
    alone: dict[str, Any] = {"gamma": 0.0, "beside": None, "hold": 0.0, "candidates": last.candidates}
    if recipe.student.dimensions is not None:  # a student that is cut is not widened
        alone["head"] = "none"
    rungs = []
    for name, loss in wanted:
        if (name, loss) == (first.teacher, first.loss) and (b.last > 1 or loss == "embedding"):
            continue
        rung = own.get((name, loss)) or _alike(recipe, loss)
        usual = {weight: Rung.model_fields[weight].default for weight in ("alpha", "beta") if not getattr(rung, weight)}
        rungs.append(rung.model_copy(update={"teacher": name, "loss": loss, **alone, **usual}))
    return rungs


def _teachers(b: Builder) -> list[str]:
    """Return the teachers of the ladder and refine's, each once."""
    refining = [b.refine_teacher] if b.recipe.refine.rounds else []
    return list(dict.fromkeys([*(rung.teacher for rung in b.recipe.ladder), *refining]))


def _alike(recipe: Recipe, loss: str) -> Rung:
    """Return the settings of a loss that the ladder has not with a teacher: those of the last rung that is like it.

    A rate for vectors is ten times what labels and scores are learned at, so neither is taken for the other.
    """
    vectors = loss == "embedding"
    like = [rung for rung in recipe.ladder if (rung.loss == "embedding") == vectors]
    if like:
        return like[-1].model_copy(update=dict.fromkeys(MORE.values()))  # texts from elsewhere are the rung's own
    usual = EMBEDDING if vectors else {name: Rung.model_fields[name].default for name in EMBEDDING}
    return recipe.ladder[-1].model_copy(update={**usual, **dict.fromkeys(MORE.values())})


def _strongest(b: Builder, names: list[str]) -> None:
    """Add a decision for each of these teachers: whether it is the strongest on dev."""
    known = dict[str, str]()
    for name in names:
        if not b.embeds(name):
            known[name] = _strength(b, name)
        elif b.embeds(name, queries=True):
            known[name] = f"teacher.{name}.dev"
    inputs = {f"of-{name}": stage for name, stage in known.items()}
    for number, name in enumerate(names):
        settings = {"measure": b.recipe.judging.measure, "teacher": name, "of": names}
        title, says = f"is {name} the strongest teacher on dev?", recorded(Strongest)
        stage = Stage(f"strongest-{name}", "strongest", title, settings, inputs, decide_strongest, collective=False)
        b.add(stage if number else replace(stage, says=says))


def _strength(b: Builder, name: str) -> str:
    """Add the dev figures of a teacher that reranks, on the list of the final student."""
    judging = b.recipe.judging
    inputs = {"student": f"student@{b.last}.dev", **b.opens(name)}

    def cost(prices: Prices) -> Work:
        return b.scoring(name, prices, min(prices.dev, judging.headroom_queries), judging.rerank)

    title = f"dev: {name} reranks the final student's list"
    settings = {what: getattr(judging, what) for what in ("measure", "rerank", "headroom_queries")}
    stage = Stage(f"strength.{name}", "strength", title, settings, inputs, measure_strength, cost=cost)
    return b.add(replace(stage, reads=("seed", "dev")))


def measure_strength(job: Job) -> None:
    """Evaluate a teacher that reranks the student's list of the dev queries; leave nothing if it has no score."""
    run, measure = job.run("student"), job.settings["measure"]
    rows = dev_queries(run.queries, job.settings["headroom_queries"], job.surroundings.seed)
    found, known = reranked(job, run.select(rows), job.settings["rerank"])
    rows = rows[known]
    if len(rows) and distributed.is_main():
        figures = evaluate(found.select(rows), job.surroundings.splits.dev.restrict(rows), (measure,))
        figures.save(job.folder / "evaluation.parquet", job.surroundings.collection)


def decide_strongest(job: Job) -> None:
    """Say whether a teacher has the best dev figure of all, on the queries that all were judged on.

    Those without a figure (a file without dev queries) can't be the strongest; without any the ladder's last one is.
    """
    measure, names, known = job.settings["measure"], job.settings["of"], dict[str, Evaluation]()
    for name in names:
        folder = job.inputs.get(f"of-{name}")
        if folder is not None and (folder / "evaluation.parquet").is_file():
            known[name] = job.evaluation(f"of-{name}")
    rows = None
    for one in known.values():
        rows = one.queries if rows is None else np.intersect1d(rows, one.queries)
    if rows is None or not len(rows):
        job.leave(Strongest(job.settings["teacher"] == names[-1], names[-1], measure))
        return
    figures = {name: float(one.of(measure)[np.isin(one.queries, rows)].mean()) for name, one in known.items()}
    best = max(figures, key=figures.__getitem__)
    job.leave(Strongest(job.settings["teacher"] == best, best, measure, figures, len(rows)))


# -- updates and rates --------------------------------------------------------------------------------------


def _steps_of(b: Builder, prices: Prices, behind: bool = False) -> int:
    """Return how many updates a baseline is guessed to have; ``behind``: without those of the first rung."""
    rungs = b.recipe.ladder[1:] if behind else b.recipe.ladder
    return prices.climb([(rung, sum(b.more(rung))) for rung in rungs], b.recipe.refine)


def count_updates(job: Job) -> None:
    """Count the optimiser steps that the ladder and refine took, warm-up apart; ``go``: some behind the first rung."""
    steps = {name: Training.load(folder).log.steps for name, folder in job.inputs.items()}
    total = sum(steps.values())
    job.leave(Updates(total > steps.get(job.settings["first"], 0), total, steps))


def train_contrastive(job: Job) -> None:
    """Train the start contrastively for as many updates as the ladder took."""
    contrast(job, open_student(job), job.settings.part("training").read(DenseTraining, steps=updates(job)))


def _at_the_best_rate(b: Builder, name: str, own: T, stage: Callable[[str, T], Stage], title: str) -> tuple[str, str]:
    """Add a training at each rate of the recipe, and which of them is the best on dev; return its test, and itself."""
    rates = [own.lr * factor for factor in b.recipe.proof_rates]
    if len(rates) == 1:
        b.add(stage(name, own.model_copy(update={"lr": rates[0]})))
        judged(b, name, title)
        return searched(b, "test", name, title), name
    found = dict[str, str]()
    for number, rate in enumerate(rates, start=1):
        part = b.add(stage(f"{name}@{number}", own.model_copy(update={"lr": rate})))
        judged(b, part, f"{title}, lr {rate:.2g}")
        found[part] = f"{part}.dev"
    by_rate, says = dict(zip(found, rates, strict=True)), recorded(Rate)
    settings = {"measure": b.recipe.judging.measure, "rates": by_rate}
    asks = f"{title}: which rate is the best on dev?"
    b.add(Stage(f"rate-{name}", "rate", asks, settings, found, choose_rate, says, collective=False, named=True))
    return searched(b, "test", f"best@{name}", title), f"best@{name}"


def choose_rate(job: Job) -> None:
    """Choose the training with the best dev figure; of equal ones the first."""
    measure, rates = job.settings["measure"], job.settings["rates"]
    figures = {name: job.evaluation(name).mean(measure) for name in rates}
    best = max(figures, key=figures.__getitem__)
    job.leave(Rate(True, best, measure, {name: (rates[name], figures[name]) for name in rates}))
