"""What trackers are given of a run, through accelerate's own: losses, dev figures, decisions; nothing of it changes.

Each tracker has a file of the points that it was given, ``tracking/NAME.jsonl`` in the run's folder. So a resumed run
goes on in the same place, gives no point twice, and gives later what a tracker missed.
"""

import json
import math
import os
import re
import sys
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

import numpy as np
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

from stepwell import distributed
from stepwell.collection import Collection
from stepwell.display import warn
from stepwell.distil.training import Follow, TrainingLog
from stepwell.errors import MissingPackage, StepwellError
from stepwell.evaluation import Evaluation
from stepwell.recipe import Recipe
from stepwell.systems.records import Decision, Headroom, Promotion, Selection, Training

POINTS = 500
"""Points that a training gives at most; each is the mean of the steps since the last one."""

DECISIONS: dict[str, type[Decision]] = {"headroom": Headroom, "promote": Promotion, "select": Selection}
"""The records of decisions by the kind of their stage."""

Values = dict[str, float]


def refuse_missing(names: Sequence[str]) -> None:
    """Refuse trackers whose package is not installed."""
    there = set(map(str, get_available_trackers()))
    for name in names:
        if name not in there:
            raise MissingPackage(
                f"track: {name} needs the package {name}, which is not installed: pip install 'stepwell[{name}]', or "
                "take it out of `track`.",
                name,
                name,
            )


class Follower:
    """One tracker, and the points that it has."""

    def __init__(self, name: str, recipe: Recipe, folder: Path) -> None:
        self.name = name
        self._file = folder / f"{name}.jsonl"
        self._given: dict[str, int] = {}  # by the key of a training or of another stage: its last step
        self._starts: dict[str, int] = {}  # the tracker's step before the first one of a training
        self._last = 0  # the tracker's step, which only rises
        identity = self._read()
        self._tracker = self._open(recipe, folder, identity)
        if identity is None:
            run = getattr(getattr(self._tracker.tracker, "info", None), "run_id", None)  # MLflow names its runs itself
            self._write({"id": run or self._id})
            self._tracker.store_init_configuration(dict(_flat(recipe.model_dump(mode="json", by_alias=True))))

    def _read(self) -> str | None:
        """Take up the points of an earlier run; return the identity that the tracker had then."""
        identity = None
        for line in self._file.read_text(encoding="utf-8").splitlines() if self._file.is_file() else ():
            with suppress(ValueError):  # cut off
                content = json.loads(line)
                if isinstance(content, dict):
                    identity = content["id"]
                else:
                    self._count(*content)
        return identity

    def _open(self, recipe: Recipe, folder: Path, identity: str | None) -> Any:
        self._id = identity or uuid.uuid4().hex[:12]
        project = os.environ.get("WANDB_PROJECT", "stepwell") if self.name == "wandb" else "stepwell"
        arguments: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
            "tensorboard": (("tensorboard", str(folder)), {}),  # FOLDER/tensorboard
            "wandb": ((project,), {"name": recipe.name, "id": self._id, "resume": "allow", "dir": str(folder)}),
            "trackio": ((project,), {"name": f"{recipe.name}-{self._id}", "resume": "allow"}),
            "mlflow": ((project,), {"run_name": recipe.name, "run_id": identity}),
        }
        given, named = arguments[self.name]
        tracker = LOGGER_TYPE_TO_CLASS[self.name](*given, **named)
        with redirect_stdout(sys.stderr):  # where results belong, some print remarks
            tracker.start()
        return tracker

    def training(self, name: str, key: str, log: TrainingLog, total: int) -> None:
        """Give the points of a training that are new: the means of the loss and its parts."""
        every, start = max(1, math.ceil(total / POINTS)), self._given.get(key, 0)
        first = self._starts.setdefault(key, self._last)
        lists = {"loss": log.losses, **log.parts}
        for stop in range(start + 1, log.steps + 1):
            if stop % every == 0 or stop == total:
                spans = {part: np.mean(values[start:stop]) for part, values in lists.items() if values[start:stop]}
                self._give({f"{name}/{part}": float(mean) for part, mean in spans.items()}, key, stop, first + stop)
                start = stop

    def once(self, key: str, values: Values) -> None:
        """Give the figures of a stage, if it has not had them."""
        if key not in self._given:
            self._give(values, key, 0, self._last)

    def _give(self, values: Values, key: str, step: int, at: int) -> None:
        plain = {_plain(name): value for name, value in values.items() if math.isfinite(value)}
        self._tracker.log(plain, step=at)
        self._write([key, step, at])
        self._count(key, step, at)

    def _count(self, key: str, step: int, at: int) -> None:
        self._given[key], self._last = step, max(self._last, at)
        self._starts.setdefault(key, at - step)

    def _write(self, content: object) -> None:
        with self._file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(content) + "\n")

    def finish(self) -> None:
        """Let the tracker send what it has not sent yet."""
        with redirect_stdout(sys.stderr):
            self._tracker.finish()


