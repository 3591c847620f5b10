"""What each system of the test table costs: its weights, and the time that the run's own stages took.

Times are wall times of stages over the texts or queries that they worked on, on the machine of the run, with whatever
else ran there. They include opening the model, and an encoding that was resumed counts only its last part.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import pyarrow.parquet as pq
from safetensors import SafetensorError, safe_open

from stepwell.reports.folder import Kept, RunFolder


@dataclass(frozen=True)
class Cost:
    """Weights and times of one system; None is "not known".

    Parameters
    ----------
    system
        Its name in the test table.
    kind
        ``student``, ``teacher``, ``base``, ``bm25`` or ``combined`` (several at work for one query).
    parameters
        Numbers in all weights that answering a query needs, those of the passages' encoder included.
    megabytes
        Their size on disk, 10^6 bytes.
    layers, width
        Of the query's encoder.
    encode_ms
        Milliseconds to encode a text, the median of ``encodings`` stages with models of the same size.
    encodings
        How many stages that median is over.
    query_ms
        Milliseconds a query: encoding it, searching, and re-ranking where there is any. For BM25, its index is made in
        that time too.
    """

    system: str
    kind: str
    parameters: int | None = None
    megabytes: float | None = None
    layers: int | None = None
    width: int | None = None
    encode_ms: float | None = None
    encodings: int = 0
    query_ms: float | None = None


def costs(run: RunFolder, systems: dict[str, str]) -> list[Cost]:
    """Return the cost of each system, given by label and by the name of its test stage."""
    speeds = _encoding_speeds(run)
    return [_cost(run, label, kept, speeds) for label, stage in systems.items() if (kept := run.named(stage))]


def _cost(run: RunFolder, label: str, kept: Kept, speeds: dict[int, list[float]]) -> Cost:
    queries = _rows(kept.folder / "evaluation.parquet")
    if kept.kind == "search-bm25":
        return Cost(label, "bm25", query_ms=_per(kept, queries))
    inputs = run.inputs(kept)
    models = models_of(run, kept)
    weights = [weights_of(folder) for folder in models.values()]
    elsewhere = any(stage.kind == "name-teacher" and not models_of(run, stage) for stage in inputs.values())  # hosted
    parameters = None if elsewhere else sum(count for count, _ in weights) or None
    layers, width = _shape(next(iter(models.values()), None))
    # the first model embeds the queries
    own = speeds.get(weights[0][0], []) if weights else []
    encode = median(own) if own else None
    base = _test_seconds(run, kept)
    return Cost(
        label,
        _kind(kept, label, len(models)),
        parameters,
        None if elsewhere else sum(size for _, size in weights) / 1e6 or None,
        layers,
        width,
        encode if len(models) == 1 and kept.kind == "search-test" else None,
        len(own),
        None if encode is None or not queries else encode + 1e3 * base / queries,
    )


def _kind(kept: Kept, label: str, models: int) -> str:
    if kept.kind != "search-test" or models > 1:
        return "combined"
    return "teacher" if label.startswith("teacher ") else "base" if label.startswith("base model") else "student"


def _test_seconds(run: RunFolder, kept: Kept) -> float:
    """Return the seconds of a test stage and of those test stages that it takes its lists from (but BM25's)."""
    before = [stage for stage in run.inputs(kept).values() if stage.kind == "search-test"]
    return float(kept.manifest.get("seconds", 0.0)) + sum(float(stage.manifest.get("seconds", 0.0)) for stage in before)


def models_of(run: RunFolder, kept: Kept) -> dict[Path, Path]:
    """Return the model folders behind a test stage, the queries' encoder first, each once."""
    found: dict[Path, Path] = {}
    for stage in run.inputs(kept).values():
        if stage.model.is_dir():
            found[stage.folder] = stage.model
        elif stage.kind in ("vectors", "name-teacher") or stage.kind.startswith("search-"):
            found |= models_of(run, stage)
    return found


def _encoding_speeds(run: RunFolder) -> dict[int, list[float]]:
    """Return milliseconds a text of every encoding, by the parameters of the model."""
    speeds: dict[int, list[float]] = {}
    for kept in run.stages:
        if kept.kind != "vectors":
            continue
        lengths = [_length(kept.folder / f"{name}.npy") for name in ("passages", "queries")]
        texts = sum(lengths) if all(lengths) else 0  # a time is that of both; passages alone are in fp32, to search
        for model in models_of(run, kept).values():
            value = _per(kept, texts)
            if value is not None:
                speeds.setdefault(weights_of(model)[0], []).append(value)
    return speeds


def _per(kept: Kept, items: int) -> float | None:
    seconds = kept.manifest.get("seconds")
    return 1e3 * float(seconds) / items if seconds is not None and items else None


def weights_of(model: Path) -> tuple[int, int]:
    """Return how many numbers a model directory's safetensors files hold, and their bytes on disk."""
    count = size = 0
    for path in sorted(model.rglob("*.safetensors")):
        try:
            with safe_open(str(path), framework="np") as file:
                count += sum(
                    int(np.prod(file.get_slice(name).get_shape(), dtype=np.int64)) for name in list(file.keys())
                )
        except (OSError, SafetensorError):
            continue
        size += path.stat().st_size
    return count, size


def _shape(model: Path | None) -> tuple[int | None, int | None]:
    """Return layers and width of a model directory."""
    for path in sorted(model.rglob("config.json"), key=lambda path: len(path.parts)) if model else []:
        try:
            facts = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        layers = facts.get("num_hidden_layers", facts.get("n_layers"))
        if layers is not None:
            width = facts.get("hidden_size", facts.get("dim"))
            return int(layers), int(width) if width is not None else None
    return None, None


def _rows(path: Path) -> int:
    """Return how many queries a Parquet file of a run or an evaluation has."""
    try:
        return len(pq.read_table(path, columns=["query"])["query"].unique())
    except (OSError, ValueError):
        return 0


def _length(path: Path) -> int:
    try:
        return int(np.load(path, mmap_mode="r").shape[0])
    except (OSError, ValueError, EOFError):
        return 0
