"""The proof: baselines that get the ladder's number of updates, and every system on the test queries."""

from dataclasses import replace
from typing import Any

from stepwell import distributed
from stepwell.collection.splits import NO_TEST, Splits
from stepwell.evaluation import compare
from stepwell.files import write_text
from stepwell.ladder.builder import Builder
from stepwell.ladder.judging import fuse, judged, measures_of, rerank, search_bm25, search_test, searched
from stepwell.ladder.prices import Prices, Work
from stepwell.ladder.scoring import learns_from_scores, scored
from stepwell.ladder.stage import Job, Stage, recorded
from stepwell.ladder.teacher import last_miner, teacher
from stepwell.ladder.trainings import build_dense, contrast, distil_with, imitate_with, more_vectors
from stepwell.models.shape import vector_width
from stepwell.recipe import DenseTraining, Rung, StudentSection
from stepwell.recipe.ladder import MORE
from stepwell.systems import records
from stepwell.systems.records import Training, Updates

FINAL = "ladder + refine"


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
    inputs = {stage: stage for stage in systems.values()}
    title = "compare all systems on the test queries"
    b.add(Stage("table", "table", title, settings, inputs, run=compare_all, named=True))


# -- systems that are not trained for it --------------------------------------------------------------------


def _as_they_are(b: Builder) -> dict[str, str]:
    """Add what no rung has touched: BM25, the base model, the start, the teachers that embed."""
    systems = {"BM25": b.add(_test_stage(b, "bm25.test", "search-bm25", "BM25", {}, search_bm25))}
    systems["base model, untuned"] = _base(b)
    systems["student, untrained"] = searched(b, "test", "start", "the student at the start")
    for name in b.recipe.teachers:
        if b.embeds(name) and f"teacher.{name}" in b.stages:
            systems[f"teacher {name}"] = searched(b, "test", f"teacher.{name}", name)
    return systems


def _test_stage(b: Builder, name: str, kind: str, title: str, inputs: dict[str, str], run: Any, **more: Any) -> Stage:
    more.setdefault("collective", True)
    return Stage(name, kind, f"test: {title}", b.judging | more.pop("settings", {}), inputs, run, **more)


def _base(b: Builder) -> str:
    section = b.recipe.student.model_copy(update={"layers": None, "pick": "first", "towers": 1})
    settings = {"student": section.model_dump(), "tokens": b.recipe.tokens.longest, **b.content(section.base)}
    b.add(Stage("base", "base", "take the base model", settings, {}, run=take_base, collective=True))
    b.vectors("base", "the base model", section)
    searched(b, "dev", "base", "the base model, untuned")
    return searched(b, "test", "base", "the base model, untuned")


def take_base(job: Job) -> None:
    """Take the student's base model as it is."""
    build_dense(job.settings.part("student").read(StudentSection), job.settings["tokens"], job.folder)


def _with_others(b: Builder, top: str) -> dict[str, str]:
    """Add the final student fused with BM25, and its list re-ranked by the strongest teacher."""
    final, strongest, depth = f"student@{b.last}.test", b.refine_teacher, b.recipe.judging.rerank
    both, title = {"bm25": "bm25.test", "student": final}, "BM25 fused with the student"
    systems = {_fused(top): b.add(_test_stage(b, "fused.test", "fuse", title, both, fuse, collective=False))}
    if b.embeds(strongest):
        return systems
    teacher(b, strongest)
    inputs = {"student": final, **b.opens(strongest)}
    title = f"{strongest} reranks the student's list"

    def cost(prices: Prices) -> Work:
        return b.scoring(strongest, prices, prices.test, depth)

    stage = b.add(_test_stage(b, "reranked.test", "rerank", title, inputs, rerank, cost=cost))
    return systems | {f"{strongest} reranks its top {depth}": stage}


def _fused(top: str) -> str:
    return f"BM25 and {top}, fused"


def _asymmetric(b: Builder, top: str) -> dict[str, str]:
    """Add queries by the student, passages by the teacher of the embedding rung, where their widths agree."""
    name = asymmetric_teacher(b)
    if name is None:
        return {}
    inputs = {"queries": f"student@{b.last}.vectors", "passages": f"teacher.{name}.vectors"}
    title, own = f"queries by the student, passages by {name}", {"asymmetric": True}
    stage = b.add(_test_stage(b, "asymmetric.test", "search-test", title, inputs, search_test, settings=own))
    return {f"{top}, passages by {name}": stage}


def asymmetric_teacher(b: Builder) -> str | None:
    """Return the dual encoder whose passages the student can search, or None."""
    name = b.recipe.embedding_teacher
    if name is None:
        return None
    section: Any = b.recipe.teachers[name]
    return name if vector_width(section) == vector_width(b.recipe.student) else None


# -- baselines, each with as many updates as the ladder -----------------------------------------------------


