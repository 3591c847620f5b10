"""The folder of an index: built beside its place and named by one rename when it is whole; checked and opened."""

import hashlib
import importlib.util
import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from stepwell.collection import Collection
from stepwell.collection.collection import hash_text, write_columns, write_index
from stepwell.display import progress, say
from stepwell.errors import CollectionError, RunError, StepwellError
from stepwell.files import cache, claimed, read_json, remove, write_json, writing
from stepwell.indexes.measure import Measured, Report, Sample
from stepwell.indexes.milvus import FILE
from stepwell.indexes.packages import empty_faiss
from stepwell.indexes.settings import IndexSettings, of_manifest, quantised
from stepwell.indexes.vector_index import VectorIndex, make, read, sizes
from stepwell.models.encoder import Encoder
from stepwell.retrieval.run import Floats

MANIFEST = "index.json"
FORMAT, VERSION = "stepwell-index", 1
MODEL, PASSAGES, VECTORS = "model", "passages", "vectors"
BATCH = 2_048  # passages held in memory while writing


# -- building


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
    given: str | None = None,
) -> Report:
    """Build an index of passages' vectors (N, D) in ``out`` and measure it; one that was interrupted is gone on with.

    ``out`` is not there yet, or empty, or this very index. The model is copied; the queries of ``split`` measure.
    ``given``: the fingerprint of vectors that are not the model's own.
    """
    out, settings = out.absolute(), fitting(settings, passages.shape[1])
    if not len(passages):
        raise CollectionError(f"the collection {collection.name} has no passages: there is nothing to index.")
    model = {"fingerprint": encoder.fingerprint, "scale": encoder.scale, "cosine": encoder.cosine}
    texts = {"name": collection.name, "fingerprint": collection.fingerprint, "passages": collection.n_passages}
    facts: dict[str, Any] = {"settings": settings.to_json(), "collection": texts}
    facts["model"] = model | {"dimension": passages.shape[1]}
    facts |= {"given": given} if given else {}
    key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    facts |= {"format": FORMAT, "version": VERSION, "key": key, "name": f"stepwell_{key[:24]}"}
    if _is_there(out, key):
        say(f"{out} is there already, with these settings, this model and these passages.")
        facts = read_manifest(out)
        measured, size = Measured(**facts["measured"]) if facts["measured"] else None, facts["bytes"]
        return Report(settings_of(facts), len(passages), size["search"], size["again"], measured)
    sample = Sample(collection, encoder, passages, split)
    with _part(out, key) as part, writing(out):
        encoder.save(part / MODEL)
        write_passages(collection, part / PASSAGES)
        report = _make(settings, sample, encoder.cosine, part / VECTORS, facts["name"])
        facts["measured"] = asdict(report.measured) if report.measured else None
        facts["bytes"] = {"search": report.search_bytes, "again": report.again_bytes}
        write_json(part / MANIFEST, facts | {"files": files_of(part)})
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


def _make(settings: IndexSettings, sample: Sample, normalise: bool, place: Path, name: str) -> Report:
    """Make an index in ``place`` and measure it."""
    count = len(sample.passages)
    with progress(count, f"index: {settings.kind}, {settings.faiss or settings.precision}") as bar:
        index = make(settings, sample.passages, normalise, place, name, bar)
    with closing(index):
        measured = sample.measure(index)
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


# -- what is in it, and opening it


def is_index(folder: Path) -> bool:
    """Return whether a folder says that it is an index."""
    return (folder / MANIFEST).is_file()


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read the manifest of an index; one that is missing, damaged or of a later version is refused."""
    with _damage(folder):
        facts: dict[str, Any] = read_json(folder / MANIFEST)
        if facts["format"] != FORMAT:
            raise ValueError(f"its format is {facts['format']!r}")
        if facts["version"] > VERSION:
            raise RunError(
                f"the index in {folder} was made by a later stepwell (version {facts['version']} of the format, and "
                f"this one reads {VERSION}): update stepwell, or build it again."
            )
        types = {"settings": dict, "model": dict, "collection": dict, "files": dict, "name": str, "key": str}
        wrong = [key for key, kind in types.items() if not isinstance(facts[key], kind)]
        if wrong:
            raise ValueError(f"{', '.join(wrong)} can't be read")
        return facts


def settings_of(facts: dict[str, Any]) -> IndexSettings:
    """Return the settings in a manifest; ValueError when they can't be."""
    settings = of_manifest(facts["settings"], int(facts["collection"]["passages"]))
    if settings != settings.resolve(int(facts["model"]["dimension"])):
        raise ValueError("its settings are not complete")
    return settings


def open_index(folder: Path) -> tuple[Collection, Encoder, VectorIndex]:
    """Open an index, wherever it lies now: its passages (no queries), model and vectors; damage is refused."""
    facts = read_manifest(folder)
    with _damage(folder):
        for name, size in facts["files"].items():
            if (folder / name).stat().st_size != size:
                raise ValueError(f"{name} has another size than it was written with")
        model, texts = facts["model"], facts["collection"]
        settings, count = settings_of(facts), int(texts["passages"])
        place, fingerprint = folder / PASSAGES, {"fingerprint": str(texts["fingerprint"])}
        collection = Collection(place, fingerprint, str(texts["name"]), place, str(place))  # without queries
        if collection.n_passages != count:
            raise ValueError(f"it has {collection.n_passages} passages, not {count}")
        encoder = Encoder.open(folder / MODEL, float(model["scale"]))
        if encoder.fingerprint != model["fingerprint"]:
            raise ValueError("its model is another one than the vectors were made with")
        return collection, encoder, read(settings, encoder.cosine, folder / VECTORS, facts["name"], count)


def files_of(folder: Path) -> dict[str, int]:
    """Return the sizes of an index's files; Milvus Lite's change when they are opened and don't count."""
    named = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    kept = (MODEL, PASSAGES, VECTORS)
    return {name: path.stat().st_size for name, path in named.items() if name.startswith(kept) and FILE not in name}


@contextmanager
def _damage(folder: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError, pa.ArrowException) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise RunError(
            f"{folder} holds no whole index of stepwell ({reason.rstrip('.')}): copy it again, or build it again with "
            "`stepwell index` into another folder."
        ) from error


def write_passages(collection: Collection, folder: Path) -> None:
    """Write ids and texts of all passages (the title in front, as they are embedded) and the index of the ids."""
    count, schema = collection.n_passages, pa.schema({"id": pa.string(), "text": pa.string()})
    folder.mkdir(exist_ok=True)
    with pa.ipc.new_file(str(folder / "passage.arrow"), schema) as writer:
        for start in range(0, count, BATCH):
            texts = collection.passages_slice(start, start + BATCH)
            ids = collection.passage_ids[start : start + BATCH]
            writer.write_batch(pa.record_batch([pa.array(ids), pa.array(texts)], schema=schema))
    write_index(folder / "passage-index.arrow", np.fromiter(map(hash_text, collection.passage_ids), np.uint64, count))
    write_columns(folder / "passage-start.arrow", start=np.array(collection.passage_starts(np.arange(count)), np.int32))
