"""The test queries that the final student wins and loses against each other system, with their texts."""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from stepwell.collection import Collection, Qrels
from stepwell.distil.refine import MISSING, first_positive_ranks
from stepwell.evaluation import Evaluation, wins_and_losses
from stepwell.evaluation.answers import judge
from stepwell.retrieval.run import Run
from stepwell.systems.folder import RunFolder

EVALUATION = "evaluation.parquet"
SHOWN = 20
"""Queries won, and queries lost, that are shown for each system: those with the largest differences."""

LONGEST = 280
"""Characters of a passage that are shown."""


@dataclass(frozen=True)
class Found:
    """The passage that a system puts first, and the rank of its first relevant one (None: not in its list)."""

    passage: str
    text: str
    relevant: bool
    rank: int | None


@dataclass(frozen=True)
class Answer:
    """One query against one system: the values of the deciding measure, and what both found.

    Without the collection, the query's text and what was found are None.
    """

    system: str
    query: str
    text: str | None
    own: float
    theirs: float
    own_found: Found | None = None
    their_found: Found | None = None
    relevant: str | None = None

    @property
    def difference(self) -> float:
        """The student's value minus the other system's."""
        return self.own - self.theirs


@dataclass(frozen=True)
class Score:
    """How many queries the final student wins, ties and loses against a system."""

    system: str
    won: int
    tied: int
    lost: int


class Texts(NamedTuple):
    """The opened collection of a run with the judgements of its test queries."""

    collection: Collection
    test: Qrels


def won_and_lost(
    run: RunFolder, systems: dict[str, str], reference: str, measure: str, texts: Texts | None
) -> tuple[list[Score], list[Answer]]:
    """Return the count against each system, and the queries with the largest differences.

    ``systems`` are test stages by label, ``reference`` is the label of the final student.
    """
    places = {label: stage.folder for label, name in systems.items() if (stage := run.named(name))}
    evaluations = {}
    for label, place in places.items():
        with suppress(OSError, ValueError):  # not there, or damaged
            evaluations[label] = Evaluation.load(place / EVALUATION)
    if reference not in evaluations:
        return [], []
    scores, answers, own = [], [], evaluations[reference]
    ids = pq.read_table(places[reference] / EVALUATION, columns=["query_id"])["query_id"].to_pylist()
    for label, other in evaluations.items():
        if label == reference or not np.array_equal(other.queries, own.queries):
            continue
        ours, theirs = own.of(measure), other.of(measure)
        scores.append(Score(label, *(int(part.sum()) for part in (ours > theirs, ours == theirs, ours < theirs))))
        chosen = [row for part in wins_and_losses(own, other, measure, SHOWN) for row, _ in part]
        shown: list[tuple[str | None, Found | None, Found | None, str | None]] = [(None,) * 4] * len(chosen)
        if texts and chosen:
            with suppress(OSError, ValueError):  # a damaged run: without the texts
                found = [_found(places[name], np.array(chosen, np.int32), texts) for name in (reference, label)]
                relevant = [_relevant(row, texts) for row in chosen]
                shown = list(zip(texts.collection.query_texts(chosen), *found, relevant, strict=True))
        for at, (text, first, second, right) in zip(np.searchsorted(own.queries, chosen), shown, strict=True):
            answers.append(Answer(label, ids[at], text, float(ours[at]), float(theirs[at]), first, second, right))
    return scores, answers


def _found(folder: Path, rows: NDArray[np.int32], texts: Texts) -> list[Found | None]:
    run = Run.load(folder / "run.parquet", texts.collection).select(rows)
    test = texts.test.restrict(rows)
    ranks = first_positive_ranks(run, judge(run, test) if test.answers is not None else test).tolist()

    def first(row: int, rank: int) -> Found:
        text = shortened(texts.collection.passage_texts([row])[0])
        return Found(texts.collection.passage_ids[row], text, rank == 1, None if rank >= MISSING else rank)

    firsts = zip(run.passages[:, 0].tolist(), ranks, strict=True)
    return [first(row, rank) if row >= 0 else None for row, rank in firsts]


def _relevant(query: int, texts: Texts) -> str | None:
    """Return a relevant passage, the best grade first; of a collection with answers, the answers."""
    if texts.test.answers is not None:
        return " / ".join(texts.test.answers.answers(query)) or None
    rows = texts.test.positives(query)
    return shortened(texts.collection.passage_texts(rows[:1])[0]) if len(rows) else None


def shortened(text: str) -> str:
    """Return the beginning of a text, cut between words, on one line."""
    flat = " ".join(text[: 4 * LONGEST].split())
    return flat if len(flat) <= LONGEST else flat[:LONGEST].rsplit(" ", 1)[0] + " ..."
