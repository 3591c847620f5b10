"""The proof: baselines that get the ladder's number of updates, and every system on the test queries."""

from dataclasses import replace
from typing import Any

from stepwell import distributed
from stepwell.collection.splits import NO_TEST, Splits
from stepwell.evaluation import compare
from stepwell.files import write_text
from stepwell.ladder.baselines import BEHIND, baselines
from stepwell.ladder.builder import Builder
from stepwell.ladder.judging import fuse, measures_of, rerank, search, search_bm25, searched
from stepwell.ladder.overlap import overlap
from stepwell.ladder.prices import Prices, Work
from stepwell.ladder.stage import Job, Stage
from stepwell.ladder.teacher import teacher
from stepwell.ladder.trainings import start_student
from stepwell.models.shape import vector_width
from stepwell.systems.records import Decision, Manifest, Promotion, SystemTable, Trained, Training

FINAL = "ladder + refine"
ASYMMETRIC, SAME_WIDTH = "asymmetric.test", "same-width"


def proof(b: Builder) -> None:
    """Add the trained baselines, the test stage of every system and the table that compares them."""
    systems = _as_they_are(b)
    trained = baselines(b) if b.recipe.proof != "none" else {}
    systems |= {label: row.test for label, row in trained.items()}
    systems["ladder"] = searched(b, "test", f"student@{b.rungs}", "the ladder")
    top = "ladder"
    if b.last > b.rungs:
        systems[FINAL] = searched(b, "test", f"student@{b.last}", "ladder and refine")
        top = FINAL
    systems |= _asymmetric(b, top) | _with_others(b, top)
    rows = {label: [row.training, row.start, row.learned] for label, row in trained.items()}
    rates = b.recipe.proof_rates if trained else []
    how = {"trained": rows, "rates": rates, "steps": _steps(b), "labels": _labels(b), "rungs": b.rungs}
    settings = {"systems": systems, "reference": top, **how, **b.judging}
    may_lack = [ASYMMETRIC] if SAME_WIDTH in b.stages else []
    may_lack += [row.test for row in trained.values() if b.stages[row.test].only_if]
    inputs = {stage: stage for stage in systems.values() if stage not in may_lack}
    title, optional = "compare all systems on the test queries", {stage: stage for stage in may_lack}
    optional |= {row.training: row.training for row in trained.values()}
    optional |= {name: name for number in range(1, b.last + 1) for name in (f"rung-{number}", f"promote-{number}")}
    facts = ("synthetic", "tested")
    table = Stage("table", "table", title, settings, inputs, compare_all, reads=facts, collective=False, named=True)
    b.add(replace(table, optional=optional))


def _steps(b: Builder) -> list[str]:
    """Return what the rungs and the rounds of refine learn from, in their order."""
    beside = [f", {rung.beside} beside" if rung.beside else "" for rung in b.recipe.ladder]
    rungs = [f"{rung.teacher} ({rung.loss}{more})" for rung, more in zip(b.recipe.ladder, beside, strict=True)]
    return rungs + [f"{b.refine_teacher} (refine)"] * b.recipe.refine.rounds


def _labels(b: Builder) -> list[bool]:
    """Return which rungs and rounds of refine learn from labels too."""
    rungs = [bool(rung.alpha) and rung.loss != "embedding" for rung in b.recipe.ladder]
    return rungs + [bool(b.recipe.refine.alpha)] * b.recipe.refine.rounds


# -- systems that are not trained for it --------------------------------------------------------------------


def _as_they_are(b: Builder) -> dict[str, str]:
    """Add what no rung has touched: BM25, the base model, the start, the teachers that embed."""
    systems = {"BM25": _test(b, "bm25.test", "search-bm25", "BM25", {}, search_bm25)}
    systems["base model, untuned"] = _base(b)
    begins = "student, warmed up" if b.recipe.warmup.trains else "student, untrained"
    systems[begins] = searched(b, "test", "start", "the student at the start")
    for name in b.recipe.teachers:
        if b.embeds(name, queries=True) and f"teacher.{name}.vectors" in b.stages:
            systems[f"teacher {name}"] = searched(b, "test", f"teacher.{name}", name)
    return systems


