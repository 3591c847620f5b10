"""From the folder of a run to the facts that its report shows."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from stepwell.collection import open_collection, resolve_splits
from stepwell.errors import RunError, StepwellError
from stepwell.reports import climb
from stepwell.reports.answers import Answer, Score, Texts, won_and_lost
from stepwell.reports.costs import Cost, costs
from stepwell.systems.folder import RunFolder
from stepwell.systems.records import Overlap, SystemTable

CHOICE = (
    *("train", "dev", "test", "train_queries", "dev_queries", "test_queries"),
    *("relevant_from", "unlabelled_queries"),
)
"""What a recipe says of its splits."""


@dataclass(frozen=True)
class RunFacts:
    """All that a report says about one run; sections that the run has not come to yet are empty."""

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
    comparison: dict[str, Any] | None  # the test table as in ``results.json``, None before it is made
    overlap: dict[str, Any] | None  # with a teacher's own lists, None where its vectors can't be searched
    start: float | None  # the dev quality of the student at the start
    steps: list[climb.Step]
    costs: list[Cost]
    record: list[Score]
    answers: list[Answer]
    trainings: list[climb.Training]
    scores: list[climb.Scores]
    refined: list[climb.Refined]
    mined: list[climb.Mined]
    stages: list[climb.Spent]
    fingerprints: list[dict[str, str]]  # checksums of models' weights: stage, file, sha256
    recipe: str
    notes: list[str]  # sentences about the data
    missing: list[str]  # sentences about what is not there, and why

    def to_json(self) -> dict[str, Any]:
        """Return everything as plain dicts, lists, strings and numbers."""
        return asdict(self)


def facts_of(place: str | Path) -> RunFacts:
    """Read the folder of a run, finished or not; it is not changed."""
    run = RunFolder(Path(place))
    if not (run.place / "stages").is_dir():
        raise RunError(
            f"{place} is no run's folder (it has no stages): a report is made of what `stepwell run` leaves. Name "
            "the folder that the run was given with --out, or runs/NAME."
        )
    results = run.results if run.is_finished else None
    missing = _missing(run)
    texts, notes = _texts(run, missing)
    comparison = dict(results.comparison) if results else None
    if not comparison and (table := run.read("table", SystemTable)):
        comparison = dict(table.content)
    systems = {row["name"]: comparison["systems"][row["name"]] for row in comparison["rows"]} if comparison else {}
    deciding = str(run.recipe_values.get("judging", {}).get("measure", "nDCG@10"))
    measure = str(comparison["measures"][0]) if comparison else deciding
    record, answers = won_and_lost(run, systems, str(comparison["reference"]) if comparison else "", measure, texts)
    last = run.stages[-1].manifest if run.stages else None
    shared = last.shared if last else {}
    section = run.recipe_values.get("collection")
    path = str(section.get("path", "")) if isinstance(section, dict) else str(section or "")
    chosen = {name: value for name in CHOICE if (value := section.get(name))} if isinstance(section, dict) else {}
    collection = {"fingerprint": str(shared.get("collection", "")), "path": path}
    return RunFacts(
        name=str((results and results.name) or run.recipe_values.get("name") or run.place.name),
        folder=str(place),
        measure=measure,
        finished=results.finished if results else None,
        final=results.final if results else None,
        collection=collection | (dict(results.collection) if results else {}),
        seed=run.recipe_values.get("seed"),
        splits=chosen,
        versions=dict((results and results.versions) or (last and last.versions) or {}),
        machine=dict((results and results.machine) or (last and last.machine) or {}),
        comparison=comparison or None,
        overlap=asdict(overlap) if (overlap := run.read("overlap", Overlap)) else None,
        start=climb.start_quality(run, deciding),
        steps=climb.steps(run),
        costs=costs(run, systems),
        record=record,
        answers=answers,
        trainings=climb.trainings(run),
        scores=climb.scores(run, texts.collection if texts else None),
        refined=climb.refined(run),
        mined=climb.mined(run),
        stages=climb.spent(run),
        fingerprints=[
            {"stage": stage.name, "file": name, "sha256": checksum}
            for stage in run.stages
            for name, checksum in sorted(stage.manifest.files.items())
            if name.startswith("model/") and name.endswith(".safetensors")
        ],
        recipe=run.recipe_text,
        notes=notes,
        missing=missing,
    )


def _missing(run: RunFolder) -> list[str]:
    found = []
    if not run.is_finished:
        begun = f"; begun and not finished: {', '.join(run.begun)}" if run.begun else ""
        found.append(
            f"The run is not finished ({len(run.stages)} stages are{begun}): what is missing below is not there yet. "
            "`stepwell run` with the same recipe and folder goes on."
        )
    if run.unreadable:
        found.append(f"Stages whose manifest can't be read are left out: {', '.join(run.unreadable)}.")
    if not run.recipe_values:
        found.append("recipe.yaml is missing or can't be read: what the ladder was meant to be is not known.")
    return found


def _texts(run: RunFolder, missing: list[str]) -> tuple[Texts | None, list[str]]:
    """Open the run's collection for its texts; where that can't be done, ``missing`` gets the reason."""
    try:
        section = run.load_recipe().collection
        collection = open_collection(section)
        splits = resolve_splits(collection, section)
    except (StepwellError, OSError) as error:
        missing.append(f"Texts are not shown, and scores not counted, because the collection can't be opened: {error}")
        return None, []
    if {str(stage.manifest.shared.get("collection", "")) for stage in run.stages} - {collection.fingerprint}:
        missing.append(
            f"Texts are not shown, and scores not counted: the collection {section.path} has changed since this run, "
            "and its rows would name other texts."
        )
        return None, []
    return Texts(collection, splits.test), list(splits.notes)
