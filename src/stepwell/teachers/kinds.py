"""What every kind of teacher answers before it is open: its stage, inputs, cost; and what it is opened with."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, NamedTuple, TypeVar

from stepwell.collection import Collection
from stepwell.display import SILENT, Progress
from stepwell.errors import RecipeError
from stepwell.files import write_json
from stepwell.models.tokens import Side
from stepwell.recipe import TokensSection, teachers as sections
from stepwell.teachers.embeddings import Bill
from stepwell.teachers.protocol import LogOdds, Rows, Scores, Teacher
from stepwell.teachers.scoring import Stored

Folders = Mapping[str, Path]  # of the stages that :meth:`Kind.inputs` names
Section = TypeVar("Section", bound=sections.AnyTeacher)


class Texts(NamedTuple):
    """What a teacher reads: a collection, how many tokens of each text; and where it keeps its scores."""

    collection: Collection
    tokens: TokensSection
    store_root: Path


class Lot(NamedTuple):
    """Texts that are embedded as one side: how many, and those from a place to another (exclusive)."""

    side: Side
    size: int
    slice: Callable[[int, int], list[str]]


def queries_of(collection: Collection, query_rows: Rows) -> Lot:
    """Return some of a collection's queries."""
    return Lot("query", len(query_rows), lambda start, stop: collection.query_texts(query_rows[start:stop]))


class Making(NamedTuple):
    """What a teacher without a model is made from, in a stage's folder."""

    folder: Path
    collection: Collection
    settings: Mapping[str, Any]
    query_rows: Rows  # (Q,), sorted: the queries that the run uses
    progress: Progress = SILENT
    unlabelled: Rows | None = None  # (U,), sorted: those of them that no split judges


class Reads(NamedTuple):
    """A model that reads all of a query's candidates: as pairs with it, or each text alone."""

    base: str
    layers: int | None
    what: Literal["pairs", "texts"]


class Cost(NamedTuple):
    """What scoring takes: models that read, rounds of requests to a server, pairs that are kept."""

    reads: tuple[Reads, ...] = ()
    rounds: float = 0.0
    kept: float = 0.0


@dataclass(frozen=True)
class Kind(Generic[Section]):
    """A teacher that is not open yet. What differs from kind to kind is here, and the rest of the code asks for it."""

    name: str
    section: Section
    teachers: Mapping[str, sections.AnyTeacher]  # all of the recipe, by name

    model: ClassVar[Literal["dense", "reranker", "late"] | None] = None  # what a stage takes as it is or trains
    cut_by: ClassVar[tuple[str, ...]] = ()  # settings in `tokens` that the model depends on
    stage: ClassVar[str] = "name-teacher"  # how a stage makes it where there is no model
    titled: ClassVar[str] = "{}"  # what that stage is called, of its name and those of its parts

    @property
    def parts(self) -> "tuple[Kind[Any], ...]":
        """The teachers that it is made of; none of most."""
        return ()

    @property
    def missing(self) -> tuple[sections.Missing, ...]:
        """What is to become of pairs without a score, by the recipe; empty where every pair has one."""
        own = getattr(self.section, "missing", None)
        return (own,) if own else tuple(choice for part in self.parts for choice in part.missing)

    def inputs(self) -> tuple[str, ...]:
        """Return the stages whose folders :meth:`open` reads; the first is its own."""
        return (f"teacher.{self.name}", *(stage for part in self.parts for stage in part.inputs()))

    def settings(self) -> dict[str, Any]:
        """Return what :meth:`make` depends on."""
        return self.section.model_dump()

    def width(self) -> int | None:
        """Return the width of its vectors; None where it is not known, or has none."""
        return None

    def rounds(self, texts: int) -> float:
        """Return the rounds of requests that the vectors of so many texts take."""
        return 0.0

    def lots(self, collection: Collection, query_rows: Rows) -> list[Lot]:
        """Return the texts of a collection that it embeds: all passages, and some queries."""
        passages = Lot("document", collection.n_passages, collection.passages_slice)
        return [passages, queries_of(collection, query_rows)]

    def bill(self, lots: Sequence[Lot]) -> Bill | None:
        """Return what having texts embedded costs beyond this machine, where it does."""
        return None

    def make(self, job: Making) -> None:
        """Write what :meth:`open` reads into a stage's folder, where there is no model."""
        write_json(job.folder / "teacher.json", self.section.model_dump())

    def cost(self, queries: float, k: int) -> Cost:
        """Return what the scores of K candidates of so many queries take when none of them is there yet."""
        costs = [part.cost(queries, k) for part in self.parts]
        reads = tuple(model for cost in costs for model in cost.reads)
        return Cost(reads, sum(cost.rounds for cost in costs), sum(cost.kept for cost in costs))

    def taken(self) -> Section:
        """Return the section of a model that is taken as it is; refuse one that a ladder trains."""
        if getattr(self.section, "train", None) is not None:
            raise RecipeError(
                f"the teacher {self.name!r} is trained by the ladder, so the recipe alone does not give its weights: "
                "run the recipe, and name the model that results.json of the run lists as the stage "
                f"teacher.{self.name}, without a recipe."
            )
        return self.section

    def stored(self, texts: Texts, folders: Folders | None = None) -> Stored:
        """Open it as a teacher that scores any pair and keeps the score; refuse what can't, or is yet to be trained."""
        parts = ", ".join(part.name for part in self.parts)
        raise RecipeError(
            f"the teacher {self.name!r} is of the kind {self.section.kind}, which scores no pair by itself: "
            f"`score` needs a model, or a server that re-ranks. Score with {parts or 'another teacher'} instead."
        )

    def open(self, texts: Texts, folders: Folders | None = None) -> Teacher:
        """Open it: as the ladder left it in ``folders``, or outside of a ladder when None."""
        return self.logits_of(self.stored(texts, folders))

    def logits_of(self, teacher: Teacher) -> Teacher:
        """Return a teacher's logits where the recipe says that it gives probabilities, and the teacher itself else."""
        return LogOdds(teacher, self.name) if getattr(self.section, "logit", False) else teacher

    @property
    def together(self) -> sections.Together | None:
        """What a training makes of several teachers' scores where :meth:`targets` gives all of them."""
        return getattr(self.section, "together", None)

    def targets(self, teacher: Teacher, queries: Rows, candidates: Rows, progress: Progress = SILENT) -> Scores:
        """Return what a student learns from the open teacher: (Q, K), or (T, Q, K) where one of T counts a query."""
        return teacher.score(queries, candidates, progress)
