"""What the stages of a run leave in their folders: one class for each JSON file, which alone knows the file's name."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Self, cast

from pydantic import TypeAdapter, ValidationError

from stepwell.display import Cell, Table
from stepwell.distil.negatives import MiningReport
from stepwell.distil.refine import RANK_GROUPS
from stepwell.distil.training import TrainingLog
from stepwell.evaluation import Comparison
from stepwell.evaluation.comparison import Interval, bounded
from stepwell.files import read_json, write_json, write_text
from stepwell.recipe import Together
from stepwell.teachers.spread import Histogram, Spread


@dataclass(frozen=True)
class Record:
    """The content of a JSON file in a folder. Keys of other versions are passed over when it is read."""

    file: ClassVar[str]
    inner: ClassVar[str | None] = None  # the one field that is the whole content
    said: ClassVar[str] = ""  # what is printed when the stage is finished, with the fields in braces
    by_name: ClassVar[bool] = True  # keys in the file are sorted; else they stand in the order of the fields

    def to_json(self) -> Any:
        """Return the content of the file as plain values."""
        content = asdict(self)
        return content if self.inner is None else content[self.inner]

    def save(self, folder: Path) -> None:
        """Write the file into a folder, whole or not at all."""
        if self.by_name:
            write_json(folder / self.file, self.to_json())
        else:
            write_text(folder / self.file, json.dumps(self.to_json(), indent=1))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read the file from a folder; OSError where there is none, ValueError where it is damaged."""
        content, kind = read_json(folder / cls.file), cast(Any, cls)
        try:
            return cast(Self, _adapter(kind).validate_python(content if cls.inner is None else {cls.inner: content}))
        except ValidationError as error:
            wrong = error.errors()[0]
            raise ValueError(f"{'.'.join(map(str, wrong['loc']))}: {wrong['msg']}".removeprefix(": ")) from None

    def line(self, dev: str = "dev") -> str | None:
        """Return what is printed when the stage is finished; ``dev`` is what its dev queries are called."""
        return self.said.format(**vars(self)) or None


@cache
def _adapter(kind: type[Any]) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


@dataclass(frozen=True)
class Decision(Record):
    """Whether the stages that wait for a decision are done: what all decisions have."""

    file = "decision.json"
    go: bool


@dataclass(frozen=True)
class Headroom(Decision):
    """Whether a teacher is ahead of the student on dev; ``teacher`` is None where it has scores of no dev query."""

    measure: str
    student: float
    teacher: float | None = None
    headroom: float | None = None
    queries: int = 0
    forced: bool = False  # not ahead, and climbed all the same
    interval: Interval | None = None  # of the headroom: 95 %, bootstrap over the queries

    def line(self, dev: str = "dev") -> str:
        """Return what is printed."""
        if self.teacher is None:
            return "the teacher has scores of no dev query, so its headroom is not known; climb"
        verdict = "climb" if self.go else "no headroom: the rung is left out (force: true would climb it all the same)"
        if self.forced:
            verdict = "no headroom, but the recipe says force"
        return (
            f"{self.measure} on {self.queries} {dev} queries: student {self.student:.3f}, "
            f"teacher {self.teacher:.3f}, headroom {_gap(self.headroom or 0.0, self.interval)}; {verdict}"
        )


@dataclass(frozen=True)
class Choice(Decision):
    """A decision for one of several models."""

    student: str  # the stage of the model to go on with
    measure: str


@dataclass(frozen=True)
class Promotion(Choice):
    """Which student goes on after a rung (``go``: dev got better); ``after`` and ``p`` are None without the rung."""

    before: float
    after: float | None = None
    p: float | None = None
    interval: Interval | None = None  # of after minus before: 95 %, bootstrap over the queries
    seen: float | None = None  # the loss that these queries show with a chance of 80 %
    queries: int = 0

    def line(self, dev: str = "dev") -> str:
        """Return what is printed."""
        if self.after is None or self.p is None:
            return f"the rung was left out; {self.student} goes on"
        p = "p < 0.001" if self.p < 0.001 else f"p = {self.p:.3f}"
        gap, figures = _gap(self.after - self.before, self.interval), f"{self.before:.3f} -> {self.after:.3f}"
        return f"{self.measure} on {dev} {figures}, {gap}, {p}; {self.student} goes on{self._blind()}"

    def _blind(self) -> str:
        """Say how small a loss so few queries can't see."""
        if self.seen is None or not self.queries:
            return ""
        return f" ({self.queries:,} queries miss a true loss below {self.seen:.3f} more often than one time in five)"


