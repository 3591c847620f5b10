"""A stage: what is done, from which settings and inputs; and what all stages of a run are made from, and may read."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from stepwell import distributed
from stepwell.collection import Collection, Splits
from stepwell.collection.unlabelled import Unlabelled, open_unlabelled
from stepwell.display import SILENT, Progress, Table
from stepwell.distil.candidates import Candidates
from stepwell.evaluation import Evaluation
from stepwell.ladder.prices import Prices, Work
from stepwell.ladder.tracking import Tracking
from stepwell.models.encoder import Encoder
from stepwell.recipe import AnyTeacher, Recipe, Rung, Side, TokensSection
from stepwell.retrieval.run import Run
from stepwell.retrieval.vectors import Vectors
from stepwell.systems.records import Record
from stepwell.teachers.embeddings import Bill
from stepwell.teachers.kinds import Kind, Texts
from stepwell.teachers.opening import kind_of
from stepwell.teachers.protocol import Teacher

S = TypeVar("S", bound=BaseModel)

PARTS = (
    *("train", "train_rows", "dev", "test", "query_rows"),
    *("unlabelled", "held_out", "held_out_of", "synthetic", "tested"),
)
"""Parts of the splits that a running stage may read where it says so, so that its key holds them."""


@dataclass
class Surroundings:
    """What stages may read beside their settings and inputs; of seed and splits what they say, see :class:`Seen`.

    Texts from elsewhere are found by what is in them, which is what keys hold. The teachers' sections are here for how
    a teacher is opened (where its file lies, how many requests at a time); what its scores depend on is in the key of
    the stage ``teacher.NAME``.
    """

    collection: Collection
    splits: Splits
    seed: int
    store_root: Path
    teachers: dict[str, AnyTeacher]
    tokens: TokensSection
    texts: dict[str, Unlabelled] = field(default_factory=dict)  # texts from elsewhere, by fingerprint
    tracking: Tracking = field(default_factory=Tracking)  # what follows the run, and changes nothing of it

    @property
    def query_rows(self) -> NDArray[np.int32]:
        """All queries that the run uses: train, dev and test, and those without labels where it uses them."""
        return self.splits.query_rows

    @property
    def dev_name(self) -> str:
        """What dev is called where its figures are shown."""
        return "synthetic dev" if self.splits.synthetic.get("dev") else "dev"


FREE = frozenset({"collection", "splits", "store_root", "teachers", "tokens", "texts", "tracking"})
"""What any stage may read of its surroundings: it is in all keys, or in other stages', or changes nothing."""


class Seen:
    """The surroundings as one stage sees them: seed and parts of the splits that it does not say it reads raise."""

    def __init__(self, whole: Any, stage: str, free: frozenset[str]) -> None:
        self._whole, self._stage, self._free = whole, stage, free

    @classmethod
    def by(cls, stage: "Stage", surroundings: Surroundings) -> Surroundings:
        """Return the surroundings as a stage sees them."""
        return cast(Surroundings, cls(surroundings, stage.name, FREE.union(stage.reads)))

    def __getattr__(self, name: str) -> Any:
        if name not in self._free:
            raise KeyError(f"the stage {self._stage} reads {name!r}, which is not in its `reads`, so not in its key")
        found = getattr(self._whole, name)
        return Seen(found, self._stage, self._free - FREE) if name == "splits" else found


@dataclass
class Context:
    """A recipe with its collection and splits opened, for whoever makes stages of it."""

    recipe: Recipe
    collection: Collection
    splits: Splits
    store_root: Path

    def __post_init__(self) -> None:
        self.surroundings = Surroundings(
            self.collection, self.splits, self.recipe.seed, self.store_root, self.recipe.teachers, self.recipe.tokens
        )

    def more(self, rung: Rung) -> dict[Side, Unlabelled]:
        """Open the texts from elsewhere that an embedding rung learns from too, by what they are embedded as."""
        if rung.loss != "embedding":
            return {}
        found = {side: open_unlabelled(path) for side, path in rung.more.items()}
        self.surroundings.texts |= {texts.fingerprint: texts for texts in found.values()}
        return found


class Settings(dict[str, Any]):
    """The settings of one stage, which its key is made from; anything else of a recipe is out of its reach."""

    def __init__(self, stage: str, values: Mapping[str, Any]) -> None:
        super().__init__(values)
        self._stage = stage

    def __missing__(self, name: str) -> Any:
        raise KeyError(f"the stage {self._stage} reads {name!r}, which is not in its settings, so not in its key")

    def part(self, name: str) -> "Settings":
        """Return the settings under a name."""
        return Settings(f"{self._stage} ({name})", self[name])

    def read(self, section: type[S], **changes: Any) -> S:
        """Return settings, and what only the running stage knows, as a section; a field that they lack is not read."""
        own = {name: value for name, value in {**self, **changes}.items() if name in section.model_fields}
        found = section.model_validate(own)
        for name in section.model_fields.keys() - own.keys():
            del found.__dict__[name]  # the default would be a setting that no key holds
        return found


