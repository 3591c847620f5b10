"""What each system of the test table costs: its weights, and the time that the run's own stages took.

Times are wall times of stages over the texts or queries that they worked on, on the machine of the run, with whatever
else ran there. They include opening the model, and an encoding that was resumed counts only its last part.
"""

import math
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from safetensors import SafetensorError, safe_open

from stepwell.files import read_json
from stepwell.systems.folder import RunFolder, StageFolder


@dataclass(frozen=True)
class Cost:
    """Weights and times of one system; None is "not known"."""

    system: str  # its name in the test table
    kind: str  # student, teacher, base, bm25 or combined (several at work for one query)
    parameters: int | None = None  # in all weights that answering a query needs, the passages' encoder's included
    megabytes: float | None = None  # their size on disk, 10^6 bytes
    layers: int | None = None  # of the query's encoder
    width: int | None = None
    encode_ms: float | None = None  # to encode a text: the median of so many ``encodings`` with models of the same size
    encodings: int = 0
    query_ms: float | None = None  # a query: encoding, searching, re-ranking; for BM25 making its index too


def costs(run: RunFolder, systems: dict[str, str]) -> list[Cost]:
    """Return the cost of each system, given by label and by the name of its test stage."""
    speeds = _encoding_speeds(run)
    return [_cost(run, label, stage, speeds) for label, name in systems.items() if (stage := run.named(name))]


def _cost(run: RunFolder, label: str, stage: StageFolder, speeds: dict[int, list[float]]) -> Cost:
    queries = _count(stage.folder / "evaluation.parquet")
    if stage.kind == "search-bm25":
        return Cost(label, "bm25", query_ms=_per(stage, queries))
    inputs = run.inputs(stage).values()
    models = models_of(run, stage)
    weights = [weights_of(folder) for folder in models.values()]
    hosted = any(source.kind == "name-teacher" and not models_of(run, source) for source in inputs)  # weights elsewhere
    layers, width = _shape(next(iter(models.values()), None))
    own = speeds.get(weights[0][0], []) if weights else []  # the first model embeds the queries
    encode = float(np.median(own)) if own else None
    # this stage and those that it takes its lists from, but BM25's
    tests = [stage, *(source for source in inputs if source.kind == "search-test")]
    seconds = sum(test.manifest.seconds or 0.0 for test in tests)
    alone = len(models) == 1 and stage.kind == "search-test"
    kind = "teacher" if label.startswith("teacher ") else "base" if label.startswith("base model") else "student"
    return Cost(
        label,
        "combined" if stage.kind != "search-test" or len(models) > 1 else kind,
        None if hosted else sum(count for count, _ in weights) or None,
        None if hosted else sum(size for _, size in weights) / 1e6 or None,
        layers,
        width,
        encode if alone else None,
        len(own),
        None if encode is None or not queries else encode + 1e3 * seconds / queries,
    )


def models_of(run: RunFolder, stage: StageFolder) -> dict[Path, Path]:
    """Return the model folders behind a test stage, the queries' encoder first, each once."""
    found: dict[Path, Path] = {}
    for source in run.inputs(stage).values():
        if (source.folder / "model").is_dir():
            found[source.folder] = source.folder / "model"
        elif source.kind in ("vectors", "name-teacher") or source.kind.startswith("search-"):
            found |= models_of(run, source)
    return found


def _encoding_speeds(run: RunFolder) -> dict[int, list[float]]:
    """Return milliseconds a text of every encoding, by the parameters of the model."""
    speeds: dict[int, list[float]] = {}
    for stage in run.stages:
        if stage.kind == "vectors":
            lengths = [_count(stage.folder / f"{name}.npy") for name in ("passages", "queries")]
            texts = sum(lengths) if all(lengths) else 0  # a time is of both; passages alone are in fp32, to search
            for model in models_of(run, stage).values():
                if (value := _per(stage, texts)) is not None:
                    speeds.setdefault(weights_of(model)[0], []).append(value)
    return speeds


def _per(stage: StageFolder, items: int) -> float | None:
    """Return the milliseconds that a stage took for each of so many items."""
    seconds = stage.manifest.seconds
    return 1e3 * seconds / items if seconds is not None and items else None


def weights_of(model: Path) -> tuple[int, int]:
    """Return how many numbers a model directory's safetensors files hold, and their bytes on disk."""
    count = size = 0
    for path in sorted(model.rglob("*.safetensors")):
        with suppress(OSError, SafetensorError), safe_open(str(path), framework="np") as file:
            count += sum(math.prod(file.get_slice(name).get_shape()) for name in list(file.keys()))
            size += path.stat().st_size
    return count, size


def _shape(model: Path | None) -> tuple[int | None, int | None]:
    """Return layers and width of a model directory."""
    for path in sorted(model.rglob("config.json"), key=lambda path: len(path.parts)) if model else []:
        with suppress(OSError, ValueError):
            facts = read_json(path)
            layers = facts.get("num_hidden_layers", facts.get("n_layers"))
            width = facts.get("hidden_size", facts.get("dim"))
            if layers is not None:
                return int(layers), int(width) if width is not None else None
    return None, None


def _count(path: Path) -> int:
    """Return how many rows a Parquet file or an array has, 0 where it can't be read."""
    try:
        return int(pq.read_metadata(path).num_rows if path.suffix == ".parquet" else len(np.load(path, mmap_mode="r")))
    except (OSError, ValueError, EOFError):
        return 0
