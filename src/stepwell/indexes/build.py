"""Building an index: beside its place first, named by one rename when it is whole."""

import hashlib
import importlib.util
import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from stepwell.collection import Collection
from stepwell.display import progress, say
from stepwell.errors import CollectionError, RunError, StepwellError
from stepwell.files import cache, claimed, remove, write_json, writing
from stepwell.indexes import folder
from stepwell.indexes.measure import Measured, Report, Sample
from stepwell.indexes.packages import empty_faiss
from stepwell.indexes.settings import IndexSettings, quantised
from stepwell.indexes.vector_index import make, sizes
from stepwell.models.encoder import Encoder
from stepwell.retrieval.run import Floats


def fitting(settings: IndexSettings, width: int) -> IndexSettings:
    """Return the settings resolved for vectors of ``width`` numbers; StepwellError when they don't fit these."""
    settings = settings.resolve(width)
    if settings.faiss is not None:
        empty_faiss(settings, width)
    return settings


def build(
    collection: Collection,
    encoder: Encoder,
    passages: Floats,
    out: Path,
    settings: IndexSettings,
    split: str | None = None,
) -> Report:
    """Build an index of passages' vectors (N, D) in ``out`` and measure it; one that was interrupted is gone on with.

    ``out`` is not there yet, or empty, or this very index. The model is copied; the queries of ``split`` measure.
    """
    out, settings = out.absolute(), fitting(settings, passages.shape[1])
    if not len(passages):
        raise CollectionError(f"the collection {collection.name} has no passages: there is nothing to index.")
    model = {"fingerprint": encoder.fingerprint, "scale": encoder.scale, "cosine": encoder.cosine}
    texts = {"name": collection.name, "fingerprint": collection.fingerprint, "passages": collection.n_passages}
    facts: dict[str, Any] = {"settings": settings.to_json(), "collection": texts}
    facts["model"] = model | {"dimension": passages.shape[1]}
    key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    facts |= {"format": folder.FORMAT, "version": folder.VERSION, "key": key, "name": f"stepwell_{key[:24]}"}
    if _is_there(out, key):
        say(f"{out} is there already, with these settings, this model and these passages.")
        return report_of(folder.read_manifest(out))
    sample = Sample(collection, encoder, passages, split)
    with _part(out, key) as part, writing(out):
        encoder.save(part / folder.MODEL)
        folder.write_passages(collection, part / folder.PASSAGES)
        report = _make(settings, sample, encoder.cosine, part / folder.VECTORS, facts["name"])
        facts["measured"] = asdict(report.measured) if report.measured else None
        facts["bytes"] = {"search": report.search_bytes, "again": report.again_bytes}
        write_json(part / folder.MANIFEST, facts | {"files": folder.files_of(part)})
    return report


def compare(
    collection: Collection,
    encoder: Encoder,
    passages: Floats,
    choices: Sequence[IndexSettings],
    split: str | None = None,
) -> list[Report]:
    """Measure several kinds of indexes, each made in a folder that is deleted again."""
    if any(choice.uri for choice in choices):
        raise StepwellError("a comparison keeps nothing, and a Milvus cluster would: leave its address out.")
    fitted = [fitting(choice, passages.shape[1]) for choice in choices]
    sample, place, reports = Sample(collection, encoder, passages, split), cache() / "indexes", []
    place.mkdir(parents=True, exist_ok=True)
    for settings in fitted:
        with tempfile.TemporaryDirectory(dir=place) as name:
            reports.append(_make(settings, sample, encoder.cosine, Path(name) / "vectors", "stepwell_compared"))
    return reports


def choices(passages: int, width: int) -> list[IndexSettings]:
    """Return what is worth comparing for so many vectors of ``width`` numbers with the packages that are installed."""
    precise = [IndexSettings(precision="fp32"), IndexSettings(precision="fp16"), IndexSettings(precision="int8")]
    bits = [
        IndexSettings(precision="binary", rescore=0),
        IndexSettings(precision="binary", rescore_with="binary"),
        IndexSettings(precision="binary", rescore_with="int8"),
        IndexSettings(precision="binary", rescore_with="int8", rescore=20),
    ]
    half = [replace(settings, dimension=width // 2) for settings in (*precise[::2], bits[2])]
    quarter = [replace(settings, dimension=width // 4) for settings in half]
    others = []
    if importlib.util.find_spec("usearch"):
        others += [IndexSettings("usearch", "fp16"), IndexSettings("usearch", "binary")]
    if importlib.util.find_spec("faiss"):
        others += [IndexSettings(faiss="HNSW16,SQfp16")]
        # each part of a product-quantised vector has 256 centroids, and as many passages are the least
        others += [IndexSettings(faiss=quantised(passages, width))] if passages >= 256 else []
    return [*precise, *bits, *(half + quarter if width >= 32 else []), *others]


def report_of(facts: dict[str, Any]) -> Report:
    """Return what a manifest says of its index."""
    measured = Measured(**facts["measured"]) if facts["measured"] else None
    size = facts["bytes"]
    return Report(folder.settings_of(facts), facts["collection"]["passages"], size["search"], size["again"], measured)


def _make(settings: IndexSettings, sample: Sample, normalise: bool, place: Path, name: str) -> Report:
    """Make an index in ``place`` and measure it."""
    count = len(sample.passages)
    with progress(count, f"index: {settings.kind}, {settings.faiss or settings.precision}") as bar:
        index = make(settings, sample.passages, normalise, place, name, bar)
    try:
        measured = sample.measure(index)
    finally:
        index.close()
    return Report(settings, count, *sizes(settings, place, count), measured)


def _is_there(out: Path, key: str) -> bool:
    """Return whether ``out`` is this very index; StepwellError when it is something else."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    if folder.is_index(out) and folder.read_manifest(out)["key"] == key:
        return True
    what = "an index with other settings or of another model or collection" if folder.is_index(out) else "no index"
    raise RunError(
        f"{out} is there already and holds {what}: nothing is overwritten. Choose another folder with --out, or move "
        "it away."
    )


@contextmanager
def _part(out: Path, key: str) -> Iterator[Path]:
    """Give the folder that an index is made in, with what an interrupted build left; it is ``out`` in the end."""
    part = out.with_name(f"{out.name}.part")
    with claimed(part, {"index": key}, "part of an index", anew=True):
        yield part
    for leftover in ("source.json", ".lock"):
        remove(part / leftover)
    if out.is_dir():
        out.rmdir()  # empty, or this fails
    part.rename(out)