def _gap(difference: float, interval: Interval | None) -> str:
    return f"{difference:+.3f}" if interval is None else bounded(difference, interval, "+")


@dataclass(frozen=True)
class Rate(Choice):
    """Which learning rate of a baseline is the best on dev; of each training its rate and its dev figure."""

    rates: dict[str, tuple[float, float]]

    def line(self, dev: str = "dev") -> str:
        """Return what is printed."""
        tried = ", ".join(f"{rate:.2g} {figure:.3f}" for rate, figure in self.rates.values())
        return f"{self.measure} on {dev} by learning rate: {tried}; {self.rates[self.student][0]:.2g} is taken"


@dataclass(frozen=True)
class Strongest(Decision):
    """Whether a teacher is the strongest on dev, and which one is; without figures nothing was known of any."""

    teacher: str
    measure: str
    figures: dict[str, float] = field(default_factory=dict)
    queries: int = 0

    def line(self, dev: str = "dev") -> str:
        """Return what is printed."""
        if not self.figures:
            return f"no teacher has scores of {dev} queries: the last one, {self.teacher}, is taken"
        known = ", ".join(f"{name} {figure:.3f}" for name, figure in self.figures.items())
        return f"{self.measure} on {self.queries} {dev} queries: {known}; {self.teacher} is the strongest"


@dataclass(frozen=True)
class Selection(Decision):
    """The training queries of a round of refine; ``funnel``: how many stand at each pair of rank groups."""

    go: bool = False
    rule: str = ""
    queries: int = 0
    asked: int = 0  # those that the teacher had to rank
    selected: int = 0
    selected_queries: list[int] = field(default_factory=list)  # rows
    funnel: list[dict[str, Any]] = field(default_factory=list)
    ranks: str = "qrels"  # whose ranks the rule compared: the first positive's, or by `answers`

    def table(self) -> Table:
        """Return the funnel as a table."""
        heads, rows = funnel_grid(self.funnel)
        note = (
            f"Rule {self.rule}: {self.selected} of {self.queries} queries selected; the teacher was "
            f"asked about {self.asked} (the others can't be selected)."
        )
        first = "passage with an answer" if self.ranks == "answers" else "positive"
        return Table(f"Rank of the first {first}", ["student", *heads], rows, (note,))


def funnel_grid(funnel: list[dict[str, Any]]) -> tuple[list[str], list[list[str | int | float | None]]]:
    """Return the heads of the teacher's rank groups, and a row for each of the student's: its name, the counts."""
    counts = {(row["student"], row["teacher"]): row["queries"] for row in funnel}
    columns = [group for group in (*RANK_GROUPS, "-") if any(teacher == group for _, teacher in counts)]
    rows: list[list[str | int | float | None]] = [
        [student, *(counts.get((student, teacher), 0) for teacher in columns)]
        for student in RANK_GROUPS
        if any(key[0] == student for key in counts)
    ]
    return ["teacher not asked" if column == "-" else f"teacher {column}" for column in columns], rows


@dataclass(frozen=True)
class Outcome(Record):
    """What a round of refine did to the training queries, by the ranks that refine goes by (right: rank 1)."""

    file = "outcome.json"
    said = (
        "of {selected} selected queries {fixed} are fixed (rank 1), {nearer} nearer, {farther} farther; {broken} that "
        "were right are broken; right in all {right_before} -> {right_after}"
    )
    selected: int
    fixed: int
    nearer: int
    farther: int
    broken: int  # of all queries, as the two below
    right_before: int
    right_after: int


