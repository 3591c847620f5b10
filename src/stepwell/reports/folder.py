"""The folder of a run as a reader sees it: finished stages by name and by key, also while the run is not at its end."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from stepwell.errors import RunError
from stepwell.files import read_json


@dataclass(frozen=True)
class Kept:
    """A finished stage: its folder and its manifest."""

    folder: Path
    manifest: dict[str, Any]

    @property
    def name(self) -> str:
        """The stage's name when it was made."""
        return str(self.manifest["name"])

    @property
    def kind(self) -> str:
        """What was done."""
        return str(self.manifest["kind"])

    @property
    def model(self) -> Path:
        """Where its model lies, if it made one."""
        return self.folder / "model"

    def json(self, name: str) -> Any:
        """Return a JSON file that it wrote, None when there is none (or none that can be read)."""
        try:
            return read_json(self.folder / name)
        except (OSError, ValueError):
            return None


class RunFolder:
    """What lies in a run's folder; reading never changes it.

    Parameters
    ----------
    place
        The folder that ``stepwell run`` was given or made.

    Raises
    ------
    StepwellError
        When it is no run's folder.
    """

    def __init__(self, place: Path) -> None:
        self.place = place
        if not (place / "stages").is_dir():
            raise RunError(
                f"{place} is no run's folder (it has no stages): a report is made of what `stepwell run` leaves. Name "
                "the folder that the run was given with --out, or runs/NAME."
            )
        self.results: dict[str, Any] | None = self._read("results.json")
        self.recipe_text = self._text("recipe.yaml")
        self.recipe: dict[str, Any] = self._recipe()
        self.unreadable: list[str] = []
        self.stages = self._stages()
        self._by_key = {kept.folder.name.rpartition("-")[2]: kept for kept in self.stages}
        self._by_name = {kept.name: kept for kept in self.stages}
        for name, folder in (self.results or {}).get("stages", {}).items():
            kept = self._by_key.get(str(folder).rpartition("-")[2])
            if kept is not None:
                self._by_name[name] = kept

    @property
    def begun(self) -> list[str]:
        """The stages that were begun and are not finished."""
        return sorted(path.name.removesuffix(".partial") for path in (self.place / "stages").glob("*.partial"))

    def named(self, name: str) -> Kept | None:
        """Return the finished stage of a name; ``student@2`` is the one that was promoted there."""
        if name in self._by_name:
            return self._by_name[name]
        head, dot, tail = name.partition(".")
        if not head.startswith("student@"):
            return None
        decision = self.decision(f"promote-{head.partition('@')[2]}")
        real = decision["student"] if decision else "start" if head == "student@0" else None
        return self._by_name.get(f"{real}{dot}{tail}") if real else None

    def decision(self, name: str) -> dict[str, Any] | None:
        """Return what a deciding stage decided, None when it is not there."""
        kept = self._by_name.get(name)
        found: dict[str, Any] | None = kept.json("decision.json") if kept else None
        return found

    def inputs(self, kept: Kept) -> dict[str, Kept]:
        """Return the finished stages that a stage was made from, by the names they had for it."""
        found = {name: self._by_key.get(str(key)[:16]) for name, key in kept.manifest["inputs"].items()}
        return {name: stage for name, stage in found.items() if stage is not None}

    def _stages(self) -> list[Kept]:
        """Return the finished stages in the order in which they were finished."""
        found = []
        for folder in sorted((self.place / "stages").iterdir()):
            if "." in folder.name or not folder.is_dir():  # half done, or set aside as damaged
                continue
            kept = Kept(folder, {})
            manifest = kept.json("manifest.json")
            if isinstance(manifest, dict) and {"name", "kind", "key", "inputs", "finished"} <= manifest.keys():
                found.append(Kept(folder, manifest))
            else:
                self.unreadable.append(folder.name)
        return _in_order(found)

    def _recipe(self) -> dict[str, Any]:
        try:
            content = yaml.safe_load(self.recipe_text)
        except yaml.YAMLError:
            content = None
        return content if isinstance(content, dict) else {}

    def _read(self, name: str) -> dict[str, Any] | None:
        try:
            content = read_json(self.place / name)
        except (OSError, ValueError):
            return None
        return content if isinstance(content, dict) else None

    def _text(self, name: str) -> str:
        try:
            return (self.place / name).read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""


def _in_order(stages: list[Kept]) -> list[Kept]:
    """Return stages by the second in which they were finished, and those of one second with inputs first."""
    made_from = {str(kept.manifest["key"]): list(kept.manifest["inputs"].values()) for kept in stages}
    depths: dict[str, int] = {}

    def depth(key: str) -> int:
        if key not in depths:
            depths[key] = 0  # ends a circle, which only a damaged manifest can have
            depths[key] = 1 + max((depth(str(source)) for source in made_from.get(key, ())), default=0)
        return depths[key]

    return sorted(stages, key=lambda kept: (str(kept.manifest["finished"]), depth(str(kept.manifest["key"]))))
