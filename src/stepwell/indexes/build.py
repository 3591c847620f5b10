"""Building an index: beside its place first, named by one rename when it is whole."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from stepwell.collection import Collection
from stepwell.display import progress, say
from stepwell.errors import CollectionError, RunError, StepwellError
from stepwell.files import cache, writing
from stepwell.indexes.folder import (
    FORMAT,
    MANIFEST,
    MODEL,
    PASSAGES,
    VECTORS,
    VERSION,
    files_of,
    is_index,
    read_manifest,
    settings_of,
)
from stepwell.indexes.measure import Measured, Report, Sample
from stepwell.indexes.packages import CENTROIDS
from stepwell.indexes.passages import write_passages
from stepwell.indexes.settings import IndexSettings
from stepwell.indexes.vector_index import VectorIndex, make, sizes
from stepwell.models.encoder import Encoder

DRAFT = "draft.json"


def build(
    collection: Collection,
    encoder: Encoder,
    passages: NDArray[np.float32],
    out: Path,
    settings: IndexSettings,
    split: str | None = None,
) -> Report:
    """Build an index in ``out`` and measure it; one that was interrupted is gone on with.

    Parameters
    ----------
    collection
        The passages, and queries to measure with.
    encoder
        The model; it is copied.
    passages
        Its vectors of the passages, shape (N, D), may be memory-mapped; read block by block.
    out
        The folder of the index; not there yet, or empty, or this very index.
    settings
        How.
    split
        Its queries measure, and nDCG is by its judgements; see :class:`stepwell.indexes.measure.Sample`.

    Raises
    ------
    StepwellError
        When ``out`` holds something else, a package is missing, or the settings don't fit the vectors.
    """
    out, settings = out.absolute(), settings.resolve(passages.shape[1])
    if not len(passages):
        raise CollectionError(f"the collection {collection.name} has no passages: there is nothing to index.")
    made_from = {
        "settings": asdict(settings),
        "model": {
            "fingerprint": encoder.fingerprint,
            "scale": encoder.scale,
            "dimension": passages.shape[1],
            "cosine": encoder.cosine,
        },
        "collection": {
            "name": collection.name,
            "fingerprint": collection.fingerprint,
            "passages": collection.n_passages,
        },
    }
    key = hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()
    name = f"stepwell_{key[:24]}"
    facts = {"format": FORMAT, "version": VERSION, "key": key, "name": name}
    if _is_there(out, key):
        say(f"{out} is there already, with these settings, this model and these passages.")
        return report_of(read_manifest(out))
    sample = Sample(collection, encoder, passages, split)
    with _draft(out, key) as part, writing(out):
        encoder.save(part / MODEL)
        (part / PASSAGES).mkdir(exist_ok=True)
        write_passages(collection, part / PASSAGES)
        index = _make(settings, passages, encoder.cosine, part / VECTORS, name)
        report = _report(settings, index, part / VECTORS, sample)
        found = {
            "measured": asdict(report.measured) if report.measured else None,
            "bytes": {"search": report.search_bytes, "again": report.again_bytes},
            "files": files_of(part),
        }
        _write(part / MANIFEST, facts | made_from | found)
    return report


def compare(
    collection: Collection,
    encoder: Encoder,
    passages: NDArray[np.float32],
    choices: Sequence[IndexSettings],
    split: str | None = None,
) -> list[Report]:
    """Measure several kinds of indexes, each made in a folder that is deleted again.

    Raises
    ------
    StepwellError
        When one of them is for a Milvus cluster: it would keep what is loaded.
    """
    if any(choice.uri for choice in choices):
        raise StepwellError("a comparison keeps nothing, and a Milvus cluster would: leave its address out.")
    sample = Sample(collection, encoder, passages, split)
    place = cache() / "indexes"
    place.mkdir(parents=True, exist_ok=True)
    reports = []
    for choice in choices:
        settings = choice.resolve(passages.shape[1])
        with tempfile.TemporaryDirectory(dir=place) as name:
            index = _make(settings, passages, encoder.cosine, Path(name) / VECTORS, "stepwell_compared")
            reports.append(_report(settings, index, Path(name) / VECTORS, sample))
    return reports


def choices(passages: int, width: int) -> list[IndexSettings]:
    """Return what is worth comparing for so many vectors of ``width`` numbers with the packages that are installed."""
    exact = IndexSettings()
    precise = [replace(exact, precision="fp32"), replace(exact, precision="fp16"), replace(exact, precision="int8")]
    bits = [
        replace(exact, precision="binary", rescore=0),
        replace(exact, precision="binary", rescore_with="binary"),
        replace(exact, precision="binary", rescore_with="int8"),
        replace(exact, precision="binary", rescore_with="int8", rescore=20),
    ]
    half = [replace(settings, dimension=width // 2) for settings in (*precise[::2], bits[2])]
    quarter = [replace(settings, dimension=width // 4) for settings in half]
    graphs = []
    if _installed("usearch"):
        graphs += [IndexSettings("usearch", "fp16"), IndexSettings("usearch", "binary")]
    if _installed("faiss"):
        graphs += [IndexSettings("faiss-hnsw", "fp16")]
        graphs += [IndexSettings("faiss-ivfpq")] if passages >= CENTROIDS else []
    return [*precise, *bits, *(half + quarter if width >= 32 else []), *graphs]


def report_of(facts: dict[str, Any]) -> Report:
    """Return what a manifest says of its index."""
    measured = Measured(**facts["measured"]) if facts["measured"] else None
    size = facts["bytes"]
    return Report(settings_of(facts), facts["collection"]["passages"], size["search"], size["again"], measured)


def _make(
    settings: IndexSettings, passages: NDArray[np.float32], normalise: bool, place: Path, name: str
) -> VectorIndex:
    with progress(len(passages), f"index: {settings.kind}, {settings.precision}") as bar:
        return make(settings, passages, normalise, place, name, bar)


def _report(settings: IndexSettings, index: VectorIndex, place: Path, sample: Sample) -> Report:
    try:
        measured = sample.measure(index)
    finally:
        index.close()
    count = len(sample.passages)
    return Report(settings, count, *sizes(settings, place, count), measured)


def _is_there(out: Path, key: str) -> bool:
    """Return whether ``out`` is this very index; StepwellError when it is something else."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    if is_index(out) and read_manifest(out)["key"] == key:
        return True
    what = "an index with other settings or of another model or collection" if is_index(out) else "no index"
    raise RunError(
        f"{out} is there already and holds {what}: nothing is overwritten. Choose another folder with --out, or move "
        "it away."
    )


