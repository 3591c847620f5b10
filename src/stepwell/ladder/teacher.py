"""Stages that make a teacher; what differs from kind to kind is in :mod:`stepwell.teachers.opening`."""

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from stepwell import distributed
from stepwell.distil.candidates import Draw
from stepwell.distil.objectives import RerankObjective
from stepwell.distil.training import total_steps
from stepwell.ladder.builder import Builder
from stepwell.ladder.judging import searched
from stepwell.ladder.prices import Prices, Work, towers_of
from stepwell.ladder.stage import Job, Stage, recorded
from stepwell.ladder.trainings import build_dense, contrast, go_on, learn, stream
from stepwell.models.token_store import both_tokens
from stepwell.recipe import DualEncoderTeacher, Rung, TokensSection
from stepwell.systems.records import Record, SentTexts, TakenScores, TakenVectors, Training
from stepwell.teachers.kinds import Kind, Making
from stepwell.teachers.opening import kind_of

TAKEN: dict[str, type[Record]] = {"vectors": TakenVectors, "embeddings-api": SentTexts}
"""What a stage leaves that makes a teacher without a model, by the teacher's kind; scores where it is not said."""

VECTORS_OF: tuple[str, ...] = ("query_rows", "unlabelled", "held_out")
"""Which queries a teacher without a model has vectors of."""


def teacher(b: Builder, name: str, miner: str = "bm25") -> str:
    """Add a teacher unless it is there: what makes it, and where it embeds its vectors, lists and dev figures.

    ``miner`` is the stage with the lists that a teacher which learns over lists gets its candidates from.
    """
    stage, kind = f"teacher.{name}", b.kind(name)
    made = kind.inputs()[0]
    if made in b.stages:
        return stage
    for part in kind.parts:
        teacher(b, part.name, miner)
    if kind.model is None:
        inputs = {other: other for other in kind.inputs()[1:]}
        says = recorded(TAKEN.get(kind.section.kind, TakenScores))
        title = kind.titled.format(name, ", ".join(part.name for part in kind.parts))
        lots = kind.lots(b.ctx.collection, b.ctx.surroundings.query_rows)
        cost, bill = partial(Prices.asking, kind=kind, texts=sum(lot.size for lot in lots)), partial(kind.bill, lots)
        settings, run = kind.settings(), make_without_model
        reads = VECTORS_OF if kind.section.embeds else ()
        b.add(Stage(made, kind.stage, title, settings, inputs, run, says, cost, bill, reads=reads, collective=False))
        if kind.section.embeds_queries:
            searched(b, "dev", stage, name)
    elif kind.section.embeds:
        _dense(b, kind)
    else:
        _lists(b, kind, miner)
    return stage


def teacher_lists(b: Builder, name: str) -> str:
    """Add a dual encoder's lists of the training queries; return the stage."""
    return b.training_run(teacher(b, name), name)


def miner_lists(b: Builder, number: int, rung: Rung) -> str:
    """Add the lists that the negatives of rung ``number`` come from; return the stage."""
    who = b.recipe.miner_of(number)
    if who == "bm25" or rung.loss == "embedding":
        return b.bm25()
    if who == "student":
        return b.training_run(f"student@{number - 1}", "the student")
    return teacher_lists(b, who)


def last_miner(b: Builder) -> str:
    """Add the lists that the last rung's negatives come from; return the stage."""
    return miner_lists(b, b.rungs, b.recipe.ladder[-1].model_copy(update={"loss": "candidates"}))


def _dense(b: Builder, kind: Kind[Any]) -> None:
    name, section, train, stage = kind.name, kind.section, kind.section.train, f"teacher.{kind.name}"
    inputs = dict[str, str]()
    if train is not None:
        inputs = {"candidates": b.candidates(f"candidates.{name}", b.bm25(), 1 + train.negatives)}
    first = stage if train is None or train.further is None else f"{stage}.first"

    def cost(prices: Prices) -> Work:
        return Work() if train is None else prices.dense(section, train, 1 + train.negatives)

    _model(b, kind, first, inputs, take_or_train_dense, cost)
    if train is not None and train.further is not None:
        b.vectors(first, f"{name}, trained once", section, section.scale)
        found = b.training_run(first, f"{name}, trained once")
        go_on(b, stage, found, f"train the teacher {name} on what it finds", train, section)
    b.vectors(stage, name, section, section.scale)
    searched(b, "dev", stage, name)


