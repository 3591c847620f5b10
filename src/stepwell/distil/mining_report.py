"""What mining did: how many passages were dropped, why, and what they look like."""

from __future__ import annotations

import textwrap
from dataclasses import asdict, dataclass
from typing import Any

from stepwell.display import Table

SHOWN = 160  # characters of a text in an example


@dataclass(frozen=True)
class Example:
    """A passage that was dropped, beside the positive that it was taken for."""

    reason: str
    query: str
    positive: str
    dropped: str


@dataclass(frozen=True)
class MiningReport:
    """Counts and examples of one mining.

    Parameters
    ----------
    queries
        Queries that got candidates.
    without_positives
        Queries of the run that were left out, because no passage is labelled as relevant to them.
    positives
        Positives among the candidates, of all queries.
    ranked
        Passages in the windows of all queries.
    dropped
        How many of them can't be a negative, for each reason.
    negatives
        How many negatives came from where, and how many places are empty.
    examples
        A few dropped passages for each reason that is a judgement.
    notes
        What else a reader should know.
    """

    queries: int
    without_positives: int
    positives: int
    ranked: int
    dropped: dict[str, int]
    negatives: dict[str, int]
    examples: tuple[Example, ...] = ()
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain dicts, lists, strings and numbers."""
        return asdict(self)

    def table(self) -> Table:
        """Return the counts as a table, with the examples below it."""
        rows: list[list[str | int | None]] = [
            ["queries", self.queries, None],
            ["positives", self.positives, f"{self.positives / max(self.queries, 1):.2f} a query"],
            ["passages in the windows", self.ranked, None],
        ]
        rows += [[f"- {reason}", n, _share(n, self.ranked)] for reason, n in self.dropped.items()]
        total = sum(self.negatives.values())
        rows += [[source, n, _share(n, total)] for source, n in self.negatives.items()]
        notes = list(self.notes)
        if self.without_positives:
            notes.append(f"{self.without_positives:,} queries without a positive were left out.")
        for example in self.examples:
            notes.append(
                f"{example.reason}: query: {_short(example.query)} | positive: {_short(example.positive)} | "
                f"dropped: {_short(example.dropped)}"
            )
        return Table(title="Mining", columns=["", "count", "share"], rows=rows, notes=notes)


def _share(n: int, total: int) -> str:
    return f"{n / total:.1%}" if total else ""


def _short(text: str) -> str:
    return textwrap.shorten(text, SHOWN, placeholder=" ...")