@contextmanager
def _draft(out: Path, key: str) -> Iterator[Path]:
    """Give the folder that an index is made in, locked, with what an interrupted build left; named at the end."""
    part = out.with_name(f"{out.name}.part")
    if part.exists() and not (part / DRAFT).is_file() and (not part.is_dir() or any(part.iterdir())):
        raise RunError(
            f"{part}, where the index would be made, holds something else: nothing is overwritten. Choose another "
            "folder with --out, or move it away."
        )
    part.mkdir(parents=True, exist_ok=True)
    if not (part / DRAFT).is_file():
        _write(part / DRAFT, key)
    lock = FileLock(part / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise RunError(f"another stepwell is at work in {part}: wait for it, or stop it.") from None
    try:
        if (part / DRAFT).read_text(encoding="utf-8") != json.dumps(key):  # a build with other settings began it
            shutil.rmtree(part / VECTORS, ignore_errors=True)
            _write(part / DRAFT, key)
        yield part
    finally:
        lock.release()
    for leftover in (part / DRAFT, part / ".lock"):
        leftover.unlink(missing_ok=True)
    if out.is_dir():
        out.rmdir()  # empty, or this fails
    part.rename(out)


def _write(path: Path, content: object) -> None:
    draft = path.with_suffix(".tmp")
    with draft.open("w", encoding="utf-8") as file:
        json.dump(content, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def _installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None
