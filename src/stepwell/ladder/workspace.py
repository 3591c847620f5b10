"""Folders that cannot be lost: one a stage, named by what it was made from, finished by one rename.

A stage's key is the hash of its kind, its settings, the collection, what it reads of seed and splits, and its inputs'
keys. The same work has the same key, in whichever recipe it stands: it is found again, never redone; and
a changed setting changes the keys of that stage and of what follows, of nothing before.
"""

import hashlib
import json
import platform
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

from filelock import FileLock, Timeout

from stepwell import distributed
from stepwell.display import SILENT, Progress, warn
from stepwell.errors import RunError
from stepwell.files import remove, sha256, writing
from stepwell.ladder.stage import Job, Seen, Settings, Stage, Surroundings
from stepwell.models.engines.machine import machine
from stepwell.systems.folder import real_name
from stepwell.systems.records import Choice, Decision, Manifest, Training
from stepwell.teachers.scoring import counting

LAYOUT = 7
"""Raised when what a stage writes changes its meaning, so that old folders are not taken for new ones."""

NOT_KEYED = frozenset({"gradient_cache"})
"""Settings that no key holds: with them or without them a training comes to the same weights, to rounding."""

LEFTOVERS = ("checkpoint.safetensors", "draft-checkpoint.safetensors")
"""What a training needs until its stage is whole."""

WRITTEN = ("recipe.yaml", "model", "runs", "results.json", "results.txt", "variants", "ablation.json")
"""What a run or an ablation writes beside its stages, and replaces without asking."""


