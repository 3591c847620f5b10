"""The verbs of the command line as Python functions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stepwell.cluster import Cluster
from stepwell.collection import Collection, Problem, Qrels, check_directory, open_collection
from stepwell.display import Table
from stepwell.errors import StepwellError
from stepwell.evaluation import DEFAULT_MEASURES, Comparison, Evaluation, evaluate, wins_and_losses
from stepwell.evaluation import compare as compare_evaluations
from stepwell.exchange import encode_collection, score_pairs
from stepwell.ladder.plan import Plan
from stepwell.ladder.run import plan as plan_recipe
from stepwell.ladder.run import run as run_recipe
from stepwell.mining_report import MiningReport
from stepwell.models.encoder import Encoder
from stepwell.negatives import Candidates
from stepwell.negatives import mine as mine_run
from stepwell.recipe import Mining, Recipe
from stepwell.recipe_file import load_recipe
from stepwell.retrieval.bm25 import BM25Index
from stepwell.retrieval.run import Run
from stepwell.retrieval.search import retrieve
from stepwell.retrieval.searcher import Searcher, read_results, vectors_of
from stepwell.retrieval.vectors import Vectors


def check(path: str | Path) -> list[Problem]:
    """Return every problem of a collection's files; errors stop a run, warnings don't."""
    return check_directory(path)


def plan(recipe: Recipe | str | Path, out: str | Path | None = None) -> Plan:
    """Estimate a recipe's stages on this machine; what ``out`` has finished counts as done."""
    opened = _recipe(recipe)
    return plan_recipe(opened, _out(opened, out))


def run(recipe: Recipe | str | Path, out: str | Path | None = None) -> dict[str, Any]:
    """Run a recipe to its end, or go on with it; return what ``results.json`` says.

    ``out`` is ``runs/<the recipe's name>`` when it is left out.
    """
    opened = _recipe(recipe)
    return run_recipe(opened, _out(opened, out))


def search(run: str | Path, query: str, k: int = 10, **options: Any) -> list[Any]:
    """Search with a finished run or a model; see :class:`stepwell.retrieval.searcher.Searcher`."""
    return list(Searcher.open(Path(run), **options).search(query, k))


def serve(run: str | Path, **options: Any) -> None:
    """Serve a finished run, an index or a model over HTTP until it is stopped; see :func:`stepwell.serve.server.serve`."""
    from stepwell.serve.server import serve as serve_place

    serve_place(Path(run), **options)


def evaluate_system(
    system: str | Path, collection: str | Path | None = None, split: str = "test", depth: int = 100
) -> tuple[Evaluation, Collection]:
    """Evaluate a finished run's student, a model directory, a TREC run file or ``bm25`` on a split.

    Raises
    ------
    StepwellError
        When the system can't be told, or the collection is not known.
    """
    opened = open_collection(_collection_of(system, collection))
    qrels = opened.qrels(split)
    return evaluate(retrieve_with(str(system), opened, qrels, depth), qrels, DEFAULT_MEASURES), opened


def compare(
    systems: Sequence[str | Path], collection: str | Path | None = None, split: str = "test", depth: int = 100
) -> tuple[Comparison, Collection, dict[str, Evaluation]]:
    """Compare systems on a split, each with the first (paired tests, Holm-corrected)."""
    place = collection or next((c for c in map(_known_collection, systems) if c), None)
    evaluations: dict[str, Evaluation] = {}
    opened = open_collection(_collection_of(systems[0], place))
    for system in systems:
        if str(system) in evaluations:
            raise StepwellError(f"{system} is named twice: give each system once.")
        evaluations[str(system)] = evaluate(
            retrieve_with(str(system), opened, opened.qrels(split), depth),
            opened.qrels(split),
            DEFAULT_MEASURES,
        )
    return compare_evaluations(evaluations, str(systems[0])), opened, evaluations


def won_and_lost(a: Evaluation, b: Evaluation, n: int, measure: str = "nDCG@10") -> tuple[list[Any], list[Any]]:
    """Return the queries that ``a`` wins and loses most against ``b``: (query row, difference)."""
    return wins_and_losses(a, b, measure, n)


def mine(
    collection: str | Path,
    miner: str = "bm25",
    split: str = "train",
    k: int = 8,
    settings: Mining | None = None,
    seed: int = 13,
) -> tuple[Candidates, MiningReport, Collection]:
    """Mine K candidates of each query of a split with BM25 or an encoder (a directory or hub name)."""
    settings = settings or Mining()
    opened = open_collection(collection)
    qrels = opened.qrels(split)
    found, report = mine_run(retrieve_with(miner, opened, qrels, settings.depth), qrels, opened, settings, k, seed)
    return found, report, opened


def encode(collection: str | Path, folder: str | Path, model: str | Path, cluster: Cluster | None = None) -> Vectors:
    """Encode all passages and queries of a collection into a folder, or go on with it; here or on a Ray cluster."""
    encode_collection(str(collection), Path(folder), str(model), cluster)
    return Vectors.open(Path(folder))


def score(
    collection: str | Path,
    pairs: str | Path,
    target: str | Path,
    teacher: str | Path,
    tokens: int = 176,
    cluster: Cluster | None = None,
) -> Table | None:
    """Score pairs with a cross-encoder into a Parquet file, here or on a Ray cluster; say what the scores look like.

    What the teacher's store has is not scored again.
    """
    return score_pairs(str(collection), Path(pairs), Path(target), str(teacher), tokens, cluster)


def retrieve_with(system: str, collection: Collection, qrels: Qrels, depth: int) -> Run:
    """Retrieve for a split's queries with ``bm25``, a TREC run file, a finished run's student, or any encoder."""
    rows: NDArray[np.int32] = qrels.query_rows
    place = Path(system)
    if system == "bm25":
        return BM25Index.build(collection).run(collection, rows, depth)
    if place.is_file():
        return Run.from_trec(place, collection, rows)
    model = place / "model" if (place / "results.json").is_file() else place
    encoder = Encoder.open(str(model) if place.is_dir() else system)
    return retrieve(vectors_of(encoder, collection, rows), rows, depth)


def _known_collection(system: str | Path) -> str | None:
    place = Path(system)
    return str(read_results(place)["collection"]["path"]) if (place / "results.json").is_file() else None


def _collection_of(system: str | Path, collection: str | Path | None) -> str | Path:
    found = collection or _known_collection(system)
    if found is None:
        raise StepwellError(f"{system} is no finished run, so its collection is not known: name it with --collection.")
    return found


def _recipe(recipe: Recipe | str | Path) -> Recipe:
    return recipe if isinstance(recipe, Recipe) else load_recipe(recipe)


def _out(recipe: Recipe, out: str | Path | None) -> Path:
    return Path(out) if out is not None else Path("runs") / recipe.name