def _baselines(b: Builder) -> dict[str, str]:
    recipe, section, contrastive = b.recipe, b.recipe.student, b.recipe.warmup
    rungs = {name: name for name in (f"rung-{number}" for number in range(1, b.last + 1))}
    title = "count the ladder's updates"
    b.add(Stage("updates", "updates", title, {}, {}, run=count_updates, optional=rungs, by_content=True))
    lists = last_miner(b)
    last = recipe.ladder[-1]
    denoiser = None if b.embeds(last.teacher) else last.teacher
    found = b.candidates("candidates.proof", lists, last.candidates, teacher=denoiser)  # as good as the last rung's
    pairs = b.candidates("candidates.contrastive", lists, 1 + contrastive.negatives)
    b.add(
        Stage(
            "contrastive",
            "contrast",
            "baseline: contrastive only",
            {"training": contrastive.model_dump(exclude={"epochs", "steps", "further"}), **b.student},
            {"student": "start", "updates": "updates", "candidates": pairs},
            run=train_contrastive,
            says=recorded(Training),
            cost=lambda prices: prices.dense(section, contrastive, 1 + contrastive.negatives, _steps_of(b, prices)),
            collective=True,
        )
    )
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
    elif learns_from_scores(b, rung.teacher, rung):
        known = rung.teacher == b.recipe.ladder[-1].teacher  # whose rung has learned from the same candidates
        inputs["scores"] = scored(b, f"scores.proof-{rung.teacher}", rung.teacher, rung, found, known)
    else:
        inputs |= {"candidates": found, **b.opens(rung.teacher)}

    def cost(prices: Prices) -> Work:
        steps = _steps_of(b, prices)
        if rung.loss == "embedding":
            return prices.embedding(section, rung, more, steps)
        return prices.dense(section, rung, rung.candidates, steps)

    b.add(
        Stage(
            name,
            "straight",
            f"baseline: straight from {rung.teacher} ({rung.loss})",
            {**rung.model_dump(exclude={"epochs", "steps", "force", *MORE.values()}), **b.student},
            inputs,
            run=train_straight,
            says=recorded(Training),
            cost=cost,
            collective=True,
        )
    )
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
    recipe = b.recipe
    strongest = recipe.ladder[-1]
    wanted: list[tuple[str, Any]] = [(strongest.teacher, strongest.loss)]
    if recipe.proof == "full":
        for name in dict.fromkeys(rung.teacher for rung in recipe.ladder):
            losses = ("embedding", "in-batch") if b.embeds(name) else ("candidates",)
            wanted += [(name, loss) for loss in losses]
    own = {(rung.teacher, rung.loss): rung for rung in recipe.ladder}
    alone = {"gamma": 0.0, "beside": None, "hold": 0.0, "candidates": strongest.candidates}
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
    encoder = job.encoder("student", job.settings.part("student").read(StudentSection).loss_scale)
    contrast(job, encoder, job.settings.part("training").read(DenseTraining, steps=_steps(job)))


def train_straight(job: Job) -> None:
    """Distil one teacher straight into the start for as many updates as the ladder took."""
    rung = job.settings.read(Rung, steps=_steps(job))
    (imitate_with if rung.loss == "embedding" else distil_with)(job, rung)


def _steps(job: Job) -> int:
    return max(1, Updates.load(job.inputs["updates"]).steps)


# -- the table ----------------------------------------------------------------------------------------------


def compare_all(job: Job) -> None:
    """Compare every system with the final student on the test queries (paired, Holm-corrected)."""
    systems, reference, splits = job.settings["systems"], job.settings["reference"], job.surroundings.splits
    measures = measures_of(job.settings)
    evaluations = {label: job.evaluation(stage) for label, stage in systems.items()}
    fused = _fused(reference)
    pair = {name: evaluations[name] for name in ("BM25", fused)}
    alone = compare(pair, "BM25", measures[:1])  # fusion has to beat what it costs nothing to have
    title = "Comparison" if splits.tested else "Comparison on synthetic dev queries (there is no test)"
    comparison = compare(evaluations, reference, measures)
    comparison = replace(comparison, notes=(alone.sentence(fused), *synthetic_notes(splits)), title=title)
    stages = {label: job.names[stage] for label, stage in systems.items()}
    job.leave(records.SystemTable.of(stages, comparison))
    if distributed.is_main():
        write_text(job.folder / "table.txt", comparison.table().text() + "\n")


def synthetic_notes(splits: Splits) -> tuple[str, ...]:
    """Return what a reader of results must know about queries that were made from passages."""
    if not splits.tested:
        return (NO_TEST,)
    counts = " and ".join(f"{count:,} {role} queries" for role, count in splits.synthetic.items())
    return (f"{counts} were synthetic: made from the passages. No test query is.",) if counts else ()