class Workspace:
    """The folder of a run, locked while it is open; ``shared`` are the facts that keys are made of, by name."""

    def __init__(self, folder: Path, shared: dict[str, Any], checked: set[Path] | None = None) -> None:
        self.folder, self.shared = folder, shared
        self.checked = set() if checked is None else checked  # known to be whole; handed on from recipe to recipe
        self.keys: dict[str, str] = {}
        self.folders: dict[str, Path] = {}
        self.lock = FileLock(folder / ".lock")

    def __enter__(self) -> Self:
        self._spare_others()
        self._check_layout()
        try:
            (self.folder / "stages").mkdir(parents=True, exist_ok=True)
            if distributed.is_main():
                self.lock.acquire(timeout=0)
        except Timeout:
            raise RunError(
                f"another stepwell is at work in {self.folder}: two runs in one folder would write over each other. "
                "Wait for it, stop it, or choose another folder with --out."
            ) from None
        except OSError as error:
            raise RunError(
                f"can't write to {self.folder} ({error.strerror or error}): a run keeps its stages there. Choose a "
                "folder of your own with --out."
            ) from error
        return self

    def _spare_others(self) -> None:
        """Refuse a folder that is no run's and holds what a run would replace."""
        found = [name for name in WRITTEN if (self.folder / name).exists()]
        if found and not (self.folder / "stages").is_dir():
            raise RunError(
                f"{self.folder} holds {', '.join(found)} and no stages of a run: a run there would replace "
                f"{'it' if len(found) == 1 else 'them'}. Choose another folder with --out."
            )

    def _check_layout(self) -> None:
        """Refuse a folder whose stages an earlier version made: none of them would be found again."""
        made = (place / Manifest.file for place in (self.folder / "stages").glob("*-*"))
        first = next((place.parent for place in made if place.is_file()), None)
        with suppress(ValueError):  # a damaged manifest is found when its stage is
            if first is not None and Manifest.load(first).layout != LAYOUT:
                raise RunError(
                    f"{self.folder} holds a run by another version of stepwell; this one can't go on with its stages. "
                    "Its model and results can be used as before (search, eval, report, export); to run the recipe "
                    "with this version, name another folder with --out."
                )

    def __exit__(self, *_: object) -> None:
        self.lock.release()

    def resolve(self, name: str) -> str:
        """Return the stage behind ``name``: ``student@3.dev`` is the dev stage of whatever was promoted at rung 3."""

        def student_after(choice: str) -> str:  # before it is decided (in a plan), every rung counts as promoted
            folder = self.folders.get(choice)
            if folder:
                return Choice.load(folder).student
            return f"{choice[5:]}@1" if choice.startswith("rate-") else choice.replace("promote", "rung")

        return real_name(name, student_after)

    def inputs(self, stage: Stage) -> dict[str, str]:
        """Return the stage behind each role; of optional roles only those whose stage is there."""
        found = {role: self.resolve(name) for role, name in {**stage.inputs, **stage.optional}.items()}
        return {role: real for role, real in found.items() if role in stage.inputs or real in self.keys}

    def _given(self, stage: Stage) -> dict[str, str]:
        """Return the stage behind each name that an input has, a name once."""
        names = {**stage.inputs, **stage.optional}
        return {names[role]: real for role, real in self.inputs(stage).items()}

    def wanted(self, stage: Stage) -> bool:
        """Return whether all decisions that the stage waits for say ``go``."""
        return all(self.go(gate) for gate in stage.only_if or ())

    def go(self, gate: str) -> bool | None:
        """Return what a decision says; None when it is not taken."""
        folder = self.folders.get(gate)
        return None if folder is None else Decision.load(folder).go

    def key(self, stage: Stage) -> str:
        """Return the stage's key; its inputs must have been met before."""
        made_from = {
            "layout": LAYOUT,
            "kind": stage.kind,
            "settings": _keyed(stage.settings),
            "shared": self._read_by(stage),
            "inputs": [self.keys[real] for real in self._given(stage).values()],
            "names": list(self._given(stage).items()) if stage.named else [],
        }
        return hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()

    def _read_by(self, stage: Stage) -> dict[str, Any]:
        """Return the collection's fingerprint, and the facts that the stage says it reads."""
        return {name: self.shared[name] for name in ("collection", *stage.reads)}

    def identity(self, stage: Stage) -> str:
        """Return what the keys of the stages behind a finished stage are made of: its key, or its files' checksums."""
        if not stage.by_content:
            return self.key(stage)
        files = Manifest.load(self.place(stage)).files
        return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()

    def place(self, stage: Stage) -> Path:
        """Return the stage's folder, finished or not."""
        return self.folder / "stages" / f"{stage.kind}-{self.key(stage)[:16]}"

    def finished(self, stage: Stage) -> bool:
        """Return whether the stage's folder is there and whole, by checksums; a damaged one is moved out of the way."""
        place = self.place(stage)
        if not place.is_dir():
            return False
        problem = None if place in self.checked else damage(place)
        if problem is None:
            self.checked.add(place)
            return True
        aside = place.with_name(f"{place.name}.damaged-{int(time.time() * 1000)}")
        place.rename(aside)
        warn(f"{stage.name}: {problem}; doing this stage again (the damaged files are in {aside.name}).")
        return False

    def do(self, stage: Stage, surroundings: Surroundings, progress: Progress = SILENT) -> float:
        """Finish the stage, or find it finished; return the seconds it took now."""
        began, place = time.monotonic(), self.place(stage)
        done = distributed.is_main() and self.finished(stage)
        if not distributed.any_says(done):
            main, partial = distributed.is_main(), place.with_name(f"{place.name}.partial")
            names, settings = self.inputs(stage), Settings(stage.name, stage.settings)
            inputs, seen = {role: self.folders[real] for role, real in names.items()}, Seen.by(stage, surroundings)
            sealed = main and (partial / Manifest.file).is_file()
            # A run may have been killed behind the last file that a training writes, or before the rename alone.
            made = damage(partial) is None if sealed else main and (partial / Training.file).is_file()
            if not distributed.any_says(made) and (stage.collective or main):
                partial.mkdir(exist_ok=True)
                with writing(partial), counting(partial):
                    stage.run(Job(stage.name, settings, inputs, partial, seen, names, progress))
            distributed.barrier()
            if main:
                with writing(partial):
                    self._finish(stage, partial, place, None if sealed and made else time.monotonic() - began)
            distributed.barrier()
        name = self.resolve(stage.name)
        self.keys[name], self.folders[name] = self.identity(stage), place
        return time.monotonic() - began

    def _seal(self, stage: Stage, partial: Path, seconds: float) -> None:
        """Write the manifest: all that the stage leaves is there."""
        besides = {partial / name for name in (Manifest.file, *LEFTOVERS)}
        files = [path for path in sorted(partial.rglob("*")) if path.is_file() and path not in besides]
        Manifest(
            name=stage.name,
            kind=stage.kind,
            title=stage.title,
            key=self.key(stage),
            layout=LAYOUT,
            settings=stage.settings,
            shared=self._read_by(stage),
            inputs={name: self.keys[real] for name, real in self._given(stage).items()},
            seconds=round(seconds, 2),
            finished=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            versions=versions(),
            machine=machine(),
            files={str(path.relative_to(partial)): sha256(path) for path in files},
        ).save(partial)

    def _finish(self, stage: Stage, partial: Path, place: Path, seconds: float | None) -> None:
        """Seal what a stage left (unless ``seconds`` is None: it is), and give it its name; checkpoints go last."""
        if seconds is not None:
            self._seal(stage, partial, seconds)
        for leftover in LEFTOVERS:
            (partial / leftover).unlink(missing_ok=True)
        remove(place)
        partial.rename(place)
        self.checked.add(place)


def _keyed(settings: Any) -> Any:
    """Return settings without those that change how a result is come by, and not the result."""
    if isinstance(settings, Mapping):
        return {name: _keyed(value) for name, value in settings.items() if name not in NOT_KEYED}
    return settings


def damage(place: Path) -> str | None:
    """Say in a few words what is wrong with a finished stage's folder; None when all is well."""
    try:
        files = Manifest.load(place).files
    except (OSError, ValueError):
        return "its manifest is missing or unreadable"
    for name, checksum in files.items():
        path = place / name
        if not path.is_file():
            return f"{name} is missing"
        if sha256(path) != checksum:
            return f"{name} is not what was written (its checksum differs)"
    return None


@cache
def versions() -> dict[str, str]:
    """Return the versions that results depend on; reading them takes longer than many a stage, so once."""
    names = ("stepwell", "torch", "transformers", "sentence-transformers", "numpy", "bm25s", "ir-measures")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}
