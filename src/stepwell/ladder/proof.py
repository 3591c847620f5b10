"""The proof: baselines that get the ladder's number of updates, and every system on the test queries."""

from dataclasses import replace
from typing import Any

from stepwell import distributed
from stepwell.collection.splits import NO_TEST, Splits
from stepwell.evaluation import compare
from stepwell.files import write_text
from stepwell.ladder.builder import Builder
from stepwell.ladder.judging import fuse, judged, measures_of, rerank, search, search_bm25, searched
from stepwell.ladder.overlap import overlap
from stepwell.ladder.prices import Prices, Work
from stepwell.ladder.scoring import lessons
from stepwell.ladder.stage import Job, Stage, recorded
from stepwell.ladder.teacher import last_miner, teacher
from stepwell.ladder.trainings import contrast, distil, more_vectors, open_student, start_student, updates
from stepwell.models.shape import vector_width
from stepwell.recipe import MORE, DenseTraining, Rung
from stepwell.systems.records import Decision, SystemTable, Training, Updates

FINAL = "ladder + refine"
ASYMMETRIC, SAME_WIDTH = "asymmetric.test", "same-width"


def proof(b: Builder) -> None:
    """Add the trained baselines, the test stage of every system and the table that compares them."""
    systems = _as_they_are(b)
    if b.recipe.proof != "none":
        systems |= _baselines(b)
    systems["ladder"] = searched(b, "test", f"student@{b.rungs}", "the ladder")
    top = "ladder"
    if b.last > b.rungs:
        systems[FINAL] = searched(b, "test", f"student@{b.last}", "ladder and refine")
        top = FINAL
    systems |= _asymmetric(b, top) | _with_others(b, top)
    settings = {"systems": systems, "reference": top, **b.judging}
    may_lack = {ASYMMETRIC} if SAME_WIDTH in b.stages else set[str]()
    inputs = {stage: stage for stage in systems.values() if stage not in may_lack}
    title, optional = "compare all systems on the test queries", {stage: stage for stage in may_lack}
    b.add(
        Stage("table", "table", title, settings, inputs, compare_all, collective=False, named=True, optional=optional)
    )


# -- systems that are not trained for it --------------------------------------------------------------------


def _as_they_are(b: Builder) -> dict[str, str]:
    """Add what no rung has touched: BM25, the base model, the start, the teachers that embed."""
    systems = {"BM25": _test(b, "bm25.test", "search-bm25", "BM25", {}, search_bm25)}
    systems["base model, untuned"] = _base(b)
    systems["student, untrained"] = searched(b, "test", "start", "the student at the start")
    for name in b.recipe.teachers:
        if b.embeds(name, queries=True) and f"teacher.{name}.vectors" in b.stages:
            systems[f"teacher {name}"] = searched(b, "test", f"teacher.{name}", name)
    return systems


def _test(b: Builder, name: str, kind: str, title: str, inputs: dict[str, str], run: Any, **more: Any) -> str:
    return b.add(Stage(name, kind, f"test: {title}", b.judging | more.pop("settings", {}), inputs, run, **more))


def _base(b: Builder) -> str:
    section = b.recipe.student.model_copy(update={"layers": None, "pick": "first", "towers": 1})
    settings = {"student": section.model_dump(), "tokens": b.recipe.tokens.longest, **b.content(section.base)}
    b.add(Stage("base", "base", "take the base model", settings, {}, run=start_student))
    b.vectors("base", "the base model", section)
    searched(b, "dev", "base", "the base model, untuned")
    return searched(b, "test", "base", "the base model, untuned")


def _with_others(b: Builder, top: str) -> dict[str, str]:
    """Add the final student fused with BM25, and its list re-ranked by the strongest teacher."""
    final, strongest, depth = f"student@{b.last}.test", b.refine_teacher, b.recipe.judging.rerank
    both, title = {"bm25": "bm25.test", "student": final}, "BM25 fused with the student"
    systems = {_fused(top): _test(b, "fused.test", "fuse", title, both, fuse, collective=False)}
    if b.embeds(strongest):
        return systems
    teacher(b, strongest)
    inputs = {"student": final, **b.opens(strongest)}
    title = f"{strongest} reranks the student's list"

    def cost(prices: Prices) -> Work:
        return b.scoring(strongest, prices, prices.test, depth)

    stage = _test(b, "reranked.test", "rerank", title, inputs, rerank, cost=cost)
    return systems | {f"{strongest} reranks its top {depth}": stage}


