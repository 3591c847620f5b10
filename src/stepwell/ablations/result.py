"""What an ablation found: one table of all variants, and what was shared between them."""

import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from stepwell.ablations.grid import Grid
from stepwell.ablations.rendering import latex, markdown
from stepwell.display import Table, duration
from stepwell.evaluation import Comparison, Evaluation, compare
from stepwell.files import write_text
from stepwell.ladder.judging import measures_of
from stepwell.ladder.stage import Context
from stepwell.ladder.workspace import versions
from stepwell.models.engines.machine import machine
from stepwell.systems.records import Manifest
from stepwell.teachers.scoring import COUNTS, read_counts


@dataclass(frozen=True)
class Outcome:
    """How one variant ended."""

    name: str  # the variant
    updates: int  # optimiser steps of the student, warm-up apart
    stages: dict[str, str]  # by the stage's name, its folder's name
    test: str | None = None  # the stage that holds the test's evaluation; None when the variant failed
    failed: str | None = None  # why it did not come to its end


@dataclass(frozen=True)
class Shared:
    """What the variants had in common: each figure first as if every variant had run alone, then as it was.

    ``asked`` are pairs of which a stage needed a cross-encoder's score, ``scored`` those that had to be scored: the
    others were in the score store. Seconds are those of the stages.
    """

    stages: int
    run: int
    asked: int
    scored: int
    seconds_alone: float
    seconds: float

    @classmethod
    def of(cls, outcomes: Sequence[Outcome], stages: Path) -> Self:
        """Count over the stages' folders."""
        alone = Counter(folder for outcome in outcomes for folder in set(outcome.stages.values()))
        pairs = {folder: read_counts(stages / folder / COUNTS) for folder in alone}
        seconds = {folder: Manifest.load(stages / folder).seconds or 0.0 for folder in alone}
        return cls(
            stages=alone.total(),
            run=len(alone),
            asked=sum(times * sum(asked for asked, _ in pairs[folder]) for folder, times in alone.items()),
            scored=sum(scored for counts in pairs.values() for _, scored in counts),
            seconds_alone=sum(times * seconds[folder] for folder, times in alone.items()),
            seconds=sum(seconds.values()),
        )

    def sentences(self) -> tuple[str, ...]:
        """Say it in words."""
        share = f" ({self.scored / self.asked:.0%})" if self.asked else ""
        return (
            f"The variants have {self.stages:,} stages; {self.run:,} were run and {self.stages - self.run:,} shared. "
            f"Alone they would have taken {duration(self.seconds_alone)}, together {duration(self.seconds)}.",
            f"Teachers were asked for the scores of {self.asked:,} pairs and scored {self.scored:,}{share}; the others "
            "were in the score store.",
        )


@dataclass(frozen=True)
class Ablation:
    """A table of variants."""

    name: str  # what was varied
    outcomes: tuple[Outcome, ...]  # one a variant, in the grid's order
    comparison: Comparison | None  # of the variants that came to their end; None when there is none
    shared: Shared  # what the variants had in common
    notes: tuple[str, ...] = ()  # sentences beneath the table

    @classmethod
    def of(cls, name: str, grid: Grid, outcomes: Sequence[Outcome], ctx: Context, out: Path) -> Self:
        """Compare the variants that came to their end, from the files that their stages left."""
        stages = out / "stages"
        evaluations = {
            outcome.name: Evaluation.load(stages / outcome.stages[outcome.test] / "evaluation.parquet", ctx.collection)
            for outcome in outcomes
            if outcome.test is not None
        }
        notes = [f"{outcome.name} failed: {outcome.failed}" for outcome in outcomes if outcome.failed]
        comparison = None
        if evaluations:
            reference = grid.reference if grid.reference in evaluations else next(iter(evaluations))
            if reference != grid.reference:
                notes.append(f"{grid.reference} is not there (yet); the others are compared with {reference}.")
            comparison = compare(evaluations, reference, measures_of(ctx.recipe.judging.model_dump()))
        notes += [*_conditions(grid), *grid.notes]
        return cls(name, tuple(outcomes), comparison, Shared.of(outcomes, stages), tuple(notes))

    @property
    def failed(self) -> dict[str, str]:
        """Why variants failed, by their names."""
        return {outcome.name: outcome.failed for outcome in self.outcomes if outcome.failed}

    def table(self, whole: bool = False) -> Table:
        """Return the table: intervals of the first measure, or (``whole``) of all."""
        found = self.comparison
        heads = found.columns if found else []
        figures = {row.name: found.cells(row, whole) for row in found.rows} if found else {}
        none = [None] * len(heads)  # of a variant that failed
        cells = [[one.name, one.updates, *figures.get(one.name, none)] for one in self.outcomes]
        at = [number for number, one in enumerate(self.outcomes) if found and one.name == found.reference]
        notes = [*(found.table().notes if found else ()), *self.notes, *self.shared.sentences()]
        return Table(f"Ablation of {self.name}", ["variant", "updates", *heads], cells, notes, at)

    def to_json(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return {
            "name": self.name,
            "variants": [asdict(outcome) for outcome in self.outcomes],
            "shared": asdict(self.shared),
            "notes": list(self.notes),
            "comparison": self.comparison.to_json() if self.comparison else None,
            "versions": versions(),
            "machine": machine(),
            "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }

    def write(self, out: Path) -> None:
        """Write ``ablation.json``, ``ablation.md`` and ``ablation.tex``."""
        write_text(out / "ablation.json", json.dumps(self.to_json(), indent=1))
        write_text(out / "ablation.md", markdown(self.table(whole=True)) + "\n")
        write_text(out / "ablation.tex", latex(self.table(whole=True)) + "\n")


def _conditions(grid: Grid) -> list[str]:
    """Say how many steps the variants took, and who decided on their rungs."""
    steps = "variants were not given the same number."
    if grid.match_updates:
        steps = f"shorter ladders took as many as the rungs of {grid.reference}, and refine came on top."
    gated = [variant.name for variant in grid.variants if not variant.forced]
    climbed = "Rungs were climbed and kept as dev decided."
    if len(gated) < len(grid.variants):
        but = f", but for {', '.join(gated)}: there dev decided." if gated else "."
        climbed = f"Every rung and round was climbed and kept, whatever dev said{but}"
    return [f"Updates are the student's optimiser steps, warm-up apart; {steps}", climbed]
