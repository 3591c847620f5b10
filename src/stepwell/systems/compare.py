"""Systems judged on the same queries: the figures of one, or several side by side."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from stepwell.collection import Collection
from stepwell.display import Cell, Table
from stepwell.evaluation import Comparison, Evaluation, bootstrap_interval, wins_and_losses
from stepwell.evaluation import compare as compare_evaluations
from stepwell.systems.queries import judge_systems


class Figure(NamedTuple):
    """The mean of a measure over the queries, and the bounds of its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Evaluated:
    """One system's figures on the queries of a split."""

    system: str  # as it was named
    collection: Collection  # what it was judged on
    split: str  # what it was judged on
    evaluation: Evaluation  # one value a query and measure

    def figures(self) -> dict[str, Figure]:
        """Return the mean of each measure with its interval."""
        of = self.evaluation
        return {m: Figure(of.mean(m), *bootstrap_interval(of.of(m), seed=0)) for m in of.values}

    def table(self) -> Table:
        """Return the figures as a table."""
        note = f"{len(self.evaluation.queries):,} queries; low and high bound the 95 % bootstrap interval."
        rows = [(measure, *figure) for measure, figure in self.figures().items()]
        return Table(f"{self.system} on {self.split}", ["measure", "mean", "low", "high"], rows, (note,))

    def to_json(self) -> dict[str, dict[str, float]]:
        """Return the figures as plain values."""
        return {measure: figure._asdict() for measure, figure in self.figures().items()}


@dataclass(frozen=True)
class Difference:
    """A query, and the first system's value minus the other's."""

    query_id: str
    query: str
    difference: float


@dataclass(frozen=True)
class Contest:
    """The queries that the first system wins and loses most against another one, the largest difference first."""

    system: str
    measure: str
    won: tuple[Difference, ...]
    lost: tuple[Difference, ...]


@dataclass(frozen=True)
class Compared:
    """Systems side by side on the queries of a split, each compared with the first."""

    comparison: Comparison  # means, intervals, tests
    collection: Collection  # what they were judged on
    split: str  # what they were judged on
    evaluations: Mapping[str, Evaluation]  # by system: one value a query and measure

    def contests(self, most: int = 5, measure: str = "nDCG@10") -> list[Contest]:
        """Return the queries that the first system wins and loses most against each other one."""
        first, *others = self.evaluations
        return [
            Contest(other, measure, *map(self._differences, wins_and_losses(*pair, measure, most)))
            for other in others
            for pair in [(self.evaluations[first], self.evaluations[other])]
        ]

    def _differences(self, found: Sequence[tuple[int, float]]) -> tuple[Difference, ...]:
        rows = [row for row, _ in found]
        ids, texts = [self.collection.query_ids[row] for row in rows], self.collection.query_texts(rows)
        return tuple(Difference(name, text, delta) for name, text, (_, delta) in zip(ids, texts, found, strict=True))

    def tables(self, most: int = 5) -> list[Table]:
        """Return the comparison, and the queries won and lost against each other system, as tables."""
        found = [self.comparison.table(f"{self.collection.name}, {self.split}")]
        for contest in self.contests(most):
            rows: list[list[Cell]] = [[f"{of.difference:+.3f}", of.query[:100]] for of in contest.won + contest.lost]
            if rows:
                title = f"{self.comparison.reference} against {contest.system}: won and lost most ({contest.measure})"
                found.append(Table(title, ["difference", "query"], rows))
        return found

    def to_json(self, most: int = 5) -> dict[str, Any]:
        """Return the comparison and the queries won and lost as plain values."""
        return {**self.comparison.to_json(), "won_and_lost": [asdict(contest) for contest in self.contests(most)]}


def evaluate(
    system: str | Path, collection: str | Path | None = None, split: str | None = None, depth: int | None = None
) -> Evaluated:
    """Evaluate a finished run's student, a model directory, a TREC run file or ``bm25``.

    Parameters
    ----------
    system
        What is evaluated.
    collection
        What is searched; that of the run when None.
    split
        Whose queries. None: those of the final table of a run, anything else on ``test``.
    depth
        Passages retrieved a query; when None as many as in the run's table, else 100.

    Raises
    ------
    StepwellError
        When the system is none of these, or the collection is not known.
    """
    on, evaluations = judge_systems([str(system)], collection, split, depth)
    return Evaluated(str(system), on.collection, on.name, evaluations[str(system)])


def evaluate_system(
    system: str | Path, collection: str | Path | None = None, split: str | None = None, depth: int | None = None
) -> tuple[Evaluation, Collection]:
    """Return the values and the collection of :func:`evaluate`."""
    found = evaluate(system, collection, split, depth)
    return found.evaluation, found.collection


def compare(
    systems: Sequence[str | Path],
    collection: str | Path | None = None,
    split: str | None = None,
    depth: int | None = None,
) -> Compared:
    """Compare systems on the same queries, each with the first (paired tests, Holm-corrected).

    Parameters are as for :func:`evaluate`. Without a ``split`` the queries are those of the runs' final tables, where
    there is a run, else those of ``test``.

    Raises
    ------
    StepwellError
        When a system is named twice, or the runs' tables are not over the same queries of one collection.
    """
    on, evaluations = judge_systems([str(system) for system in systems], collection, split, depth)
    return Compared(compare_evaluations(evaluations, str(systems[0])), on.collection, on.name, evaluations)