def _fused(top: str) -> str:
    return f"BM25 and {top}, fused"


def _asymmetric(b: Builder, top: str) -> dict[str, str]:
    """Add queries by the student, passages by the teacher of the embedding rung, where their widths agree.

    Where a rung may have widened the student, that is known only when the student is there.
    """
    name = b.recipe.embedding_teacher
    if name is None:
        return {}
    own, rungs = vector_width(b.recipe.student), [rung for rung in b.recipe.ladder if rung.loss == "embedding"]
    heads = [rung for rung in rungs if rung.head == "keep" and b.kind(rung.teacher).width() != own]
    if not heads and b.kind(name).width() != own:
        return {}
    inputs = {"queries": f"student@{b.last}.vectors", "passages": f"teacher.{name}.vectors"}
    if heads:
        asks = f"has the student the width of {name}?"
        b.add(Stage(SAME_WIDTH, "same-width", asks, {}, inputs, decide_same_width, collective=False))
    title, settings = f"queries by the student, passages by {name}", {"asymmetric": True}
    gates = (SAME_WIDTH,) if heads else None
    stage = _test(b, ASYMMETRIC, "search-test", title, inputs, search, settings=settings, only_if=gates)
    overlap(b, name, label := f"{top}, passages by {name}", top, gates)
    return {label: stage}


def decide_same_width(job: Job) -> None:
    """Say whether the student's queries can search the teacher's passages: a rung that widens may be left out."""
    ours, theirs = job.vectors("queries"), job.vectors("passages")
    assert ours is not None and theirs is not None
    job.leave(Decision(ours.passages.shape[1] == theirs.passages.shape[1]))


# -- baselines, each with as many updates as the ladder -----------------------------------------------------


def _baselines(b: Builder) -> dict[str, str]:
    section, contrastive = b.recipe.student, b.recipe.warmup
    rungs = {name: name for name in (f"rung-{number}" for number in range(1, b.last + 1))}
    title, run = "count the ladder's updates", count_updates
    b.add(Stage("updates", "updates", title, {}, {}, run, optional=rungs, collective=False, by_content=True))
    lists, last = last_miner(b), b.recipe.ladder[-1]
    found = b.candidates("candidates.proof", lists, last.candidates, last.teacher)  # as good as the last rung's
    pairs = b.candidates("candidates.contrastive", lists, 1 + contrastive.negatives)
    settings = {"training": contrastive.model_dump(exclude={"epochs", "steps", "further"}), **b.student}
    inputs = {"student": "start", "updates": "updates", "candidates": pairs}

    def cost(prices: Prices) -> Work:
        return prices.dense(section, contrastive, 1 + contrastive.negatives, _steps_of(b, prices))

    title, says = "baseline: contrastive only", recorded(Training)
    b.add(Stage("contrastive", "contrast", title, settings, inputs, train_contrastive, says, cost))
    systems = {"contrastive only": _tested(b, "contrastive", "contrastive only")}
    for rung in straight_rungs(b):
        systems[f"straight from {rung.teacher}, {rung.loss}"] = _straight(b, rung, lists, found)
    return systems


def _steps_of(b: Builder, prices: Prices) -> int:
    return prices.climb([(rung, sum(b.more(rung))) for rung in b.recipe.ladder], b.recipe.refine)


def _straight(b: Builder, rung: Rung, lists: str, found: str) -> str:
    """Add the baseline that climbs one rung alone, on the candidates of the stage ``found``."""
    name, section, more = f"straight-{rung.teacher}-{rung.loss}", b.recipe.student, b.more(rung)
    teacher(b, rung.teacher, lists)
    inputs = {"student": "start", "updates": "updates"}
    if rung.loss == "embedding":
        inputs |= {**b.opens(rung.teacher), **more_vectors(b, name, rung)}
    else:
        known = rung.teacher == b.recipe.ladder[-1].teacher  # whose rung has learned from the same candidates
        inputs |= lessons(b, f"scores.proof-{rung.teacher}", rung.teacher, rung, found, known)

    def cost(prices: Prices) -> Work:
        return prices.distil(section, rung, more, _steps_of(b, prices))

    settings = {**rung.model_dump(exclude={"epochs", "steps", "force", *MORE.values()}), **b.student}
    title = f"baseline: straight from {rung.teacher} ({rung.loss})"
    b.add(Stage(name, "straight", title, settings, inputs, distil, recorded(Training), cost))
    return _tested(b, name, f"straight from {rung.teacher}")