@dataclass(frozen=True)
class ScoreFacts(Record):
    """What a teacher's scores of the candidates look like."""

    file = "spread.json"
    said = "standard deviation within a query {spread.mean_std:.2f}; scores from {spread.low:.1f} to {spread.high:.1f}"
    warnings: list[str]
    spread: Spread
    missing: int  # candidates without a score
    left_out: int  # queries that train on nothing for it
    together: Together | None = None  # what a training makes of several teachers' scores, where it is given all


@dataclass(frozen=True)
class TakenScores(Record):
    """What was read from a teacher's file of scores."""

    file = "scores.json"
    said = "{pairs:,} scores; {unknown:,} of them are of texts that the collection has not"
    sha256: str
    kept: int
    pairs: int
    unknown: int


@dataclass(frozen=True)
class TakenVectors(Record):
    """What was read from a teacher's files of vectors."""

    file = "taken.json"
    said = "{vectors:,} vectors; {unknown:,} of them are of texts that the collection has not"
    vectors: int
    unknown: int


@dataclass(frozen=True)
class SentTexts(Record):
    """What a hosted model was sent; ``tokens`` by its own count, 0 where it gives none."""

    file = "taken.json"
    said = "{texts:,} texts sent in {requests:,} requests, {tokens:,} tokens by the server's count"
    texts: int
    requests: int
    tokens: int


@dataclass(frozen=True)
class TeacherScores(Record):
    """How far the scores that a rung learned from lie apart; None where no query has two."""

    file = "teacher_scores.json"
    inner = "histogram"
    histogram: Histogram | None


@dataclass(frozen=True)
class Mining(Record):
    """What mining took and dropped."""

    file = "report.json"
    inner = "report"
    report: MiningReport

    def lines(self, synthetic: int = 0) -> list[str]:
        """Return what is printed when it is finished; ``synthetic`` of the training queries were made from passages."""
        report = self.report
        dropped = ", ".join(f"{reason} {count:,}" for reason, count in report.dropped.items() if count) or "nothing"
        origin = ", ".join(f"{source} {count:,}" for source, count in report.negatives.items() if count) or "none"
        made = f" ({synthetic:,} of the training queries are synthetic)" if synthetic else ""
        return [
            f"{report.queries:,} queries{made}, {report.positives:,} positives; negatives {origin}",
            f"dropped of {report.ranked:,} passages: {dropped}",
            *report.notes,
            *(f"{one.reason}: {one.query[:70]} | dropped: {one.dropped[:90]}" for one in report.examples[:3]),
        ]


@dataclass(frozen=True)
class Training(Record):
    """The log of a training."""

    file = "training.json"
    inner = "log"
    log: TrainingLog

    def line(self, dev: str = "dev") -> str | None:
        """Return what is printed."""
        return self.log.summary() if self.log.steps else None


@dataclass(frozen=True)
class Overlap(Record):
    """How many passages of a teacher's own lists others find among its vectors, on queries that were held out."""

    file = "overlap.json"
    by_name = False
    teacher: str
    queries: int
    held_out_of: str  # what the queries are: test, dev or unlabelled
    systems: Mapping[str, Mapping[str, tuple[float, float, float]]]  # by measure: the mean and its 95 % interval

    def table(self) -> Table:
        """Return the shares as a table."""
        measures = list(next(iter(self.systems.values())))
        rows = [[name, *(bounded(of[m][0], of[m][1:]) for m in measures)] for name, of in self.systems.items()]
        note = (
            f"R@k: share of the first k passages of {self.teacher}, by its own vectors of the query, that the system "
            f"has among its first k; {self.queries:,} queries ({self.held_out_of}) that nothing was trained on, with "
            "95 % bootstrap intervals."
        )
        return Table(f"Overlap with the lists of {self.teacher}", ["system", *measures], rows, (note,))


