"""From the folder of a run to the facts that its report shows."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from stepwell.collection import open_collection, resolve_splits
from stepwell.errors import StepwellError
from stepwell.recipe.yaml_file import load_recipe
from stepwell.reports.answers import Answer, Score, Texts, won_and_lost
from stepwell.reports.climb import (
    Mined,
    Refined,
    Scores,
    Spent,
    Step,
    Training,
    measure_of,
    mined,
    refined,
    scores,
    spent,
    steps,
    trainings,
)
from stepwell.reports.costs import Cost, costs
from stepwell.reports.folder import RunFolder


@dataclass(frozen=True)
class Fingerprint:
    """The checksum (sha256) of a model's weights, by the stage that made it."""

    stage: str
    file: str
    sha256: str


@dataclass(frozen=True)
class RunFacts:
    """All that a report says about one run; sections that the run has not come to yet are empty.

    ``comparison`` is the test table as in ``results.json``, None before it is made; ``start`` the dev quality of the
    student at the start. ``notes`` are sentences about the data, ``missing`` about what is not there, and why.
    """

    name: str
    folder: str
    measure: str
    finished: str | None
    final: str | None
    collection: dict[str, str]
    seed: int | None
    splits: dict[str, Any]
    versions: dict[str, str]
    machine: dict[str, str]
    comparison: dict[str, Any] | None
    start: float | None
    steps: list[Step]
    costs: list[Cost]
    record: list[Score]
    answers: list[Answer]
    trainings: list[Training]
    scores: list[Scores]
    refined: list[Refined]
    mined: list[Mined]
    stages: list[Spent]
    fingerprints: list[Fingerprint]
    recipe: str
    notes: list[str]
    missing: list[str]

    def to_json(self) -> dict[str, Any]:
        """Return everything as plain dicts, lists, strings and numbers."""
        return asdict(self)


def facts_of(place: str | Path) -> RunFacts:
    """Read the folder of a run, finished or not; it is not changed.

    Raises
    ------
    StepwellError
        When it is no run's folder.
    """
    run = RunFolder(Path(place))
    results = run.results or {}
    missing = _missing(run)
    texts, notes = _texts(run, missing)
    table = run.named("table")
    comparison = results.get("comparison") or (table.json("comparison.json") if table else None)
    systems = {row["name"]: comparison["systems"][row["name"]] for row in comparison["rows"]} if comparison else {}
    measure = str(comparison["measures"][0]) if comparison else measure_of(run)
    reference = str(comparison["reference"]) if comparison else ""
    record, answers = won_and_lost(run, systems, reference, measure, texts)
    start, climbed = steps(run)
    last = run.stages[-1].manifest if run.stages else {}
    shared = last.get("shared", {})
    known = {"fingerprint": str(shared.get("collection", "")), "path": str(_path(run)), **results.get("collection", {})}
    return RunFacts(
        name=str(results.get("name") or run.recipe.get("name") or Path(place).name),
        folder=str(place),
        measure=measure,
        finished=results.get("finished"),
        final=results.get("final"),
        collection=known,
        seed=shared.get("seed"),
        splits=dict(shared.get("splits", {})),
        versions=dict(results.get("versions") or last.get("versions", {})),
        machine=dict(results.get("machine") or last.get("machine", {})),
        comparison=comparison,
        start=start,
        steps=climbed,
        costs=costs(run, systems),
        record=record,
        answers=answers,
        trainings=trainings(run),
        scores=scores(run, texts.collection if texts else None),
        refined=refined(run),
        mined=mined(run),
        stages=spent(run),
        fingerprints=_fingerprints(run),
        recipe=run.recipe_text,
        notes=notes,
        missing=missing,
    )


def _missing(run: RunFolder) -> list[str]:
    found = []
    if run.results is None:
        begun = f"; begun and not finished: {', '.join(run.begun)}" if run.begun else ""
        found.append(
            f"The run is not finished ({len(run.stages)} stages are{begun}): what is missing below is not there yet. "
            "`stepwell run` with the same recipe and folder goes on."
        )
    if run.unreadable:
        found.append(f"Stages whose manifest can't be read are left out: {', '.join(run.unreadable)}.")
    if not run.recipe:
        found.append("recipe.yaml is missing or can't be read: what the ladder was meant to be is not known.")
    return found


def _path(run: RunFolder) -> str:
    section = run.recipe.get("collection")
    return str(section.get("path", "")) if isinstance(section, dict) else str(section or "")


def _texts(run: RunFolder, missing: list[str]) -> tuple[Texts | None, list[str]]:
    """Open the run's collection for its texts; where that can't be done, ``missing`` gets the reason."""
    try:
        section = load_recipe(run.place / "recipe.yaml").collection
        collection = open_collection(section)
        splits = resolve_splits(collection, section)
    except (StepwellError, OSError) as error:
        missing.append(f"Texts are not shown, and scores not counted, because the collection can't be opened: {error}")
        return None, []
    known = {str(kept.manifest.get("shared", {}).get("collection", "")) for kept in run.stages}
    if known - {collection.fingerprint}:
        missing.append(
            f"Texts are not shown, and scores not counted: the collection {section.path} has changed since this run, "
            "and its rows would name other texts."
        )
        return None, []
    return Texts(collection, splits.test), list(splits.notes)


def _fingerprints(run: RunFolder) -> list[Fingerprint]:
    return [
        Fingerprint(kept.name, name, str(checksum))
        for kept in run.stages
        for name, checksum in sorted(kept.manifest.get("files", {}).items())
        if name.startswith("model/") and name.endswith(".safetensors")
    ]
