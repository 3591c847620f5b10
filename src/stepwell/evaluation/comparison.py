"""Systems side by side: means with intervals, paired differences, and which of them are sure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Self

import numpy as np

from stepwell.display import Cell, Table, counted
from stepwell.errors import RunError, StepwellError
from stepwell.evaluation.measures import Evaluation, measure_name
from stepwell.evaluation.significance import bootstrap_intervals, holm, paired_test

Interval = tuple[float, float]

MEASURES = ("nDCG@10", "RR@10", "R@5", "R@20", "R@100")


@dataclass(frozen=True)
class Row:
    """One system; every mapping is by measure, all values are 0..1. The last three are empty for the reference."""

    name: str
    values: Mapping[str, float]
    interval: Mapping[str, Interval]
    difference: Mapping[str, float] = field(default_factory=dict)  # this system minus the reference, paired by query
    difference_interval: Mapping[str, Interval] = field(default_factory=dict)
    p: Mapping[str, float] = field(default_factory=dict)  # of the paired t-test, Holm-corrected over the systems


@dataclass(frozen=True)
class Comparison:
    """What :func:`compare` found: one row a system, in the order given; the first measure leads the table."""

    reference: str
    measures: tuple[str, ...]
    queries: int
    level: float
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()
    title: str = "Comparison"

    def row(self, name: str) -> Row:
        """Return the row of a system; KeyError when there is none of that name."""
        return {row.name: row for row in self.rows}[name]

    def to_json(self) -> dict[str, object]:
        """Return everything as plain lists, numbers and strings."""
        content = asdict(self)
        return content | {name: list(content[name]) for name in ("measures", "notes", "rows")}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """Return what :meth:`to_json` gave, whatever else stands beside it."""
        rows, measures = tuple(Row(**row) for row in content["rows"]), tuple(content["measures"])
        notes, title = tuple(content.get("notes", ())), content.get("title", "Comparison")
        return cls(content["reference"], measures, content["queries"], content["level"], rows, notes, title)

    def sentence(self, name: str) -> str:
        """Return the difference of a system from the reference in the first measure, as a sentence.

        >>> row = Row("b", {"R@5": 0.6}, {}, {"R@5": 0.1}, {"R@5": (0.05, 0.15)}, {"R@5": 0.004})
        >>> Comparison("a", ("R@5",), 50, 0.95, (row,)).sentence("b")
        'b against a: R@5 +0.100 [+0.050, +0.150], p = 0.004.'
        """
        row, main = self.row(name), self.measures[0]
        p = "< 0.001" if row.p[main] < 0.001 else f"= {row.p[main]:.3f}"
        gap = bounded(row.difference[main], row.difference_interval[main], "+")
        return f"{name} against {self.reference}: {main} {gap}, p {p}."

    def table(self, title: str | None = None) -> Table:
        """Return the table to show: the first measure with intervals and p, the others as means."""
        columns, rows = ["system", *self.columns], [[row.name, *self.cells(row)] for row in self.rows]
        at = [number for number, row in enumerate(self.rows) if row.name == self.reference]
        notes = [f"Means over {self.queries:,} queries, 0 to 1; in brackets {self.level:.0%} bootstrap intervals."]
        if len(self.rows) == 1:  # there is no difference to show
            del columns[2:4], rows[0][2:4]
        else:
            notes.append(
                f"* differs from {self.reference}: p < {1 - self.level:.2g} in the paired t-test, "
                f"Holm-corrected over {counted(len(self.rows) - 1, 'system')} for each measure."
            )
        return Table(title or self.title, columns, rows, [*notes, *self.notes], highlight=at)

    @property
    def columns(self) -> list[str]:
        """The heads over :meth:`cells`."""
        main, *others = self.measures
        return [main, f"minus {self.reference}", "p", *others]

    def cells(self, row: Row, intervals: bool = False) -> list[Cell]:
        """Return the figures of a row, the first measure with its interval; the others with ``intervals`` too."""
        main, *others = self.measures
        cells: list[Cell] = [bounded(row.values[main], row.interval[main]), None, None]
        if row.difference:
            p = "<0.001" if row.p[main] < 0.001 else f"{row.p[main]:.3f}"
            gap = bounded(row.difference[main], row.difference_interval[main], "+")
            cells[1:] = [gap, p + self._mark(row, main)]
        for measure in others:
            value = row.values[measure]
            shown = bounded(value, row.interval[measure]) if intervals else f"{value:.3f}"
            cells.append(shown + self._mark(row, measure))
        return cells

    def _mark(self, row: Row, measure: str) -> str:
        """Return a star or the space that keeps digits under digits."""
        if len(self.rows) == 1:
            return ""
        return "*" if row.p.get(measure, 1.0) < 1 - self.level else " "


def bounded(value: float, interval: Interval, sign: str = "") -> str:
    """Return a value with its interval, as tables have it."""
    low, high = interval
    return f"{value:{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}]"


def compare(
    evaluations: Mapping[str, Evaluation],
    reference: str,
    measures: Sequence[str] | None = None,
    seed: int = 0,
    level: float = 0.95,
) -> Comparison:
    """Compare systems, by their names in the order of the table, with a reference, query by query.

    ``measures`` are those of ``MEASURES`` that the reference was evaluated with, when None. All systems and measures
    share the draws of the bootstrap. A difference is marked when its p-value is below 1 - ``level``.
    """
    _check(evaluations, reference)
    wanted = [name for name in MEASURES if name in evaluations[reference].values] if measures is None else measures
    names, measures = list(evaluations), [measure_name(measure) for measure in wanted]
    values = np.stack([[evaluations[name].of(m) for m in measures] for name in names])  # (S, M, Q)
    home = names.index(reference)
    differences = values - values[home]  # (S, M, Q)
    flat = np.concatenate([values, differences]).reshape(-1, values.shape[2]).T  # (Q, 2 * S * M)
    bounds = np.stack(bootstrap_intervals(flat, seed, level), axis=-1).reshape(2, len(names), len(measures), 2)
    p = np.array([[paired_test(*pair) for pair in zip(v, values[home], strict=True)] for v in values])
    others = [number for number in range(len(names)) if number != home]
    for column in range(len(measures)):
        p[others, column] = holm(p[others, column])

    def named(figures: Iterable[Any]) -> dict[str, Any]:
        return dict(zip(measures, figures, strict=True))

    rows = []
    for number, name in enumerate(names):
        mean, gap = (named(part[number].mean(axis=-1).tolist()) for part in (values, differences))
        interval, gap_interval = (named(map(tuple, part[number].tolist())) for part in bounds)
        against = () if number == home else (gap, gap_interval, named(p[number].tolist()))
        rows.append(Row(name, mean, interval, *against))
    return Comparison(reference, tuple(measures), values.shape[2], level, tuple(rows))


def wins_and_losses(
    a: Evaluation, b: Evaluation, measure: str, n: int
) -> tuple[list[tuple[int, float]], list[tuple[int, float]]]:
    """Return the n queries that ``a`` wins and loses most against ``b``, as (query row, ``a`` minus ``b``)."""
    _check({"a": a, "b": b}, "a")
    deltas = a.of(measure) - b.of(measure)
    order = np.argsort(-deltas, kind="stable"), np.argsort(deltas, kind="stable")
    wins, losses = ([(int(a.queries[i]), float(deltas[i])) for i in best[:n]] for best in order)
    return [pair for pair in wins if pair[1] > 0], [pair for pair in losses if pair[1] < 0]


def _check(evaluations: Mapping[str, Evaluation], reference: str) -> None:
    if reference not in evaluations:
        raise StepwellError(
            f"The reference {reference!r} is not among the systems ({', '.join(evaluations) or 'none'}): "
            "there is nothing to compare them with. Name one of them."
        )
    home = evaluations[reference].queries
    for name, evaluation in evaluations.items():
        if lacking := len(np.setxor1d(home, evaluation.queries)):
            raise RunError(
                f"{name} and {reference} were evaluated on different queries: {lacking} are in one and not "
                "in the other, so that no difference can be paired. Evaluate both on the same split."
            )
