"""Vectors of the passages that are there already: a run's teacher left them, or a file holds them."""

import hashlib
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

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
) -> Floats:
    """Return vectors (N, D) of all passages for the queries of ``encoder``: a teacher's of the run, or a file's.

    Refused where they can't be of the space that the encoder's queries are in, as far as that can be seen.
    """
    run = system.run
    place = run.folder_of(run.results.asymmetric) if run and run.results.asymmetric else None
    own = Vectors.open(place) if place is not None else None
    over = run is not None and run.is_over(collection)
    if not Path(named).is_file():
        teacher = str(run.results.asymmetric).removeprefix("teacher.").removesuffix(".vectors") if own and run else None
        if own is not None and str(named) == teacher and not over:
            raise RunError(
                f"the vectors of {named} in {system.name} are of the texts that it was run on, and {collection.place} "
                "holds others: name a file with the vectors of these (Parquet, JSONL, or .npy with --vector-ids)."
            )
        if own is None or str(named) != teacher:
            raise RunError(
                f"{named} is no file of vectors, and no teacher whose vectors the queries of {system.name} can search "
                f"({f'that is {teacher}' if teacher else 'there is none'}): name a file (Parquet, JSONL, or "
                ".npy with --vector-ids)."
            )
        return own.passages
    cosine = encoder.cosine
    if place is not None:  # the student may normalise where its teacher does not
        cosine = read_json(place / "vectors.json")["cosine"]
    shape = Shape("cos" if cosine else "dot", encoder.dimension)
    found = _read(VectorFile(Path(named), ids, "passages"), collection, shape, system)
    places = np.unique(np.linspace(0, len(found) - 1, min(SAMPLE, len(found))).astype(np.int64))
    some = np.asarray(found[places])
    if own is not None and over:
        if not np.allclose(some, own.passages[places], atol=0.01):
            raise RunError(
                f"the vectors in {named} are not those that the student in {system.name} was taught by "
                f"({run.results.asymmetric if run else ''} of the run): its queries would be looked up in another "
                "space. Take the file that the recipe names, or run it again with this one."
            )
        return found
    texts = encoder.tokenise(collection.passage_texts(places), "document")
    nearest = (encoder.encode(texts, "document") @ some.T).argmax(axis=1) == np.arange(len(some))
    say(f"Of {len(some):,} passages, {nearest.mean():.0%} have their own vector as the nearest to the model's.")
    if len(some) >= FEWEST and nearest.mean() < NEAREST:
        warn(
            f"{system.name} does not seem to have learned the space of {named}: most passages are nearer to another "
            "passage's vector than to their own. Its queries may find nothing there; compare with a few of yours."
        )
    return found


def fingerprint_of(named: str | Path, ids: Path | None, vectors: Floats) -> str:
    """Return what an index of such vectors depends on: the content of their file, or the vectors themselves."""
    if Path(named).is_file():
        return VectorFile(Path(named), ids, "passages").fingerprint()
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
            "they are not of one space. Train a student on these vectors first, as recipes/existing-vectors.yaml does."
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
