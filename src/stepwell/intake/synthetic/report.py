"""What became of the queries that were proposed: how many were kept, what was dropped and why."""

import textwrap
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from stepwell.display import Cell, Table

EXAMPLES = 2
_SHOWN = 120  # characters of a text in an example


@dataclass
class SyntheticReport:
    """Counts and examples of the queries of a collection."""

    passages: int = 0
    generator: str | None = None  # who made those that are not taken out of the passages
    proposed: Counter[str] = field(default_factory=Counter)  # by origin
    kept: Counter[str] = field(default_factory=Counter)  # by origin
    dropped: Counter[str] = field(default_factory=Counter)  # by reason
    examples: dict[str, list[str]] = field(default_factory=dict)  # of each `kept: origin` and each reason
    train: int = 0
    dev: int = 0
    test: int = 0  # real ones
    unlabelled: int = 0  # of a generator, without their passage: for the embedding rung
    notes: list[str] = field(default_factory=list)

    def drop(self, reason: str, text: str) -> None:
        """Count a query that was not taken."""
        self.dropped[reason] += 1
        self._show(reason, text)

    def keep(self, origin: str, text: str) -> None:
        """Count a query that was taken."""
        self.kept[origin] += 1
        self._show(f"kept: {origin}", text)

    def _show(self, key: str, text: str) -> None:
        shown = self.examples.setdefault(key, [])
        if len(shown) < EXAMPLES:
            shown.append(textwrap.shorten(text, _SHOWN, placeholder=" ..."))

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain dicts, lists, strings and numbers."""
        return {name: dict(value) if isinstance(value, dict) else value for name, value in vars(self).items()}

    def table(self) -> Table:
        """Return the counts as a table, with the examples below it."""
        total = sum(self.proposed.values())
        rows: list[list[Cell]] = [["passages", self.passages, None]]
        rows += [[f"proposed: {origin}", count, None] for origin, count in self.proposed.items()]
        rows += [[f"- {reason}", count, f"{count / total:.1%}"] for reason, count in self.dropped.items()]
        rows += [[f"kept: {origin}", count, f"{count / total:.1%}"] for origin, count in self.kept.items()]
        rows += [["for training", self.train, None], ["for dev", self.dev, None]]
        if self.unlabelled:
            rows.append(["without labels, for the embedding rung", self.unlabelled, None])
        if self.test:
            rows.append(["real queries for the test", self.test, None])
        examples = [f"{key}: {' | '.join(texts)}" for key, texts in self.examples.items()]
        return Table("Synthetic queries", ["", "count", "share"], rows, [*self.notes, *examples])
