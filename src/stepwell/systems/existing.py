"""Vectors of the passages that are there already: a run's teacher left them, or a file holds them."""

import hashlib
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stepwell.collection import Collection
from stepwell.display import say, warn
from stepwell.errors import RunError
from stepwell.files import cache, read_json, read_or_make
from stepwell.models.encoder import Encoder
from stepwell.retrieval.run import Floats
from stepwell.retrieval.vectors import Vectors
from stepwell.systems.opening import System
from stepwell.teachers.vector_files import Shape, VectorFile, import_vectors

SAMPLE, FEWEST = 256, 8  # passages that are looked at, at most and at least
NEAREST = 0.5  # share of them whose own vector has to be the nearest to the student's


def existing_vectors(
    system: System, collection: Collection, encoder: Encoder, named: str | Path, ids: Path | None
) -> tuple[Floats, str]:
    """Return vectors (N, D) of all passages for the queries of ``encoder``, and what is in them, as a fingerprint.

    ``named`` is the teacher of the run whose space its student was pulled to, or a file. Refused where they can't be of
    the space that the encoder's queries are in, as far as that can be seen.
    """
    run, results = system.run, system.run.results if system.run else None
    place = run.folder_of(results.asymmetric) if run and results and results.asymmetric else None
    own = Vectors.open(place) if place is not None else None
    teacher = str(results.asymmetric).removeprefix("teacher.").removesuffix(".vectors") if own and results else None
    over = run is not None and run.is_over(collection)
    if own is not None and str(named) == teacher and over:
        if (student := run.student_vectors() if run else None) is not None:
            places = _some(len(own.passages))
            _check_space(student.passages[places], own.passages[places], str(named), system)
        return own.passages, _digest(own.passages)
    if not Path(named).is_file():
        if own is not None and str(named) == teacher:
            raise RunError(
                f"the vectors of {named} in {system.name} are of the texts that it was run on, and {collection.place} "
                "holds others: name a file with the vectors of these (Parquet, JSONL, or .npy with --vector-ids)."
            )
        raise RunError(
            f"{named} is no file of vectors, and no teacher whose vectors the queries of {system.name} can search "
            f"({f'that is {teacher}' if teacher else 'there is none'}): name a file (Parquet, JSONL, or "
            ".npy with --vector-ids)."
        )
    cosine = encoder.cosine
    if place is not None:  # the student may normalise where its teacher does not
        cosine = read_json(place / "vectors.json")["cosine"]
    shape, file = Shape("cos" if cosine else "dot", encoder.dimension), VectorFile(Path(named), ids, "passages")
    found = _read(file, collection, shape, system)
    places = _some(len(found))
    some = np.asarray(found[places])
    if own is not None and over and not np.allclose(some, own.passages[places], atol=0.01):
        raise RunError(
            f"the vectors in {named} are not those that the student in {system.name} was taught by ({teacher} of the "
            "run): its queries would be looked up in another space. Take the file that the recipe names, or run it "
            "again with this one."
        )
    texts = encoder.tokenise(collection.passage_texts(places), "document")
    _check_space(encoder.encode(texts, "document"), some, str(named), system)
    return found, file.fingerprint()


def _some(count: int) -> NDArray[np.int64]:
    """Return rows that are looked at, spread evenly."""
    return np.unique(np.linspace(0, count - 1, min(SAMPLE, count)).astype(np.int64))


def _check_space(ours: Floats, theirs: Floats, named: str, system: System) -> None:
    """Say of how many passages the own vector is the nearest to the model's; warn where that is of few."""
    nearest = (ours @ theirs.T).argmax(axis=1) == np.arange(len(theirs))
    say(f"Of {len(theirs):,} passages, {nearest.mean():.0%} have their own vector as the nearest to the model's.")
    if len(theirs) >= FEWEST and nearest.mean() < NEAREST:
        warn(
            f"{system.name} does not seem to have learned the space of {named}: most passages are nearer to another "
            "passage's vector than to their own. Its queries may find nothing there; compare with a few of yours."
        )


def _digest(vectors: Floats) -> str:
    """Return the sha256 of vectors."""
    digest = hashlib.sha256()
    for start in range(0, len(vectors), 65_536):
        digest.update(np.ascontiguousarray(vectors[start : start + 65_536]).tobytes())
    return digest.hexdigest()


def _read(file: VectorFile, collection: Collection, shape: Shape, system: System) -> Floats:
    """Return the vectors of a file as rows of the collection, from the cache where they were read before."""
    content, width, wanted = file.fingerprint(), file.width(), shape.dimensions or 0
    if width != wanted and not (width > wanted and wanted in _dimensions(system)):
        raise RunError(
            f"{file.path} has vectors with {width:,} numbers, and those of {system.name} have {wanted:,}: "
            "they are not of one space. Train a student on these vectors first, as recipes/existing-vectors.yaml does; "
            f"of one that was taught by their first {wanted:,} numbers, cut them to these."
        )
    facts = f"{content} {collection.texts_fingerprint} {shape}"
    cached = cache() / "given" / f"{hashlib.sha256(facts.encode()).hexdigest()[:32]}.npy"
    every = np.arange(collection.n_passages, dtype=np.int32)
    find, names = collection.find_passage, collection.passage_ids

    def make(target: Path) -> None:
        _, unknown = import_vectors(file, target, shape, find, names, every)
        if unknown:
            say(f"{unknown:,} vectors in {file.path} are of texts that the collection has not.")

    found = read_or_make(cached, partial(_map, rows=len(every)), make)
    if found is None:
        raise RunError(f"the vectors in {cached} can't be read back: the disk may be failing.")
    return found


def _map(cached: Path, rows: int) -> Floats | None:
    try:
        found: Floats = np.load(cached, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return found if len(found) == rows else None


def _dimensions(system: System) -> set[Any]:
    """Return what a run's teachers were cut to."""
    teachers = system.run.recipe_values.get("teachers", {}) if system.run else {}
    return {teacher.get("dimensions") for teacher in teachers.values() if isinstance(teacher, dict)}