@dataclass(frozen=True)
class Updates(Decision):
    """The optimiser steps of the ladder and refine, warm-up apart; ``go``: some were taken behind the first rung."""

    steps: int
    of: dict[str, int]

    def line(self, dev: str = "dev") -> str:
        """Return what is printed."""
        alone = "" if self.go else "; only the first rung was climbed, so nothing can go on behind it"
        return f"{self.steps:,} updates{alone}"


@dataclass(frozen=True)
class Trained:
    """How a row of the table was trained."""

    system: str
    start: str  # the student that it began with
    learned: str  # from whom, and by which loss
    updates: int  # optimiser steps behind the start
    texts: int  # that went through the student in them
    lr: float | None = None  # the highest; None for a ladder, whose rungs have their own


@dataclass(frozen=True)
class SystemTable(Record):
    """The table of all systems on the test queries, and the test stage of each by its label."""

    file = "comparison.json"
    inner = "content"
    content: Mapping[str, Any]

    @classmethod
    def of(
        cls, systems: Mapping[str, str], comparison: Comparison, trained: Sequence[Trained] = (), rates: str = ""
    ) -> Self:
        """Return the record of a comparison of stages by label; ``rates``: how learning rates were chosen."""
        more = {"trained": [asdict(row) for row in trained], "rates": [rates] if rates else []}
        return cls({"systems": dict(systems), **comparison.to_json(), **more})

    @property
    def systems(self) -> dict[str, str]:
        """The test stages by label."""
        return dict(self.content["systems"])

    @property
    def trained(self) -> list[Trained]:
        """How the rows were trained that were; runs of earlier versions don't say it."""
        return [Trained(**row) for row in self.content.get("trained", ())]

    def trainings(self) -> Table | None:
        """Return how the rows were trained as a table, None where it compares nothing."""
        if len(self.trained) < 2:
            return None
        rows: list[list[Cell]] = [
            [row.system, row.start, row.learned, row.updates, row.texts, "" if row.lr is None else f"{row.lr:.2g}"]
            for row in self.trained
        ]
        note = "Updates are optimiser steps behind the start; texts went through the student in them, repeats counted."
        heads = ["system", "start", "learned from", "updates", "texts", "lr"]
        return Table("What each row was trained with", heads, rows, (note, *self.content.get("rates", ())))

    @property
    def comparison(self) -> Comparison:
        """The figures."""
        return Comparison.from_json(self.content)


@dataclass(frozen=True, kw_only=True)
class Manifest(Record):
    """How a finished stage was made; what earlier versions of stepwell did not write has a default."""

    file = "manifest.json"
    by_name = False
    name: str  # when it was made: the same work under another name is not done again
    kind: str
    title: str = ""
    key: str
    layout: int = 4  # of what stages write and keys are made from; versions before 0.1.0 did not say it
    settings: Mapping[str, Any] = field(default_factory=dict)
    shared: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, str]  # keys by the names that the stage has for them
    seconds: float | None = None
    finished: str
    versions: Mapping[str, Any] = field(default_factory=dict)
    machine: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)  # sha256 by path


@dataclass(frozen=True, kw_only=True)
class Results(Record):
    """What a finished run says; what earlier versions of stepwell did not write has a default."""

    file = "results.json"
    by_name = False
    name: str = ""
    collection: Mapping[str, str]  # name, path, fingerprint
    synthetic: bool = False
    synthetic_queries: Mapping[str, int] = field(default_factory=dict)
    tested: bool = True  # else the table is over dev: synthetic queries that decided
    final: str  # the stage of the final student
    stages: Mapping[str, str]  # folders by name
    asymmetric: str | None  # the stage of the vectors that the student can search too
    versions: Mapping[str, Any] = field(default_factory=dict)
    machine: Mapping[str, Any] = field(default_factory=dict)
    finished: str | None = None
    comparison: Mapping[str, Any] = field(default_factory=dict)  # as in SystemTable's file
    overlap: Overlap | None = None  # with a teacher's own lists, where its vectors can be searched

    @property
    def table(self) -> SystemTable:
        """The table of all systems on the test queries."""
        return SystemTable(self.comparison)