@dataclass
class Job:
    """What a running stage is given."""

    stage: str  # its name
    settings: Settings
    inputs: dict[str, Path]  # the folder of each input, by its role
    folder: Path  # where it writes, and nowhere else
    surroundings: Surroundings
    names: dict[str, str] = field(default_factory=dict)  # the stage behind each input, such as `start` or `rung-1`
    progress: Progress = SILENT

    def encoder(self, role: str, scale: float | None = None) -> Encoder:
        """Open the dual encoder that the stage of a role left."""
        return Encoder.open(self.inputs[role] / "model", scale)

    def vectors(self, role: str) -> Vectors | None:
        """Map the vectors that the stage of a role left; None where there is no such input."""
        return Vectors.open(self.inputs[role]) if role in self.inputs else None

    def candidates(self, role: str = "candidates") -> Candidates:
        """Read the candidates that the stage of a role mined."""
        return Candidates.load(self.inputs[role] / "candidates.parquet", self.surroundings.collection)

    def training_run(self, role: str) -> Run:
        """Read the lists of the training queries that the stage of a role found."""
        return Run.load(self.inputs[role] / "train.parquet", self.surroundings.collection)

    def run(self, role: str) -> Run:
        """Read the lists of dev or test that the stage of a role found."""
        return Run.load(self.inputs[role] / "run.parquet", self.surroundings.collection)

    def evaluation(self, role: str) -> Evaluation:
        """Read the figures that the stage of a role left."""
        return Evaluation.load(self.inputs[role] / "evaluation.parquet", self.surroundings.collection)

    def kind(self, role: str = "teacher") -> Kind[Any]:
        """Return the teacher behind a role, not open yet."""
        name = self.names[role].removeprefix("teacher.").removesuffix(".vectors")
        return kind_of(name, self.surroundings.teachers)

    def teacher(self, role: str = "teacher") -> Teacher:
        """Open the teacher behind a role."""
        around, folders = self.surroundings, {self.names[role]: folder for role, folder in self.inputs.items()}
        return self.kind(role).open(Texts(around.collection, around.tokens, around.store_root), folders)

    def leave(self, record: Record) -> None:
        """Write a record into the folder, on the main process."""
        if distributed.is_main():
            record.save(self.folder)


Says = Callable[[Path, Surroundings], Iterable[str | Table]]
"""Gives what is printed when a stage is finished, from its folder."""


def say_nothing(folder: Path, surroundings: Surroundings) -> Iterable[str | Table]:
    """Say nothing: for stages that only prepare."""
    return ()


def recorded(kind: type[Record]) -> Says:
    """Return what prints the line of a record that a stage leaves, where there is one."""

    def says(folder: Path, surroundings: Surroundings) -> Iterable[str]:
        line = kind.load(folder).line(surroundings.dev_name) if (folder / kind.file).is_file() else None
        return () if line is None else (line,)

    return says


@dataclass(frozen=True)
class Stage:
    """A pure function of settings and inputs to files in a folder of its own."""

    name: str  # unique in a ladder
    kind: str  # what is done; part of the folder's name
    title: str  # one line for the screen
    settings: Mapping[str, Any]  # all of the recipe that it depends on, as plain JSON values
    inputs: Mapping[str, str]  # the stages whose folders it reads, by role; `student@2` is whichever rung 2 promoted
    run: Callable[[Job], None]  # a plain function of a module, so that it can't hold a recipe
    reads: tuple[str, ...] = field(default=(), kw_only=True)  # `seed` and PARTS of the splits; no others are given
    says: Says = say_nothing  # what it found, from its folder
    cost: Callable[[Prices], Work] = lambda prices: Work()
    bill: Callable[[], Bill | None] = lambda: None  # what it sends elsewhere and what that costs, as things are now
    collective: bool = True  # all processes take part (training, encoding, scoring), or the main one alone
    optional: Mapping[str, str] = field(default_factory=dict)  # inputs that may be missing: their stage was left out
    named: bool = False  # the key also depends on which stages the inputs are: for decisions, which name a stage
    by_content: bool = False  # what follows depends on what it wrote alone, and not on how it came to write that
    only_if: tuple[str, ...] | None = None  # stages whose decision `go` must be true; None: those of the part it is in