class Tracking:
    """All trackers of a run; one that fails is left out from there on, with a warning."""

    def __init__(self) -> None:
        self._followers: list[Follower] = []

    @classmethod
    @contextmanager
    def of(cls, recipe: Recipe, folder: Path) -> Iterator[Self]:
        """Open the recipe's trackers on the main process, and close them at the end."""
        tracking, place = cls(), folder / "tracking"
        if recipe.track and distributed.is_main():
            place.mkdir(parents=True, exist_ok=True)
            for name in recipe.track:
                tracking._start(name, recipe, place)
        try:
            yield tracking
        finally:
            tracking._all(Follower.finish)

    def _start(self, name: str, recipe: Recipe, place: Path) -> None:
        """Open a tracker; one that can't begin is refused, one that had begun before costs a warning."""
        begun = (place / f"{name}.jsonl").is_file()
        try:
            self._followers.append(Follower(name, recipe, place))
        except Exception as error:  # whatever a package of others raises
            if not begun:
                raise StepwellError(
                    f"track: {name} can't begin ({_said(error)}). Nothing has been done yet: mend that (a login, an "
                    "address), or take it out of `track`."
                ) from error
            warn(f"the tracker {name} can't go on, and this run goes on without it ({_said(error)}).")

    def training(self, stage: str, folder: Path) -> Follow:
        """Return what a training in a stage's folder is followed by."""
        key, name = _key(folder), stage if folder.name != "imitation" else f"{stage}/imitation"

        def follow(log: TrainingLog, total: int) -> None:
            self._all(lambda one: one.training(name, key, log, total))

        return follow

    def stage(self, name: str, kind: str, folder: Path, collection: Collection) -> None:
        """Give what a finished stage left, as far as a tracker has not had it: losses, dev figures, a decision."""
        if not self._followers:
            return
        for place in (folder / "imitation", folder):
            if (place / Training.file).is_file():
                log = Training.load(place).log
                self.training(name, place)(log, log.steps)
        if values := _figures(name, kind, folder, collection):
            self._all(lambda one: one.once(_key(folder), values))

    def _all(self, do: Callable[[Follower], None]) -> None:
        for one in list(self._followers):
            try:
                do(one)
            except Exception as error:  # whatever a package of others raises
                self._followers.remove(one)
                warn(
                    f"the tracker {one.name} failed, and this run goes on without it ({_said(error)}). Started again, "
                    "the same command gives it what it missed."
                )


def _figures(name: str, kind: str, folder: Path, collection: Collection) -> Values:
    """Return the dev figures or the decision of a finished stage; the student's are one series over all rungs."""
    if kind == "search-dev":
        model = name.removesuffix(".dev")
        series = "dev" if model == "start" or model.startswith("rung-") else f"{model}/dev"
        evaluation = Evaluation.load(folder / "evaluation.parquet", collection)
        return {f"{series}/{measure}": evaluation.mean(measure) for measure in evaluation.values}
    if kind not in DECISIONS:
        return {}
    decision = DECISIONS[kind].load(folder)
    values = {
        f"{name}/{key}": float(value) for key, value in asdict(decision).items() if isinstance(value, int | float)
    }
    if isinstance(decision, Promotion):
        values[f"{name}/promoted"] = float(decision.student == name.replace("promote", "rung"))
    return values


def _key(folder: Path) -> str:
    """Return the name of a stage's folder, finished or not."""
    own = folder.name.removesuffix(".partial")
    return f"{_key(folder.parent)}/{own}" if own == "imitation" else own


def _flat(value: Any, place: str = "") -> Iterator[tuple[str, str | int | float | bool]]:
    """Yield what a recipe says, by place: (``student.layers``, 2)."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in inner:
        yield from _flat(one, f"{place}.{key}" if place else str(key))
    if isinstance(value, str | int | float):
        yield place, value


def _plain(name: str) -> str:
    """Return a name that all trackers take.

    >>> _plain("dev/nDCG@10"), _plain("dev/RR(rel=2)@10")
    ('dev/nDCG_at_10', 'dev/RR_rel_2__at_10')
    """
    return re.sub(r"[^\w./-]", "_", name.replace("@", "_at_"))


def _said(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
