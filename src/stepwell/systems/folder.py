"""Folders of finished runs: what they say of themselves, and the collection that they were made from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from stepwell.collection import Collection, open_collection
from stepwell.collection.readers.formats import Place, section_of
from stepwell.errors import StepwellError

SEARCHED = "search.vectors"
"""The stage with the vectors to search in fp32, of runs whose others are in bf16."""


def results_of(place: Path, then: str) -> dict[str, Any] | None:
    """Return what ``results.json`` of a finished run says; None for a place that is no run.

    Raises
    ------
    StepwellError
        When the run is not finished (``then`` is what to do once it is), or the file can't be read.
    """
    if (place / "results.json").is_file():
        return read_results(place)
    if (place / "stages").is_dir():
        raise StepwellError(f"the run in {place} is not finished: go on with `stepwell run`, then {then}.")
    return None


def opened_again(place: Place, named: Place | None) -> Collection:
    """Open the collection ``place`` of a finished run, or the one that was ``named`` instead of it.

    Raises
    ------
    StepwellError
        When it can't be read; and what to do when the run's own is gone.
    """
    path = Path(section_of(place).path)
    if named is None and path.is_absolute() and not path.exists():
        raise StepwellError(
            f"the collection that the run was made from is not at {path} any more: say where it is now with "
            "--collection."
        )
    return open_collection(place)


def read_results(run: Path) -> dict[str, Any]:
    """Read ``results.json`` of a finished run."""
    try:
        facts: dict[str, Any] = json.loads((run / "results.json").read_text(encoding="utf-8"))
        if not {"collection", "stages", "final", "asymmetric"} <= facts.keys():
            raise ValueError("keys are missing")
    except (OSError, ValueError, AttributeError) as error:
        raise StepwellError(
            f"can't read {run / 'results.json'} ({error}): run `stepwell run` again, it repairs it."
        ) from error
    return facts
