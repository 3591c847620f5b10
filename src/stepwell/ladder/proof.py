"""The proof: baselines that get the ladder's number of updates, and every system on the test queries."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from stepwell.collection.splits import NO_TEST
from stepwell.distil.negatives import Candidates
from stepwell.evaluation import Evaluation, compare
from stepwell.ladder import judging, making
from stepwell.ladder.context import Context
from stepwell.ladder.prices import refine_steps, vector_width
from stepwell.ladder.workspace import Job, Work, read_json
from stepwell.recipe import DenseTraining, Rung
from stepwell.recipe.ladder import MORE
from stepwell.recipe.teachers import DualEncoderTeacher

if TYPE_CHECKING:
    from stepwell.ladder.build import Builder

FINAL = "ladder + refine"


def add_proof(builder: Builder) -> None:
    """Add the trained baselines, the test stage of every system and the table that compares them."""
    systems = _as_they_are(builder)
    if builder.recipe.proof != "none":
        systems |= _baselines(builder)
    systems["ladder"] = builder.split("test", f"student@{builder.rungs}", "the ladder")
    top = "ladder"
    if builder.last > builder.rungs:
        systems[FINAL] = builder.split("test", f"student@{builder.last}", "ladder and refine")
        top = FINAL
    _asymmetric(builder, systems, top)
    _with_others(builder, systems, top)
    builder.add(
        "table",
        "table",
        "compare all systems on the test queries",
        {"systems": systems, "reference": top, **builder.judging()},
        tuple(dict.fromkeys(systems.values())),
        partial(table, builder.ctx, systems, top),
        named=True,
    )


def _as_they_are(builder: Builder) -> dict[str, str]:
    """Add what no rung has touched: BM25, the base model, the start, the teachers that embed."""
    systems = dict[str, str]()
    systems["BM25"] = builder.add(
        "bm25.test",
        "search-bm25",
        "test: BM25",
        builder.judging(),
        (),
        partial(judging.search_bm25, builder.ctx, "test"),
        collective=True,
    )
    systems["base model, untuned"] = _base(builder)
    systems["student, untrained"] = builder.split("test", "start", "the student at the start")
    for name, teacher in builder.recipe.teachers.items():
        if teacher.embeds and f"teacher.{name}" in builder.stages:
            systems[f"teacher {name}"] = builder.split("test", f"teacher.{name}", name)
    return systems


def _with_others(builder: Builder, systems: dict[str, str], top: str) -> None:
    """Add the final student fused with BM25, and its list re-ranked by the strongest teacher."""
    recipe, final = builder.recipe, f"student@{builder.last}.test"
    systems[_fused(top)] = builder.add(
        "fused.test",
        "fuse",
        "test: BM25 fused with the student",
        builder.judging(),
        ("bm25.test", final),
        partial(judging.fuse, builder.ctx, "test", ("bm25.test", final)),
    )
    strongest = builder.refine_teacher
    if builder.embeds(strongest):
        return
    builder.teacher(strongest)
    depth = recipe.judging.rerank
    systems[f"{strongest} reranks its top {depth}"] = builder.add(
        "reranked.test",
        "rerank",
        f"test: {strongest} reranks the student's list",
        builder.judging(),
        (final, *builder.opens(strongest)),
        partial(judging.rerank, builder.ctx, "test", final, strongest),
        collective=True,
        work=builder.prices.scoring(recipe.teachers, strongest, builder.prices.test, depth),
    )


def table(ctx: Context, systems: dict[str, str], reference: str, job: Job) -> None:
    """Compare every system with the final student on the test queries (paired, Holm-corrected)."""
    evaluations = {
        label: Evaluation.load(job.inputs[stage] / "evaluation.parquet", ctx.collection)
        for label, stage in systems.items()
    }
    comparison = compare(evaluations, reference, judging.measures_of(ctx))
    fused = _fused(reference)
    pair = {name: evaluations[name] for name in ("BM25", fused)}
    alone = compare(pair, "BM25", judging.measures_of(ctx)[:1])  # fusion has to beat what it costs nothing to have
    comparison = replace(comparison, notes=(alone.sentence(fused), *synthetic_notes(ctx)), title=_title(ctx))
    job.write_json(
        "comparison.json",
        {"systems": {label: job.names[stage] for label, stage in systems.items()}, **comparison.to_json()},
    )
    (job.folder / "table.txt").write_text(comparison.table().text() + "\n", encoding="utf-8")


def synthetic_notes(ctx: Context) -> tuple[str, ...]:
    """Return what a reader of results must know about queries that were made from passages."""
    made = ctx.splits.synthetic
    if not ctx.splits.tested:
        return (NO_TEST,)
    counts = " and ".join(f"{count:,} {role} queries" for role, count in made.items())
    return (f"{counts} were synthetic: made from the passages. No test query is.",) if made else ()


def _title(ctx: Context) -> str:
    return "Comparison" if ctx.splits.tested else "Comparison on synthetic dev queries (there is no test)"


def _fused(top: str) -> str:
    return f"BM25 and {top}, fused"


def _base(builder: Builder) -> str:
    section = builder.recipe.student.model_copy(update={"layers": None, "pick": "first", "towers": 1})

    def run(job: Job) -> None:
        making.build_dense(builder.ctx, section, job.folder)

    own = {"student": section.model_dump(), "tokens": builder.recipe.tokens.longest}
    settings = {**own, **builder.content(section.base)}
    builder.add("base", "base", "take the base model", settings, (), run, collective=True)
    builder.vectors("base", "the base model", section.base, None)
    builder.split("dev", "base", "the base model, untuned")
    return builder.split("test", "base", "the base model, untuned")


def _asymmetric(builder: Builder, systems: dict[str, str], top: str) -> None:
    """Add queries by the student, passages by the teacher of the embedding rung, where their widths agree."""
    teacher = asymmetric_teacher(builder)
    if teacher is None:
        return
    queries, passages = f"student@{builder.last}.vectors", f"teacher.{teacher}.vectors"
    systems[f"{top}, passages by {teacher}"] = builder.add(
        "asymmetric.test",
        "search-test",
        f"test: queries by the student, passages by {teacher}",
        {**builder.judging(), "asymmetric": True},
        (queries, passages),
        partial(judging.search_split, builder.ctx, "test", queries, passages),
        collective=True,
    )


def asymmetric_teacher(builder: Builder) -> str | None:
    """Return the dual encoder whose passages the student can search, or None."""
    name = builder.recipe.embedding_teacher
    if name is None:
        return None
    teacher = builder.recipe.teachers[name]
    assert isinstance(teacher, DualEncoderTeacher)  # no other has vectors
    return name if vector_width(teacher) == vector_width(builder.recipe.student) else None


def _baselines(builder: Builder) -> dict[str, str]:
    recipe = builder.recipe
    climbs: list[tuple[Any, str, int]] = [(rung, rung.loss, sum(builder.more(rung))) for rung in recipe.ladder]
    refined = recipe.refine.rounds and refine_steps(recipe.refine, builder.prices.train)
    steps = builder.prices.steps(climbs) + refined
    rungs = tuple(f"rung-{number}" for number in range(1, builder.last + 1))
    builder.add(
        "updates",
        "updates",
        "count the ladder's updates",
        {},
        (),
        partial(updates, builder.ctx),
        optional=rungs,
        by_content=True,
    )
    miner = builder.last_miner()
    k = recipe.ladder[-1].candidates
    denoiser = None if builder.embeds(recipe.ladder[-1].teacher) else recipe.ladder[-1].teacher
    found = builder.candidates("candidates.proof", miner, k, teacher=denoiser)  # as good as the last rung's
    contrastive = recipe.warmup
    found_pairs = builder.candidates("candidates.contrastive", miner, 1 + contrastive.negatives)
    base, layers = recipe.student.base, recipe.student.layers
    builder.add(
        "contrastive",
        "contrast",
        "baseline: contrastive only",
        {"training": contrastive.model_dump(exclude={"epochs", "steps", "further"}), **builder.student()},
        ("start", "updates", found_pairs),
        partial(contrastive_baseline, builder.ctx, contrastive, found_pairs),
        collective=True,
        work=builder.prices.dense(base, layers, contrastive, 1 + contrastive.negatives, steps),
    )
    systems = {"contrastive only": _test(builder, "contrastive", "contrastive only")}
    for rung in straight_rungs(builder):
        label = f"straight from {rung.teacher}, {rung.loss}"
        systems[label] = _straight(builder, rung, miner, found, steps)
    return systems


def _straight(builder: Builder, rung: Rung, miner: str, found: str, steps: int) -> str:
    """Add the baseline that climbs one rung alone, in so many steps, on the candidates of the stage ``found``."""
    name, student = f"straight-{rung.teacher}-{rung.loss}", builder.recipe.student
    builder.teacher(rung.teacher, miner)
    if rung.loss == "embedding":
        work: Work = builder.prices.embedding(student.base, student.layers, rung, steps, builder.more(rung))
    else:
        work = builder.prices.dense(student.base, student.layers, rung, rung.candidates, steps)
    inputs = ["start", "updates", f"teacher.{rung.teacher}"]
    inputs += [found] if rung.loss != "embedding" else []
    inputs += [stage for stage in builder.opens(rung.teacher) if stage not in inputs]
    inputs += builder.more_vectors(name, rung)
    builder.add(
        name,
        "straight",
        f"baseline: straight from {rung.teacher} ({rung.loss})",
        {**rung.model_dump(exclude={"epochs", "steps", "force", *MORE.values()}), **builder.student()},
        tuple(inputs),
        partial(straight_baseline, builder.ctx, rung, found),
        collective=True,
        work=work,
    )
    return _test(builder, name, f"straight from {rung.teacher}")


def _test(builder: Builder, model: str, title: str) -> str:
    builder.judge_student(model, title)
    return builder.split("test", model, title)


def straight_rungs(builder: Builder) -> list[Rung]:
    """Return the rungs that the straight baselines climb alone: the strongest teacher's, or every one (full).

    A baseline has the settings of the ladder's own rung with that teacher and loss where there is one, and of
    the last rung else; what belongs to a ladder (keep, a teacher beside, hold) is off. A rung that lives on these
    alone is climbed with the usual weight of its own loss. Candidates are the last rung's, for all of them.
    """
    recipe = builder.recipe
    strongest = recipe.ladder[-1]
    wanted: list[tuple[str, Any]] = [(strongest.teacher, strongest.loss)]
    if recipe.proof == "full":
        names = dict.fromkeys(rung.teacher for rung in recipe.ladder)
        for name in names:
            losses = ("embedding", "in-batch") if builder.embeds(name) else ("candidates",)
            wanted += [(name, loss) for loss in losses]
    own = {(rung.teacher, rung.loss): rung for rung in recipe.ladder}
    alone = {"gamma": 0.0, "beside": None, "hold": 0.0, "candidates": strongest.candidates}
    rungs = []
    for teacher, loss in dict.fromkeys(wanted):
        rung = own.get((teacher, loss), strongest)
        soft = {} if rung.alpha or rung.beta else {"beta": Rung.model_fields["beta"].default}
        rungs.append(rung.model_copy(update={"teacher": teacher, "loss": loss, **alone, **soft}))
    return rungs


def updates(ctx: Context, job: Job) -> None:
    """Count the optimiser steps that the ladder and refine took, warm-up apart (the baselines start from it too)."""
    steps = {name: int(read_json(folder / "training.json")["steps"]) for name, folder in job.inputs.items()}
    job.write_json("updates.json", {"steps": sum(steps.values()), "of": steps})


def _steps(job: Job) -> int:
    return max(1, int(read_json(job.inputs["updates"] / "updates.json")["steps"]))


def contrastive_baseline(ctx: Context, settings: DenseTraining, found: str, job: Job) -> None:
    """Train the start contrastively for as many updates as the ladder took."""
    encoder = ctx.encoder(job.inputs["start"], ctx.recipe.student.loss_scale)
    candidates = Candidates.load(job.inputs[found] / "candidates.parquet", ctx.collection)
    making.contrast(ctx, encoder, candidates, settings.model_copy(update={"steps": _steps(job)}), job)


def straight_baseline(ctx: Context, rung: Rung, found: str, job: Job) -> None:
    """Distil one teacher straight into the start for as many updates as the ladder took."""
    rung = rung.model_copy(update={"steps": _steps(job)})
    if rung.loss == "embedding":
        making.imitate(ctx, rung, "start", job)
    else:
        making.distil(ctx, rung, rung.teacher, rung.loss, "start", found, job)
