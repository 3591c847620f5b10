"""The stages that make a teacher, by its kind; to the rest of the ladder teachers are alike."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stepwell.ladder import making_teachers as making
from stepwell.ladder.contrastive_stages import go_on
from stepwell.ladder.teachers import inputs_of
from stepwell.ladder.workspace import Work
from stepwell.recipe.teachers import (
    BestTeacher,
    DualEncoderTeacher,
    HostedTeacher,
    LateInteractionTeacher,
    ListTeacher,
    MeanTeacher,
    ScoresTeacher,
)
from stepwell.teachers.from_file import content_fingerprint

if TYPE_CHECKING:
    from stepwell.ladder.build import Builder


def add_teacher(builder: Builder, name: str, miner: str = "bm25") -> str:
    """Add a teacher unless it is there: its model, what it is made of, and where it embeds its vectors and dev figures.

    ``miner`` is where the candidates of a teacher that learns over lists come from.
    """
    stage = f"teacher.{name}"
    if stage in builder.stages:
        return stage
    teacher = builder.recipe.teachers[name]
    match teacher:
        case DualEncoderTeacher():
            _dense(builder, name, teacher)
        case ListTeacher():
            _lists(builder, name, teacher, miner)
        case ScoresTeacher():
            content = content_fingerprint(Path(teacher.file))
            settings = {**teacher.model_dump(exclude={"file"}), "sha256": content}
            run = partial(making.take_scores, builder.ctx, name, content)
            builder.add(stage, "take-scores", f"read the scores of {name}", settings, (), run)
        case HostedTeacher():
            settings = {**teacher.facts(), "kind": teacher.kind, "logit": teacher.logit}
            run = partial(making.name_teacher, builder.ctx, name)
            builder.add(stage, "name-teacher", f"{name} is asked over HTTP", settings, (), run)
        case MeanTeacher() | BestTeacher():
            for other in teacher.of:
                add_teacher(builder, other, miner)
            inputs = inputs_of(builder.recipe, name)[1:]
            run = partial(making.name_teacher, builder.ctx, name)
            title = f"{name} is made of {', '.join(teacher.of)}"
            builder.add(stage, "name-teacher", title, teacher.model_dump(), tuple(dict.fromkeys(inputs)), run)
    return stage


def _dense(builder: Builder, name: str, teacher: DualEncoderTeacher) -> None:
    stage, inputs, work = f"teacher.{name}", tuple[str, ...](), Work()
    train, model = teacher.train, (teacher.base, teacher.layers, teacher.scale)
    if train is not None:
        inputs = (builder.candidates(f"candidates.{name}", "bm25", 1 + train.negatives),)
        work = builder.prices.dense(teacher.base, teacher.layers, train, 1 + train.negatives)
    first = stage if train is None or train.further is None else f"{stage}.first"
    _add_model(builder, name, "dense", making.take_or_train_dense, inputs, work, first)
    if train is not None and train.further is not None:
        builder.vectors(first, f"{name}, trained once", *model)
        builder.training_run(first, f"{name}, trained once")
        go_on(builder, stage, first, first, f"train the teacher {name} on what it finds", train, model)
    builder.vectors(stage, name, teacher.base, teacher.layers, teacher.scale)
    builder.split("dev", stage, name)


def _lists(builder: Builder, name: str, teacher: ListTeacher, miner: str) -> None:
    inputs, work = tuple[str, ...](), Work()
    train = teacher.train
    if train is not None:
        inputs = (builder.candidates(f"candidates.{name}", miner, train.candidates, limit=train.train_queries),)
        if teacher.imitate is not None and train.imitate_epochs:
            add_teacher(builder, teacher.imitate)
            inputs += (f"teacher.{teacher.imitate}.vectors",)
        queries = min(train.train_queries or builder.prices.train, builder.prices.train)
        passes = (train.steps * train.batch / queries if train.steps else train.epochs) + train.imitate_epochs
        work = builder.prices.lists(teacher, passes * queries, train.candidates, training=True)
    kind = "late" if isinstance(teacher, LateInteractionTeacher) else "reranker"
    _add_model(builder, name, kind, making.take_or_train_lists, inputs, work)


def _add_model(
    builder: Builder, name: str, kind: str, make: Any, inputs: tuple[str, ...], work: Work, stage: str | None = None
) -> None:
    teacher: Any = builder.recipe.teachers[name]
    how = "take" if teacher.train is None else "train"
    # Without what comes behind it, the first training is the same work whether or not the recipe goes on.
    tokens = builder.recipe.tokens
    keys = {"dense": {"longest"}, "late": {"query", "passage"}, "reranker": {"pair"}}[kind]
    read = {key: getattr(tokens, key) for key in sorted(keys)}
    settings = {**teacher.model_dump(exclude={"train": {"further"}}), "tokens": read, **builder.content(teacher.base)}
    run = partial(make, builder.ctx, name)
    title = f"{how} the teacher {name}"
    builder.add(stage or f"teacher.{name}", f"{how}-{kind}", title, settings, inputs, run, collective=True, work=work)
