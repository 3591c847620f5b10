"""Systems judged on the same queries: the figures of one, or several side by side; and which queries these are."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from stepwell.collection import Collection, Qrels, open_collection, resolve_splits
from stepwell.collection.readers.formats import Place
from stepwell.collection.splits import NO_TEST
from stepwell.display import Cell, Table, say, warn
from stepwell.errors import RunError, StepwellError
from stepwell.evaluation import Comparison, Evaluation, bootstrap_interval, comparison, measures, reached
from stepwell.recipe import Recipe
from stepwell.systems.folder import RunFolder
from stepwell.systems.opening import open_system, retrieve_with

DEPTH = 100
"""Passages retrieved a query where no run says how many."""

_JUDGED = ("queries", "passages", "grades", "asked", "relevant_from")  # what judgements that are the same agree in


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
        (_, first), *others = self.evaluations.items()
        pairs = {name: comparison.wins_and_losses(first, other, measure, most) for name, other in others}
        return [Contest(name, measure, *map(self._differences, pair)) for name, pair in pairs.items()]

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
    return Compared(comparison.compare(evaluations, str(systems[0])), on.collection, on.name, evaluations)


# -- which queries ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Judged:
    """What systems are judged on."""

    collection: Collection
    qrels: Qrels  # of the judged queries alone
    name: str  # the split, as a title says it
    depth: int = DEPTH  # passages retrieved a query


def judge_systems(
    systems: Sequence[str], collection: Place | None = None, split: str | None = None, depth: int | None = None
) -> tuple[Judged, dict[str, Evaluation]]:
    """Evaluate systems on the same queries; return what they were judged on, and the evaluations by system.

    Without a ``collection`` it is that of the first finished run. Without a ``split`` the queries are those of the
    final table of the runs that were made from it, else of ``test``. A ``depth`` of None is that of the runs' tables.
    """
    twice = next((system for at, system in enumerate(systems) if system in systems[:at]), None)
    if twice is not None:
        raise StepwellError(f"{twice} is named twice: give each system once.")
    on = judged_on(systems, collection, split)
    depth = depth or on.depth
    wanted = reached(max(depth, 10))  # nDCG@10 always: queries are won and lost by it
    runs = {system: retrieve_with(system, on.collection, on.qrels, depth) for system in systems}
    return on, {system: measures.evaluate(run, on.qrels, wanted) for system, run in runs.items()}


def judged_on(systems: Sequence[str], collection: Place | None = None, split: str | None = None) -> Judged:
    """Return what systems are judged on, as :func:`judge_systems` decides it."""
    opened = [open_system(system, "judge it") for system in systems]
    runs = {system.name: system.run for system in opened if system.run is not None}
    if collection is None and not runs:
        raise RunError(f"{systems[0]} is no finished run, so its collection is not known: name it with --collection.")
    searched = open_collection(collection) if collection is not None else next(iter(runs.values())).open_collection()
    if split is not None:
        return _of_split(searched, split)
    own = {name: run for name, run in runs.items() if run.is_over(searched)}
    if collection is None and len(own) < len(runs):
        raise _of_another(runs, searched)
    if runs and not own:
        say(f"{searched.place} is not as {next(iter(runs))} was made from it: judged are all queries of test.")
    return _of_tables(own, searched) if own else _of_split(searched, "test")


def _of_split(collection: Collection, split: str) -> Judged:
    qrels = collection.qrels(split).complete()
    made = int(collection.is_synthetic(qrels.query_rows).sum())
    if made:
        warn(
            f"{made:,} of the {len(qrels.query_rows):,} queries of {split} are synthetic: made from the passages. The "
            "figures don't say how well people's questions are answered."
        )
    return Judged(collection, qrels, split)


def _of_tables(runs: Mapping[str, RunFolder], collection: Collection) -> Judged:
    """Return the queries that the final tables of all runs are over."""
    recipes = [_recipe_of(run) for run in runs.values()]
    splits = [resolve_splits(collection, recipe.collection) for recipe in recipes]
    test, (first, *_) = splits[0].test, runs
    for run, its in zip(runs.values(), splits, strict=True):
        _check_table(run, its.test, collection)
    for name, its in zip(runs, splits, strict=True):
        if not all(np.array_equal(getattr(test, part), getattr(its.test, part)) for part in _JUDGED):
            sizes = (f"{len(qrels.query_rows):,}" for qrels in (test, its.test))
            raise RunError(
                f"the final tables of {first} and {name} are over different queries or judgements "
                f"({' and '.join(sizes)} queries), so no difference could be paired. Name a split to judge both on "
                f"with --split: {collection.name} has {', '.join(collection.splits)}."
            )
    tested = splits[0].tested
    if not tested:
        warn(NO_TEST)
    say(f"These are the {len(test.query_rows):,} queries of the final table of {first}; --split names others.")
    depth = max(recipe.judging.depth for recipe in recipes)
    return Judged(collection, test, "test" if tested else "synthetic dev", depth)


def _recipe_of(run: RunFolder) -> Recipe:
    try:
        return run.load_recipe()
    except StepwellError as error:
        raise RunError(
            f"the recipe in {run.place} can't be read, so which queries its table is over is not known: it was "
            "changed, or another version of stepwell made the run. Name a split to judge on with --split, or run it "
            f"again. ({error})"
        ) from error


def _check_table(run: RunFolder, test: Qrels, collection: Collection) -> None:
    """Refuse a run whose recipe says other test queries by now than those of its final table, where that is kept."""
    stage = next(iter(run.results.table.systems.values()))
    kept = run.folder_of(stage) / "evaluation.parquet"
    if not kept.is_file():
        return
    table, now = Evaluation.load(kept, collection).queries, test.query_rows
    if not np.array_equal(table, now):
        raise RunError(
            f"the recipe in {run.place} was changed after its final table, which is over other queries ({len(table):,})"
            f" than the recipe names now ({len(now):,}): its student may have been trained on these. Run it to its end "
            "again, or name a split to judge on with --split."
        )


def _of_another(runs: Mapping[str, RunFolder], collection: Collection) -> StepwellError:
    """Return what is said when a run was not made from the collection, which is that of the first run."""
    first, *_ = runs
    name, run = next((name, run) for name, run in runs.items() if not run.is_over(collection))
    if name == first:
        return RunError(
            f"the collection {collection.place} is not the one that the run in {name} was made from (its content has "
            "changed), so which queries its table is over is not known. Run again, or name a split to judge on with "
            "--split."
        )
    return RunError(
        f"the runs in {first} and {name} were made from different collections ({collection.place} and "
        f"{run.results.collection['path']}, as it was then), so no difference could be paired. Name the collection to "
        "judge both on with --collection, and one of its splits with --split."
    )