def _test(b: Builder, name: str, kind: str, title: str, inputs: dict[str, str], run: Any, **more: Any) -> str:
    settings = b.judging | more.pop("settings", {})
    return b.add(Stage(name, kind, f"test: {title}", settings, inputs, run, reads=("test",), **more))


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

    settings = {"rerank": depth}
    stage = _test(b, "reranked.test", "rerank", title, inputs, rerank, settings=settings, cost=cost)
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
    climbed, lesson = _climbed(job)
    notes = (lesson, alone.sentence(fused), *synthetic_notes(splits))
    comparison = replace(comparison, notes=notes, title=title)
    stages = {label: job.names[stage] for label, stage in systems.items()}
    table = SystemTable.of(stages, comparison, [*_trained(job), *climbed], _of_rates(job.settings["rates"]))
    job.leave(table)
    if distributed.is_main():
        trainings = table.trainings()
        texts = [comparison.table().text(), *([trainings.text()] if trainings else [])]
        write_text(job.folder / "table.txt", "\n\n".join(texts) + "\n")


def _trained(job: Job) -> list[Trained]:
    """Return how each baseline that was trained was trained."""
    found, climbed = [], Promotion.load(job.inputs["promote-1"]).student == "rung-1"
    for label, (stage, start, learned) in job.settings["trained"].items():
        if stage in job.inputs:
            start = "start" if start == BEHIND and not climbed else start
            folder = job.inputs[stage]
            log, made = Training.load(folder).log, Manifest.load(folder).settings
            rate = made["training"]["lr"] if "training" in made else made["lr"]
            found.append(Trained(label, start, learned, log.steps, log.everywhere or log.texts, rate))
    return found


def _climbed(job: Job) -> tuple[list[Trained], str]:
    """Return how the ladder was climbed, without refine and with it; and what the student learned from, in words."""
    steps, top, rungs = job.settings["steps"], job.settings["reference"], job.settings["rungs"]
    learned, others, updates, texts, rows = [], [], 0, 0, []
    labels = list[str]()
    for number, what in enumerate(steps, start=1):
        if (folder := job.inputs.get(f"rung-{number}")) is not None:
            log = Training.load(folder).log
            updates, texts = updates + log.steps, texts + (log.everywhere or log.texts)
        decision = Promotion.load(job.inputs[f"promote-{number}"])
        if decision.student == f"rung-{number}":
            learned.append(what)
            labels = labels or ["labels"] * job.settings["labels"][number - 1]
        else:
            others.append(f"{what}: {'left out' if decision.after is None else 'worse on dev, taken back'}")
        if number in (rungs, len(steps)):
            label = "ladder" if number == rungs else top
            rows.append(Trained(label, "start", ", ".join([*learned, *labels]) or "nothing", updates, texts))
    rest = f" Not from {'; '.join(others)}." if others else ""
    return rows, f"The student learned from {', '.join(learned) or 'nobody'}.{rest}"


def _of_rates(rates: list[float]) -> str:
    """Say how the baselines' learning rates were chosen."""
    if not rates:
        return ""
    if len(rates) == 1:
        own = "that of the recipe" if rates == [1] else f"{rates[0]:.2g} times that of the recipe"
        return f"Each baseline was trained at one learning rate, {own}: others may do better."
    return (
        f"The learning rate of each baseline is the best on dev of {len(rates)}: the recipe's own times "
        f"{', '.join(f'{rate:.2g}' for rate in rates)}."
    )


def synthetic_notes(splits: Splits) -> tuple[str, ...]:
    """Return what a reader of results must know about queries that were made from passages."""
    if not splits.tested:
        return (NO_TEST,)
    counts = " and ".join(f"{count:,} {role} queries" for role, count in splits.synthetic.items())
    return (f"{counts} were synthetic: made from the passages. No test query is.",) if counts else ()
