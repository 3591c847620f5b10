"""The built-in collections: docstrings of the standard library, and of ``PACKAGES`` where they are installed.

Real text that is on every machine after install. ``demo`` is a small part of ``demo-full``. The same versions give
the same collections.
"""

import hashlib
import importlib.util
import platform
import sysconfig
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from itertools import chain
from multiprocessing import get_context
from pathlib import Path

from stepwell.collection.collection import normal
from stepwell.collection.docstrings import Pair, read_package
from stepwell.collection.readers.beir import write_split, write_texts
from stepwell.collection.source import Text
from stepwell.files import made_once

FORMAT = 1  # of the rules below; a change makes the collection again

# Dependencies of stepwell, so they are installed wherever it is; with the parts that are left out:
# internal, or nearly the same over and over.
_NAMES = (
    "accelerate bm25s click filelock fsspec huggingface_hub jinja2 joblib networkx numpy psutil pyarrow pydantic rich "
    "safetensors scipy sentence_transformers sklearn sympy tokenizers torch transformers typer"
)
_LEFT_OUT: dict[str, tuple[str, ...]] = {
    "pydantic": ("v1",),
    "torch": ("_dynamo", "_inductor", "_functorch", "_export", "_prims", "_refs", "onnx", "ao"),
    "transformers": ("models",),
}
PACKAGES = {name: _LEFT_OUT.get(name, ()) for name in _NAMES.split()}
DISTRIBUTIONS = {"sklearn": "scikit-learn"}  # where a package is published under another name


@dataclass(frozen=True)
class Size:
    """How many passages, and queries of each split: all when None; otherwise chosen by hash."""

    passages: int | None = None
    train: int | None = None
    dev: int | None = None
    test: int | None = None


SIZES = {"demo": Size(passages=2400, train=800, dev=150, test=350), "demo-full": Size()}
SHARES = {"test": 0.14, "dev": 0.24, "train": 1.0}  # where the splits end in the range of the hash


def build(name: str, cache: Path) -> Path:
    """Write the demo collections as BEIR directories, once for a set of installed versions; return that of ``name``.

    All of ``SIZES`` are written, since reading the sources is what takes time.
    """
    parts = [f"format {FORMAT}", f"python {platform.python_version()}", f"{PACKAGES} {SIZES} {SHARES}"]
    for package in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            parts.append(f"{package} {metadata.version(DISTRIBUTIONS.get(package, package))}")

    def write_all(folder: Path) -> None:
        pairs = distinct(read_installed())
        for name, size in SIZES.items():
            write(folder / name, pairs, size)

    versions = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
    return made_once(cache / "demo" / versions, write_all) / name


def read_installed() -> Iterator[Pair]:
    """Yield the pairs of the standard library and of the installed ``PACKAGES``, in that order.

    Parsing half a million lines is what takes the time, so every core takes packages in turn.
    """
    places: list[tuple[Path, str, tuple[str, ...]]] = [(Path(sysconfig.get_paths()["stdlib"]), "", ())]
    for name, skip in PACKAGES.items():
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.submodule_search_locations:
            places.append((Path(spec.submodule_search_locations[0]), name, skip))
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as cores:
        yield from chain.from_iterable(cores.map(read_package, *zip(*places, strict=True)))


def distinct(pairs: Iterable[Pair]) -> list[Pair]:
    """Keep the first of the pairs that share their name, query or passage."""
    seen: set[tuple[str, str]] = set()
    kept = []
    for pair in pairs:
        keys = {("name", pair.name), ("text", normal(pair.query)), ("text", normal(pair.passage))}
        kept += [] if keys & seen else [pair]
        seen |= keys
    return kept


def write(folder: Path, pairs: Iterable[Pair], size: Size) -> None:
    """Write pairs as a BEIR directory: chosen, ordered and dealt to the splits by hashes of their names."""
    chosen = sorted(pairs, key=lambda pair: hashlib.sha256(pair.name.encode()).digest())[: size.passages]
    taken = {split: [pair for pair in chosen if _split(pair) == split][: getattr(size, split)] for split in SHARES}
    passages = (Text(0, pair.name, "", pair.passage) for pair in chosen)
    write_texts(folder, passages, ((f"q:{pair.name}", pair.query, {}) for pair in chain(*taken.values())))
    for split, pairs_of in taken.items():
        write_split(folder, split, ((f"q:{pair.name}", pair.name) for pair in pairs_of))


def _split(pair: Pair) -> str:
    """Return the split of a pair, by another hash than its place, so that every choice holds all splits."""
    share = int.from_bytes(hashlib.sha256(f"split {pair.name}".encode()).digest()[:8], "big") / 2**64
    return next(split for split, until in SHARES.items() if share < until)
