"""Open a collection: parsed once into memory-mapped Arrow files, which every later opening only maps."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
from filelock import FileLock

from stepwell.collection import demo
from stepwell.collection.beir import Problem, Sources, find_sources
from stepwell.collection.collection import Collection, IdIndex, Strings, map_arrow
from stepwell.collection.qrels import Qrels
from stepwell.collection.scan import scan
from stepwell.errors import StepwellError

FORMAT = 1  # of the files in the cache; a change makes everything parse again


def default_cache() -> Path:
    """Return the folder for what can be made again: ``$STEPWELL_CACHE`` or ``~/.cache/stepwell``."""
    return Path(os.environ.get("STEPWELL_CACHE") or Path.home() / ".cache" / "stepwell")


def open_collection(path: str | Path, cache: Path | None = None) -> Collection:
    """Open a BEIR directory, or the built-in ``demo`` (everything: ``demo-full``).

    The first opening parses and writes Arrow files to the cache; later ones map them, until the size, time or
    name of a source file changes. A damaged cache is made again.

    Parameters
    ----------
    path
        A directory with corpus.jsonl, queries.jsonl (or .gz) and qrels/;
        write ``./demo`` for one of that name.
    cache
        Where the Arrow files go; ``$STEPWELL_CACHE`` or ``~/.cache/stepwell`` when None.

    Raises
    ------
    StepwellError
        With file and line, for everything that ``stepwell check`` calls an error.
    """
    cache = default_cache() if cache is None else Path(cache)
    try:
        if isinstance(path, str) and path in demo.SIZES:
            return _open(demo.build(path, cache), cache)
        return _open(Path(path).resolve(), cache)
    except OSError as error:
        raise StepwellError(
            f"The collection {path} can't be opened: {error.strerror or error}"
            f"{f' ({error.filename})' if error.filename else ''}. Its Arrow files go to {cache}, which must "
            "be writable "
            "and have room for about the size of the texts; the environment variable STEPWELL_CACHE names "
            "another place."
        ) from error


def _refuse(problem: Problem) -> None:
    if problem.severity == "error":
        raise StepwellError(f"{problem} Run `stepwell check` on the directory to see everything that is wrong with it.")


def _open(directory: Path, cache: Path) -> Collection:
    sources = find_sources(directory, _refuse)
    stamp = _stamp(directory, sources)
    place = hashlib.sha256(str(directory).encode()).hexdigest()[:12]
    folder = cache / "collections" / f"{directory.name}-{place}"
    opened = _map(folder, directory, stamp)
    if opened is not None:
        return opened
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        opened = _map(folder, directory, stamp)  # another process may have been faster
        if opened is None:
            _parse(sources, folder, directory, stamp)
            opened = _map(folder, directory, stamp)
    if opened is None:
        raise StepwellError(
            f"The Arrow files of {directory} can't be read back from {folder}: the disk may be failing or full."
        )
    return opened


def _stamp(directory: Path, sources: Sources) -> dict[str, Any]:
    """Return what tells whether the source files are still those that were parsed."""
    files = {file.relative_to(directory).as_posix(): file.stat() for file in sources.files}
    return {
        "format": FORMAT,
        "files": {name: [stat.st_size, stat.st_mtime_ns] for name, stat in files.items()},
    }


def _parse(sources: Sources, folder: Path, directory: Path, stamp: dict[str, Any]) -> None:
    """Fill the cache folder: under another name first, so that it is whole or absent."""
    part = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    try:
        fingerprint, qrels = scan(sources, part, _refuse)
        if _stamp(directory, find_sources(directory, _refuse)) != stamp:
            raise StepwellError(
                f"The files of {directory} changed while they were read. Open it again when they are complete."
            )
        sizes = {file.name: file.stat().st_size for file in part.iterdir()}
        meta = {"stamp": stamp, "fingerprint": fingerprint, "splits": list(qrels), "sizes": sizes}
        (part / "meta.json").write_text(json.dumps(meta), encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _map(folder: Path, directory: Path, stamp: dict[str, Any]) -> Collection | None:
    """Map the cache folder; None when it is absent, damaged or of other source files."""
    try:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        sizes = meta["sizes"]
        if meta["stamp"] != stamp or any((folder / name).stat().st_size != size for name, size in sizes.items()):
            return None
        return Collection(
            name=directory.name,
            path=directory,
            fingerprint=meta["fingerprint"],
            passages=_map_texts(folder, "passage"),
            queries=_map_texts(folder, "query"),
            qrels={name: _map_qrels(folder / f"qrels-{i}.arrow") for i, name in enumerate(meta["splits"])},
        )
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException):
        return None


def _map_texts(folder: Path, kind: str) -> tuple[IdIndex, Strings]:
    texts, index = map_arrow(folder / f"{kind}.arrow"), map_arrow(folder / f"{kind}-index.arrow")
    if texts.num_rows != index.num_rows:
        raise ValueError(f"{kind}: {texts.num_rows} texts, {index.num_rows} ids")
    ids = Strings(texts["id"])
    return IdIndex(ids, index["hash"].to_numpy(), index["row"].to_numpy()), Strings(texts["text"])


def _map_qrels(path: Path) -> Qrels:
    table = map_arrow(path)
    return Qrels(*(table[name].to_numpy() for name in ("query", "passage", "grade")))
