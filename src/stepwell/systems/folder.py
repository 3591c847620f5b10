"""The one reader of a run's folder, finished or not; reading never changes it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self, TypeVar

import yaml

from stepwell.collection import Collection, open_collection
from stepwell.errors import RunError, StepwellError
from stepwell.recipe import Recipe
from stepwell.recipe.yaml_file import load_recipe
from stepwell.retrieval.vectors import Vectors
from stepwell.systems.records import Choice, Manifest, Record, Results

SEARCHED = "search.vectors"
"""The stage with the vectors to search in fp32, of runs whose others are in bf16."""

_TAILS = (".vectors", ".train", ".dev", ".test")
"""What a stage's name ends with that encodes with a model, or searches with its vectors."""

R = TypeVar("R", bound=Record)


def real_name(name: str, student_after: Callable[[str], str]) -> str:
    """Return the stage behind a name: ``student@3.dev`` is the dev stage of the student that goes on after rung 3.

    ``best@NAME`` is whichever of the trainings ``NAME@1``, ``NAME@2`` has the best rate. ``student_after`` returns the
    stage of that model, by the name of the stage that decides it (``promote-3``, ``rate-NAME``).

    >>> [real_name(name, {"promote-3": "rung-2"}.__getitem__) for name in ("student@3.dev", "student@0", "rung-1.dev")]
    ['rung-2.dev', 'start', 'rung-1.dev']
    >>> [real_name(f"best@to-ce-0.6b{end}", {"rate-to-ce-0.6b": "to-ce-0.6b@2"}.__getitem__) for end in ("", ".test")]
    ['to-ce-0.6b@2', 'to-ce-0.6b@2.test']
    """
    if name.startswith("best@"):
        model = name.removeprefix("best@")
        tail = next((tail for tail in _TAILS if model.endswith(tail)), "")  # a teacher's name may have a dot
        return student_after(f"rate-{model.removesuffix(tail)}") + tail
    head, dot, tail = name.partition(".")
    if not head.startswith("student@"):
        return name
    number = head.partition("@")[2]
    return ("start" if number == "0" else student_after(f"promote-{number}")) + dot + tail


@dataclass(frozen=True)
class StageFolder:
    """A finished stage: its folder and how it was made."""

    folder: Path
    manifest: Manifest

    @property
    def name(self) -> str:
        """The stage's name when it was made."""
        return self.manifest.name

    @property
    def kind(self) -> str:
        """What was done."""
        return self.manifest.kind

    @property
    def title(self) -> str:
        """What was printed when it began."""
        return self.manifest.title or self.name

    def read(self, kind: type[R], part: str = "") -> R | None:
        """Return what it left of a kind, perhaps in a part of its folder; None where nothing can be read."""
        return _load(kind, self.folder / part)


def _load(kind: type[R], folder: Path) -> R | None:
    try:
        return kind.load(folder)
    except (OSError, ValueError):
        return None


