"""Which queries systems are judged on: those of a split, or those of a finished run's final table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stepwell.collection import Collection, Qrels, resolve_splits
from stepwell.collection.readers.formats import Place
from stepwell.collection.splits import NO_TEST
from stepwell.display import say, warn
from stepwell.errors import StepwellError
from stepwell.evaluation import Evaluation, evaluate, reached, wins_and_losses
from stepwell.recipe import Recipe
from stepwell.recipe.yaml_file import load_recipe
from stepwell.systems.folder import opened_again, results_of
from stepwell.systems.searcher import retrieve_with

DEPTH = 100
"""Passages retrieved a query where no run says how many."""


@dataclass(frozen=True)
class Judged:
    """What systems are judged on.

    Parameters
    ----------
    collection
        What is searched.
    qrels
        The judgements, of the judged queries alone.
    name
        The split, as a title says it.
    depth
        Passages retrieved a query.
    """

    collection: Collection
    qrels: Qrels
    name: str
    depth: int = DEPTH


def judge_systems(
    systems: Sequence[str], collection: Place | None = None, split: str | None = None, depth: int | None = None
) -> tuple[Judged, dict[str, Evaluation]]:
    """Evaluate systems on the same queries.

    Parameters
    ----------
    systems
        Each as for :func:`stepwell.systems.searcher.retrieve_with`.
    collection
        What is searched; that of the first finished run when None.
    split
        Whose queries. None: those of the final table of the runs that were made from the collection, else ``test``.
    depth
        Passages retrieved a query; when None as many as in the runs' tables, else 100.

    Returns
    -------
    tuple
        What they were judged on, and the evaluations by system.

    Raises
    ------
    StepwellError
        When a system is named twice, the collection is not known, or the runs' tables are not over the same queries.
    """
    twice = next((system for at, system in enumerate(systems) if system in systems[:at]), None)
    if twice is not None:
        raise StepwellError(f"{twice} is named twice: give each system once.")
    on = judged_on(systems, collection, split)
    depth = depth or on.depth
    measures = reached(max(depth, 10))  # nDCG@10 always: queries are won and lost by it
    runs = {system: retrieve_with(system, on.collection, on.qrels, depth) for system in systems}
    return on, {system: evaluate(run, on.qrels, measures) for system, run in runs.items()}


def contests(
    on: Judged, evaluations: Mapping[str, Evaluation], most: int, measure: str = "nDCG@10"
) -> list[dict[str, Any]]:
    """Return the queries that the first system wins and loses most against each other one, as plain values."""
    first, *others = evaluations

    def told(pairs: Sequence[tuple[int, float]]) -> list[dict[str, Any]]:
        texts = on.collection.query_texts([row for row, _ in pairs])
        return [
            {"query_id": on.collection.query_ids[row], "query": text, "difference": delta}
            for (row, delta), text in zip(pairs, texts, strict=True)
        ]

    found = []
    for other in others:
        won, lost = wins_and_losses(evaluations[first], evaluations[other], measure, most)
        found.append({"system": other, "measure": measure, "won": told(won), "lost": told(lost)})
    return found


def judged_on(systems: Sequence[str], collection: Place | None = None, split: str | None = None) -> Judged:
    """Return what systems are judged on, as :func:`judge_systems` decides it."""
    known = {system: results_of(Path(system), "judge it") for system in systems}
    made_from: dict[str, dict[str, Any]] = {run: facts["collection"] for run, facts in known.items() if facts}
    place = collection or next((str(made["path"]) for made in made_from.values()), None)
    if place is None:
        raise StepwellError(
            f"{systems[0]} is no finished run, so its collection is not known: name it with --collection."
        )
    opened = opened_again(place, collection)
    if split is not None:
        return _of_split(opened, split)
    own = [run for run, made in made_from.items() if made["fingerprint"] == opened.fingerprint]
    if collection is None and len(own) < len(made_from):
        raise _of_another(made_from, opened)
    if made_from and not own:
        say(f"{opened.place} is not as {next(iter(made_from))} was made from it: judged are all queries of test.")
    return _of_tables({run: known[run] or {} for run in own}, opened) if own else _of_split(opened, "test")


def _of_split(collection: Collection, split: str) -> Judged:
    qrels = collection.qrels(split)
    made = int(collection.is_synthetic(qrels.query_rows).sum())
    if made:
        warn(
            f"{made:,} of the {len(qrels.query_rows):,} queries of {split} are synthetic: made from the passages. The "
            "figures don't say how well people's questions are answered."
        )
    return Judged(collection, qrels, split)


def _of_tables(known: Mapping[str, dict[str, Any]], collection: Collection) -> Judged:
    """Return the queries that the final tables of all runs are over; ``known`` has the results of each."""
    runs = list(known)
    recipes = [_recipe_of(Path(run)) for run in runs]
    splits, *others = [resolve_splits(collection, recipe.collection) for recipe in recipes]
    for run, its in zip(runs, (splits, *others), strict=True):
        _check_table(Path(run), known[run], its.test, collection)
    for run, other in zip(runs[1:], others, strict=True):
        if not _same(splits.test, other.test):
            sizes = (f"{len(qrels.query_rows):,}" for qrels in (splits.test, other.test))
            raise StepwellError(
                f"the final tables of {runs[0]} and {run} are over different queries or judgements "
                f"({' and '.join(sizes)} queries), so no difference could be paired. Name a split to judge both on "
                f"with --split: {collection.name} has {', '.join(collection.splits)}."
            )
    if not splits.tested:
        warn(NO_TEST)
    say(f"These are the {len(splits.test.query_rows):,} queries of the final table of {runs[0]}; --split names others.")
    name = "test" if splits.tested else "synthetic dev"
    return Judged(collection, splits.test, name, max(recipe.judging.depth for recipe in recipes))


def _recipe_of(run: Path) -> Recipe:
    try:
        return load_recipe(run / "recipe.yaml")
    except StepwellError as error:
        raise StepwellError(
            f"the recipe in {run} can't be read, so which queries its table is over is not known: it was changed, or "
            "another version of stepwell made the run. Name a split to judge on with --split, or run it again. "
            f"({error})"
        ) from error


def _check_table(run: Path, facts: dict[str, Any], test: Qrels, collection: Collection) -> None:
    """Refuse a run whose recipe says other test queries by now than those of its final table, where that is kept."""
    stage = next(iter(facts["comparison"]["systems"].values()))
    kept = run / facts["stages"][stage] / "evaluation.parquet"
    if not kept.is_file():
        return
    table, now = Evaluation.load(kept, collection).queries, test.query_rows
    if not np.array_equal(table, now):
        raise StepwellError(
            f"the recipe in {run} was changed after its final table, which is over other queries ({len(table):,}) "
            f"than the recipe names now ({len(now):,}): its student may have been trained on these. Run it to its end "
            "again, or name a split to judge on with --split."
        )


def _same(a: Qrels, b: Qrels) -> bool:
    arrays = ((a.queries, b.queries), (a.passages, b.passages), (a.grades, b.grades), (a.asked, b.asked))
    return a.relevant_from == b.relevant_from and all(np.array_equal(*pair) for pair in arrays)


def _of_another(made_from: dict[str, dict[str, Any]], collection: Collection) -> StepwellError:
    """Return what is said when a run was not made from the collection, which is that of the first run."""
    first, *_ = made_from
    run = next(run for run, made in made_from.items() if made["fingerprint"] != collection.fingerprint)
    if run == first:
        return StepwellError(
            f"the collection {collection.place} is not the one that the run in {run} was made from (its content has "
            "changed), so which queries its table is over is not known. Run again, or name a split to judge on with "
            "--split."
        )
    return StepwellError(
        f"the runs in {first} and {run} were made from different collections ({collection.place} and "
        f"{made_from[run]['path']}, as it was then), so no difference could be paired. Name the collection to judge "
        "both on with --collection, and one of its splits with --split."
    )
