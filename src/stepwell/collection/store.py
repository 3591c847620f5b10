"""Open a collection: parsed once into memory-mapped Arrow files, which every later opening only maps; check it."""

import hashlib
import json
import tempfile
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from stepwell.collection import demo
from stepwell.collection.collection import Collection
from stepwell.collection.readers.formats import Place, find_source, place_of, section_of
from stepwell.collection.scan import scan
from stepwell.collection.source import Problem, Source
from stepwell.errors import CollectionError
from stepwell.files import cache as default_cache, read_json, read_or_make
from stepwell.recipe import CollectionSection

FORMAT = 3  # of the files in the cache; a change makes everything parse again
SHOWN = 20  # problems of one kind that are listed for one file; the rest is counted in one more line


def open_collection(path: Place, cache: Path | None = None) -> Collection:
    """Open a collection: a directory of any format, ``irds:NAME``, ``hf:NAME``, or the built-in ``demo``.

    The first opening parses and writes Arrow files to the cache; later ones map them, until the size, time or
    name of a source file changes. A damaged cache is made again. ``docs/your-own-corpus.md`` describes the formats.
    """
    cache = default_cache() if cache is None else Path(cache)
    section = section_of(path)
    built_in = section.path if section.path in demo.SIZES else None
    try:
        section = _built(section, cache)
        source = find_source(section, refuse)
        stamp, key = _stamp(section, source), place_of(section, source)
        hashed = hashlib.sha256(key.encode()).hexdigest()[:12]
        folder = cache / "collections" / f"{source.name.replace('/', '-')}-{hashed}"
        read = partial(_map, source, stamp, built_in or key)
        opened = read_or_make(folder, read, partial(_parse, source, section, stamp))
    except OSError as error:
        raise CollectionError(
            f"The collection {built_in or section.path} can't be opened: {error.strerror or error}"
            f"{f' ({error.filename})' if error.filename else ''}. Its Arrow files go to {cache}, which must be "
            "writable and have room for about the size of the texts; the environment variable STEPWELL_CACHE names "
            "another place."
        ) from error
    if opened is None:
        raise CollectionError(
            f"The Arrow files of {source.home} can't be read back from {folder}: the disk may be failing or full."
        )
    return opened


def check_directory(path: Place) -> list[Problem]:
    """Return every problem of a collection of any format: errors stop a run, warnings do not."""
    listed: list[Problem] = []
    counts: Counter[tuple[str, str, str]] = Counter()  # by kind
    full: dict[tuple[str, str, str], int] = {}  # where the last one of a kind is listed
    seen: set[int] = set()  # some files are read more than once

    def report(problem: Problem) -> None:
        kind = problem.file, problem.code, problem.severity
        if hash(problem) not in seen and counts[kind] < SHOWN:
            listed.append(problem)
            full[kind] = len(listed)
        counts[kind] += hash(problem) not in seen
        seen.add(hash(problem))

    section = _built(section_of(path), default_cache())
    source = find_source(section, report)
    try:
        with tempfile.TemporaryDirectory(prefix="stepwell-check-") as folder:
            scan(source, Path(folder), report)
    except OSError as error:
        raise CollectionError(
            f"{section.path} can't be checked: {error.strerror or error}. Checking takes room for about the "
            f"size of the texts in {tempfile.gettempdir()}; the environment variable TMPDIR names another place."
        ) from error
    for end, kind in sorted(((end, kind) for kind, end in full.items()), reverse=True):
        if (rest := counts[kind] - SHOWN) > 0:
            listed.insert(end, replace(listed[end - 1], line=None, message=f"and {rest:,} more of this kind."))
    return listed


def refuse(problem: Problem) -> None:
    """Raise the first error of a collection as StepwellError; warnings pass."""
    if problem.severity == "error":
        raise CollectionError(
            f"{problem} Run `stepwell check` on the directory to see everything that is wrong with it."
        )


def _built(section: CollectionSection, cache: Path) -> CollectionSection:
    """Return where a collection lies; a built-in one is made for it."""
    if section.path not in demo.SIZES:
        return section
    return section.model_copy(update={"path": str(demo.build(section.path, cache))})


def _stamp(section: CollectionSection, source: Source) -> Any:
    """Return what shows whether the source is still what was parsed, and in the same way; as JSON gives it back."""
    reading = section.reading()
    return json.loads(json.dumps({"format": FORMAT, **source.stamp(), **({"reading": reading} if reading else {})}))


def _parse(source: Source, section: CollectionSection, stamp: dict[str, Any], folder: Path) -> None:
    folder.mkdir()
    facts = scan(source, folder, refuse)
    if _stamp(section, find_source(section, refuse)) != stamp:
        raise CollectionError(
            f"The files of {source.home} changed while they were read. Open it again when they are complete."
        )
    sizes = {file.name: file.stat().st_size for file in folder.iterdir()}
    (folder / "meta.json").write_text(json.dumps({**facts, "stamp": stamp, "sizes": sizes}), encoding="utf-8")


def _map(source: Source, stamp: dict[str, Any], place: str, folder: Path) -> Collection | None:
    """Map the cache folder; None when it is absent, damaged or of other source files."""
    try:
        meta = read_json(folder / "meta.json")
        sizes = meta["sizes"]
        if meta["stamp"] != stamp or any((folder / name).stat().st_size != size for name, size in sizes.items()):
            return None
        return Collection(folder, meta, source.name, source.home, place)
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException):
        return None