class RunFolder:
    """What lies in the folder of a run."""

    def __init__(self, place: Path) -> None:
        self.place, self.model = place, place / "model"

    @classmethod
    def finished(cls, place: Path, then: str) -> Self | None:
        """Return the finished run in a folder, None where there is none; ``then``: what to do once it is finished."""
        if not (place / Results.file).is_file():
            if (place / "stages").is_dir():
                raise RunError(f"the run in {place} is not finished: go on with `stepwell run`, then {then}.")
            return None
        run = cls(place)
        _ = run.results  # a damaged file is said now
        return run

    @cached_property
    def results(self) -> Results:
        """What the finished run says."""
        try:
            return Results.load(self.place)
        except (OSError, ValueError) as error:
            raise RunError(
                f"can't read {self.place / Results.file} ({error}): run `stepwell run` again, it repairs it."
            ) from error

    @cached_property
    def is_finished(self) -> bool:
        """Whether there are results that can be read."""
        try:
            return bool(self.results)
        except StepwellError:
            return False

    # -- the recipe and the collection ---------------------------------------------------------------------

    @cached_property
    def recipe_text(self) -> str:
        """The recipe as it lies there; empty when it can't be read."""
        try:
            return (self.place / "recipe.yaml").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""

    @cached_property
    def recipe_values(self) -> dict[str, Any]:
        """The recipe as plain values, also of another version; empty when it can't be read."""
        try:
            content = yaml.safe_load(self.recipe_text)
        except yaml.YAMLError:
            content = None
        return content if isinstance(content, dict) else {}

    def load_recipe(self) -> Recipe:
        """Read and check the recipe."""
        return load_recipe(self.place / "recipe.yaml")

    def open_collection(self) -> Collection:
        """Open the collection that the finished run was made from."""
        place = self.results.collection["path"]
        if Path(place).is_absolute() and not Path(place).exists():
            raise RunError(
                f"the collection that the run was made from is not at {place} any more: say where it is now with "
                "--collection."
            )
        return open_collection(place)

    def is_over(self, collection: Collection) -> bool:
        """Whether a collection is what the finished run was made from, wherever it lies."""
        return self.results.collection["fingerprint"] == collection.fingerprint

    # -- the stages of a finished run ----------------------------------------------------------------------

    def folder_of(self, stage: str) -> Path:
        """Return the folder of a stage of the finished run, which may have been deleted since."""
        return self.place / self.results.stages[stage]

    def student_vectors(self) -> Vectors | None:
        """Return the vectors of all texts under the final student, None where they were deleted."""
        kept = self.folder_of(f"{self.results.final}.vectors")
        return Vectors.open(kept) if kept.is_dir() else None

    # -- the stages of any run -----------------------------------------------------------------------------

    @property
    def begun(self) -> list[str]:
        """The stages that were begun and are not finished."""
        return sorted(path.name.removesuffix(".partial") for path in (self.place / "stages").glob("*.partial"))

    @cached_property
    def stages(self) -> list[StageFolder]:
        """The finished stages by the second in which they were finished, and those of one second with inputs first."""
        known = [StageFolder(folder, manifest) for folder, manifest in self._manifests.items() if manifest]
        made_from = {stage.manifest.key: list(stage.manifest.inputs.values()) for stage in known}
        depths: dict[str, int] = {}

        def depth(key: str) -> int:
            if key not in depths:
                depths[key] = 0  # ends a circle, which only a damaged manifest can have
                depths[key] = 1 + max((depth(source) for source in made_from.get(key, ())), default=0)
            return depths[key]

        return sorted(known, key=lambda stage: (stage.manifest.finished, depth(stage.manifest.key)))

    @property
    def unreadable(self) -> list[str]:
        """The folders of stages whose manifest can't be read."""
        return [folder.name for folder, manifest in self._manifests.items() if manifest is None]

    @cached_property
    def _manifests(self) -> dict[Path, Manifest | None]:
        folders = sorted(path for path in (self.place / "stages").glob("*") if path.is_dir())
        return {path: _load(Manifest, path) for path in folders if "." not in path.name}  # else half done, or damaged

    @cached_property
    def _by_key(self) -> dict[str, StageFolder]:
        return {stage.folder.name.rpartition("-")[2]: stage for stage in self.stages}

    @cached_property
    def _by_name(self) -> dict[str, StageFolder]:
        names = self.results.stages.items() if self.is_finished else ()
        found = {name: self._by_key.get(folder.rpartition("-")[2]) for name, folder in names}
        own = {stage.name: stage for stage in self.stages}
        return own | {name: stage for name, stage in found.items() if stage is not None}

    def named(self, name: str) -> StageFolder | None:
        """Return the finished stage of a name; ``student@2`` is the one that goes on after rung 2."""
        if name in self._by_name:
            return self._by_name[name]

        def student_after(promotion: str) -> str:
            decision = self.read(promotion, Choice)
            return decision.student if decision else "nobody yet"

        return self._by_name.get(real_name(name, student_after))

    def read(self, name: str, kind: type[R]) -> R | None:
        """Return what the stage of a name left of a kind, None when it is not there."""
        stage = self._by_name.get(name)
        return stage.read(kind) if stage else None

    def inputs(self, stage: StageFolder) -> dict[str, StageFolder]:
        """Return the finished stages that a stage was made from, by the names it has for them."""
        found = {name: self._by_key.get(key[:16]) for name, key in stage.manifest.inputs.items()}
        return {name: source for name, source in found.items() if source is not None}
