"""Stages that make a teacher; what differs from kind to kind is in :mod:`stepwell.teachers.opening`."""

from dataclasses import replace
from typing import Any

from stepwell import distributed
from stepwell.distil.candidates import Draw
from stepwell.distil.objectives import RerankObjective
from stepwell.distil.training import total_steps
from stepwell.ladder.builder import Builder
from stepwell.ladder.judging import searched
from stepwell.ladder.prices import Prices, Work
from stepwell.ladder.stage import Job, Stage, recorded
from stepwell.ladder.trainings import build_dense, contrast, go_on, learn
from stepwell.models.late_interaction import LateInteraction
from stepwell.models.reranker import Reranker
from stepwell.recipe import Rung, TokensSection
from stepwell.recipe.teachers import DualEncoderTeacher
from stepwell.recipe.training import ListTraining
from stepwell.systems.records import TakenScores, Training
from stepwell.teachers.opening import Kind, ListModel, kind_of


def teacher(b: Builder, name: str, miner: str = "bm25") -> str:
    """Add a teacher unless it is there: what makes it, and where it embeds its vectors, lists and dev figures.

    ``miner`` is the stage with the lists that a teacher which learns over lists gets its candidates from.
    """
    stage, kind = f"teacher.{name}", b.kind(name)
    if stage in b.stages:
        return stage
    for part in kind.parts:
        teacher(b, part.name, miner)
    if kind.model is None:
        inputs, says = {other: other for other in kind.inputs()[1:]}, recorded(TakenScores)
        b.add(Stage(stage, kind.stage, kind.title, kind.settings(), inputs, run=make_without_model, says=says))
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
    name, section, stage = kind.name, kind.section, f"teacher.{kind.name}"
    train, inputs = section.train, dict[str, str]()
    if train is not None:
        inputs = {"candidates": b.candidates(f"candidates.{name}", b.bm25(), 1 + train.negatives)}
    first = stage if train is None or train.further is None else f"{stage}.first"

    def cost(prices: Prices) -> Work:
        return Work() if train is None else prices.dense(section, train, 1 + train.negatives)

    _model(b, kind, first, inputs, take_or_train_dense, cost)
    if train is not None and train.further is not None:
        b.vectors(first, f"{name}, trained once", section, section.scale)
        found = b.training_run(first, f"{name}, trained once")
        go_on(b, stage, first, found, f"train the teacher {name} on what it finds", train, section)
    b.vectors(stage, name, section, section.scale)
    searched(b, "dev", stage, name)


def _lists(b: Builder, kind: Any, miner: str) -> None:
    section, inputs = kind.section, dict[str, str]()
    train = section.train
    if train is not None:
        k, most = train.candidates, train.train_queries
        inputs = {"candidates": b.candidates(f"candidates.{kind.name}", miner, k, limit=most)}
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
    section, tokens = kind.section, b.recipe.tokens
    how = "take" if section.train is None else "train"
    read = {key: getattr(tokens, key) for key in kind.cut_by}
    # Without what comes behind it, the first training is the same work whether or not the recipe goes on.
    settings = {**section.model_dump(exclude={"train": {"further"}}), "tokens": read, **b.content(section.base)}
    title, says = f"{how} the teacher {kind.name}", recorded(Training)
    b.add(Stage(stage, f"{how}-{kind.model}", title, settings, inputs, run, says, cost, collective=True))


def make_without_model(job: Job) -> None:
    """Read a file of scores, or write down a teacher that has nothing to make: one behind HTTP, or made of others."""
    kind = kind_of(job.stage.removeprefix("teacher."), job.surroundings.teachers)
    kind.make(job.folder, job.surroundings.collection, job.settings)


def take_or_train_dense(job: Job) -> None:
    """Make a dual-encoder teacher: its base as it is, or trained contrastively."""
    section = job.settings.read(DualEncoderTeacher)
    encoder = build_dense(section, job.settings["tokens"]["longest"], job.folder)
    if section.train is not None:
        contrast(job, encoder, section.train)


def take_or_train_lists(job: Job) -> None:
    """Make a cross-encoder or a late-interaction teacher.

    It is taken as it is, or first imitates a dual encoder and is then trained listwise.
    """
    around, kind, tokens = job.surroundings, _kind(job), job.settings.part("tokens").read(TokensSection)
    section = kind.section
    if section.train is None:
        taken = kind.opened(section.base, tokens)
        if distributed.is_main():
            taken.save(job.folder / "model")
        return
    settings, candidates = section.train, job.candidates()
    model = kind.built(tokens, around.seed)
    texts, draw = around.all_tokens(model), Draw(settings.candidates, around.seed)
    imitated = job.vectors("imitated")
    if imitated is not None:
        target = imitated.score(candidates.queries, candidates.passages)
        objective = RerankObjective(model, *texts, candidates, draw, target)
        first = settings.model_copy(update={"epochs": settings.imitate_epochs, "steps": None})
        steps = total_steps(first, objective.size)
        rest = total_steps(settings, objective.size)
        both = job.progress.start(steps + rest, "steps")
        _imitate(replace(job, progress=both.part(steps)), objective, first, model, kind, tokens)
        both.advance(steps)
        job = replace(job, progress=both.part(rest))
    objective = RerankObjective(model, *texts, candidates, draw, graded=settings.labels == "grades")
    learn(job, objective, settings, model)


def _imitate(
    job: Job,
    objective: RerankObjective,
    settings: ListTraining,
    model: Reranker | LateInteraction,
    kind: ListModel[Any],
    tokens: TokensSection,
) -> None:
    """Run the imitation phase once: its result is kept, so that a resumed stage goes on behind it."""
    folder = job.folder / "imitation"
    if not (folder / Training.file).is_file():
        folder.mkdir(exist_ok=True)
        learn(replace(job, folder=folder), objective, settings, model)
        (folder / "checkpoint.safetensors").unlink(missing_ok=True)
        return
    model.model.load_state_dict(kind.opened(folder / "model", tokens).model.state_dict())


def _kind(job: Job) -> Any:
    """Return the teacher that a stage makes, with the section that its settings are."""
    name = job.stage.removeprefix("teacher.")
    section = job.settings.read(type(job.surroundings.teachers[name]))
    return kind_of(name, {**job.surroundings.teachers, name: section})