def _tested(b: Builder, model: str, title: str) -> str:
    judged(b, model, title)
    return searched(b, "test", model, title)


def straight_rungs(b: Builder) -> list[Rung]:
    """Return the rungs that the straight baselines climb alone: the strongest teacher's, or every one (full).

    A baseline has the settings of the ladder's own rung with that teacher and loss where there is one, and of
    the last rung else; what belongs to a ladder (keep, a teacher beside, hold) is off. A rung that lives on these
    alone is climbed with the usual weight of its own loss. Candidates are the last rung's, for all of them.
    """
    recipe, strongest = b.recipe, b.recipe.ladder[-1]
    wanted: list[tuple[str, Any]] = [(strongest.teacher, strongest.loss)]
    if recipe.proof == "full":
        for name in dict.fromkeys(rung.teacher for rung in recipe.ladder):
            losses = {"embedding": b.embeds(name), "in-batch": b.embeds(name, queries=True)}
            wanted += [(name, loss) for loss, can in losses.items() if can] or [(name, "candidates")]
    own = {(rung.teacher, rung.loss): rung for rung in recipe.ladder}
    if b.last == 1 and strongest.loss == "embedding":  # the ladder itself is straight
        wanted = [pair for pair in wanted if pair not in own]
    alone: dict[str, Any] = {"gamma": 0.0, "beside": None, "hold": 0.0, "candidates": strongest.candidates}
    if recipe.student.dimensions is not None:  # a student that is cut is not widened
        alone["head"] = "none"
    rungs = []
    for name, loss in dict.fromkeys(wanted):
        rung = own.get((name, loss), strongest)
        soft = {} if rung.alpha or rung.beta else {"beta": Rung.model_fields["beta"].default}
        rungs.append(rung.model_copy(update={"teacher": name, "loss": loss, **alone, **soft}))
    return rungs


def count_updates(job: Job) -> None:
    """Count the optimiser steps that the ladder and refine took, warm-up apart (the baselines start from it too)."""
    steps = {name: Training.load(folder).log.steps for name, folder in job.inputs.items()}
    job.leave(Updates(sum(steps.values()), steps))


def train_contrastive(job: Job) -> None:
    """Train the start contrastively for as many updates as the ladder took."""
    contrast(job, open_student(job), job.settings.part("training").read(DenseTraining, steps=updates(job)))


# -- the table ----------------------------------------------------------------------------------------------


def compare_all(job: Job) -> None:
    """Compare every system with the final student on the test queries (paired, Holm-corrected)."""
    systems = {label: stage for label, stage in job.settings["systems"].items() if stage in job.inputs}
    reference, splits = job.settings["reference"], job.surroundings.splits
    measures = measures_of(job.settings)
    evaluations = {label: job.evaluation(stage) for label, stage in systems.items()}
    fused = _fused(reference)
    pair = {name: evaluations[name] for name in ("BM25", fused)}
    alone = compare(pair, "BM25", measures[:1])  # fusion has to beat what it costs nothing to have
    title = "Comparison" if splits.tested else "Comparison on synthetic dev queries (there is no test)"
    comparison = compare(evaluations, reference, measures)
    comparison = replace(comparison, notes=(alone.sentence(fused), *synthetic_notes(splits)), title=title)
    stages = {label: job.names[stage] for label, stage in systems.items()}
    job.leave(SystemTable.of(stages, comparison))
    if distributed.is_main():
        write_text(job.folder / "table.txt", comparison.table().text() + "\n")


def synthetic_notes(splits: Splits) -> tuple[str, ...]:
    """Return what a reader of results must know about queries that were made from passages."""
    if not splits.tested:
        return (NO_TEST,)
    counts = " and ".join(f"{count:,} {role} queries" for role, count in splits.synthetic.items())
    return (f"{counts} were synthetic: made from the passages. No test query is.",) if counts else ()
