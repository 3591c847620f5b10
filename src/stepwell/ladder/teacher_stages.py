"""The stages that make a teacher; what differs by its kind is in :mod:`stepwell.teachers.opening`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from stepwell.ladder import making_teachers as making
from stepwell.ladder.contrastive_stages import go_on
from stepwell.ladder.workspace import Work
from stepwell.teachers.opening import DualEncoder, Kind, ListModel

if TYPE_CHECKING:
    from stepwell.ladder.build import Builder


def add_teacher(builder: Builder, name: str, miner: str = "bm25") -> str:
    """Add a teacher unless it is there: its model, what it is made of, and where it embeds its vectors and dev figures.

    ``miner`` is where the candidates of a teacher that learns over lists come from.
    """
    stage = f"teacher.{name}"
    if stage in builder.stages:
        return stage
    kind = builder.ctx.kind(name)
    for part in kind.parts:
        add_teacher(builder, part.name, miner)
    if kind.model is None:
        settings, inputs = kind.settings(), tuple(dict.fromkeys(kind.inputs()[1:]))
        run = partial(making.make_without_model, builder.ctx, kind, settings)
        return builder.add(stage, kind.stage, kind.title, settings, inputs, run)
    add: Callable[..., None] = _dense if kind.embeds else _lists
    add(builder, kind, miner)
    return stage


def _dense(builder: Builder, kind: DualEncoder, miner: str) -> None:
    name, teacher = kind.name, kind.section
    stage, inputs, work = f"teacher.{name}", tuple[str, ...](), Work()
    train, model = teacher.train, (teacher.base, teacher.layers, teacher.scale)
    if train is not None:
        inputs = (builder.candidates(f"candidates.{name}", "bm25", 1 + train.negatives),)
        work = builder.prices.dense(teacher.base, teacher.layers, train, 1 + train.negatives)
    first = stage if train is None or train.further is None else f"{stage}.first"
    _add_model(builder, kind, making.take_or_train_dense, inputs, work, first)
    if train is not None and train.further is not None:
        builder.vectors(first, f"{name}, trained once", *model)
        builder.training_run(first, f"{name}, trained once")
        go_on(builder, stage, first, first, f"train the teacher {name} on what it finds", train, model)
    builder.vectors(stage, name, teacher.base, teacher.layers, teacher.scale)
    builder.split("dev", stage, name)


def _lists(builder: Builder, kind: ListModel[Any], miner: str) -> None:
    name, teacher, inputs, work = kind.name, kind.section, tuple[str, ...](), Work()
    train = teacher.train
    if train is not None:
        inputs = (builder.candidates(f"candidates.{name}", miner, train.candidates, limit=train.train_queries),)
        if teacher.imitate is not None and train.imitate_epochs:
            add_teacher(builder, teacher.imitate)
            inputs += (f"teacher.{teacher.imitate}.vectors",)
        queries = min(train.train_queries or builder.prices.train, builder.prices.train)
        passes = (train.steps * train.batch / queries if train.steps else train.epochs) + train.imitate_epochs
        work = builder.prices.lists(kind.reads, teacher.base, teacher.layers, passes * queries, train.candidates)
    _add_model(builder, kind, making.take_or_train_lists, inputs, work)


def _add_model(
    builder: Builder, kind: Kind[Any], make: Any, inputs: tuple[str, ...], work: Work, stage: str | None = None
) -> None:
    teacher, tokens = kind.section, builder.recipe.tokens
    how = "take" if teacher.train is None else "train"
    read = {key: getattr(tokens, key) for key in kind.cut_by}
    # Without what comes behind it, the first training is the same work whether or not the recipe goes on.
    settings = {**teacher.model_dump(exclude={"train": {"further"}}), "tokens": read, **builder.content(teacher.base)}
    run, title = partial(make, builder.ctx, kind), f"{how} the teacher {kind.name}"
    name = stage or f"teacher.{kind.name}"
    builder.add(name, f"{how}-{kind.model}", title, settings, inputs, run, collective=True, work=work)