def _lists(b: Builder, kind: Any, miner: str) -> None:
    section, train, inputs = kind.section, kind.section.train, dict[str, str]()
    if train is not None:
        found = b.candidates(f"candidates.{kind.name}", miner, train.candidates, limit=train.train_queries)
        inputs = {"candidates": found}
        if section.imitate is not None and train.imitate_epochs:
            inputs["imitated"] = f"{teacher(b, section.imitate)}.vectors"

    def cost(prices: Prices) -> Work:
        if train is None:
            return Work()
        queries = min(train.train_queries or prices.train, prices.train)
        passes = (train.steps * train.batch / queries if train.steps else train.epochs) + train.imitate_epochs
        return prices.lists(section, kind.reads, passes * queries, train.candidates)

    _model(b, kind, f"teacher.{kind.name}", inputs, take_or_train_lists, cost)


def _model(b: Builder, kind: Kind[Any], stage: str, inputs: dict[str, str], run: Any, cost: Any) -> None:
    section, how = kind.section, "take" if kind.section.train is None else "train"
    read = {key: getattr(b.recipe.tokens, key) for key in kind.cut_by}
    # Without what comes behind it, the first training is the same work whether or not the recipe goes on.
    settings = {**section.model_dump(exclude={"train": {"further"}}), "tokens": read, **b.content(section.base)}
    if towers_of(section) == 1:  # as keys were before there was a choice
        settings.pop("towers", None)
    title, says = f"{how} the teacher {kind.name}", recorded(Training)
    reads: tuple[str, ...] = ()
    if section.train is not None:  # lists come with their grades; in a batch, others' passages are judged too
        reads = ("seed", "train") if section.embeds else ("seed",)
    b.add(Stage(stage, f"{how}-{kind.model}", title, settings, inputs, run, says, cost, reads=reads))


def make_without_model(job: Job) -> None:
    """Read what a teacher left in files, or write down one that has nothing to make: behind HTTP, or made of others."""
    around, name = job.surroundings, job.stage.removeprefix("teacher.").removesuffix(".vectors")
    kind, rows, without_labels = kind_of(name, around.teachers), np.zeros(0, np.int32), np.zeros(0, np.int32)
    if kind.section.embeds:
        rows, without_labels = around.query_rows, np.union1d(around.splits.unlabelled, around.splits.held_out)
    kind.make(Making(job.folder, around.collection, job.settings, rows, job.progress, without_labels))


def take_or_train_dense(job: Job) -> None:
    """Make a dual-encoder teacher: its base as it is, or trained contrastively."""
    section = job.settings.read(DualEncoderTeacher, towers=job.settings.get("towers", 1))
    encoder = build_dense(section, job.settings["tokens"]["longest"], job.folder)
    if section.train is not None:
        contrast(job, encoder, section.train)


def take_or_train_lists(job: Job) -> None:
    """Make a cross-encoder or a late-interaction teacher: its base as it is, or (imitating first) trained listwise."""
    around, name = job.surroundings, job.stage.removeprefix("teacher.")
    section: Any = job.settings.read(type(around.teachers[name]))
    kind: Any = kind_of(name, {**around.teachers, name: section})
    tokens = job.settings.part("tokens").read(TokensSection)
    if section.train is None:
        taken = kind.opened(section.base, tokens)
        if distributed.is_main():
            taken.save(job.folder / "model")
        return
    settings, candidates = section.train, job.candidates()
    model = kind.built(tokens, around.seed)
    texts, imitated = both_tokens(around.collection, model), job.vectors("imitated")
    if imitated is not None:
        target = imitated.score(candidates.queries, candidates.passages)
        objective = RerankObjective(model, *texts, candidates, Draw(settings.candidates, stream(job)), target)
        first = settings.model_copy(update={"epochs": settings.imitate_epochs, "steps": None})
        steps, rest = total_steps(first, objective.size), total_steps(settings, objective.size)
        both, folder = job.progress.start(steps + rest, "steps"), job.folder / "imitation"
        if (folder / Training.file).is_file():  # kept, so that a resumed stage goes on behind it
            model.model.load_state_dict(kind.opened(folder / "model", tokens).model.state_dict())
        else:
            folder.mkdir(exist_ok=True)
            learn(replace(job, folder=folder, progress=both.part(steps)), objective, first, model)
            (folder / "checkpoint.safetensors").unlink(missing_ok=True)
        both.advance(steps)
        job = replace(job, progress=both.part(rest))
    more = 0 if imitated is None else 1
    draw = Draw(settings.candidates, stream(job, more))
    objective = RerankObjective(model, *texts, candidates, draw, graded=settings.labels == "grades")
    learn(job, objective, settings, model, more)
