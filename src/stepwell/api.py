"""The verbs of the command line as Python functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stepwell.ablations import Ablation, AblationPlan, open_grid, run_ablation
from stepwell.ablations import plan_ablation as plan_variants
from stepwell.collection import Collection, Problem, check_directory, open_collection
from stepwell.display import Table, say
from stepwell.distil.mining_report import MiningReport
from stepwell.distil.negatives import Candidates
from stepwell.distil.negatives import mine as mine_run
from stepwell.errors import StepwellError
from stepwell.evaluation import Comparison, Evaluation
from stepwell.evaluation import compare as compare_evaluations
from stepwell.exports.bench import Bench
from stepwell.exports.bench import bench as bench_encoder
from stepwell.exports.folder import MAX_LOSS, Exported, ground_of
from stepwell.exports.folder import export as export_model
from stepwell.files import cache
from stepwell.indexes.build import build, choices
from stepwell.indexes.build import compare as compare_choices
from stepwell.indexes.measure import Report
from stepwell.indexes.settings import IndexSettings
from stepwell.intake.start import Wishes, start
from stepwell.jobs.cluster import Cluster
from stepwell.jobs.exchange import encode_collection, score_pairs
from stepwell.ladder.plan import Plan
from stepwell.ladder.run import plan as plan_recipe
from stepwell.ladder.run import run as run_recipe
from stepwell.models.encoder import Encoder
from stepwell.models.reranker import Reranker
from stepwell.recipe import Mining, Recipe
from stepwell.recipe.yaml_file import demo_recipe, load_recipe
from stepwell.reports.drawing import need_matplotlib
from stepwell.reports.facts import facts_of
from stepwell.reports.page import to_json as report_json
from stepwell.reports.page import write as write_report
from stepwell.retrieval.vectors import Vectors
from stepwell.systems.opening import open_system, retrieve_with
from stepwell.systems.queries import judge_systems
from stepwell.systems.searcher import Searcher
from stepwell.teachers.scoring import Stored


def check(path: str | Path) -> list[Problem]:
    """Return every problem of a collection's files; errors stop a run, warnings don't."""
    return check_directory(path)


def init(
    directory: str | Path,
    target: str | Path = "recipe.yaml",
    student: str = "demo",
    layers: int = 2,
    *,
    test: Path | None = None,
    dry_run: bool = False,
    **making: Any,
) -> Path:
    """Look at what is there, make synthetic queries for passages that have none, and write a recipe.

    ``making`` are fields of :class:`stepwell.intake.synthetic.Making`; see :func:`stepwell.intake.start.start`.
    """
    return start(directory, target, Wishes(student, layers, None, test, making), dry_run).recipe


def plan(recipe: Recipe | str | Path, out: str | Path | None = None) -> Plan:
    """Estimate a recipe's stages on this machine; what ``out`` has finished counts as done."""
    opened = _recipe(recipe)
    return plan_recipe(opened, _out(opened, out))


def run(recipe: Recipe | str | Path, out: str | Path | None = None) -> dict[str, Any]:
    """Run a recipe to its end, or go on with it; return what ``results.json`` says.

    ``out`` is ``runs/<the recipe's name>`` when it is left out.
    """
    opened = _recipe(recipe)
    folder = _out(opened, out)
    results = run_recipe(opened, folder)
    if results:  # only the main process has them
        _report_at_the_end(folder)
    return results


def demo(out: str | Path = "runs/demo") -> dict[str, Any]:
    """Climb the demo's ladder, or go on with it; see :func:`run`."""
    return run(demo_recipe(), out)


def report(runs: Sequence[str | Path], out: str | Path | None = None) -> Path:
    """Write the page about runs, finished or not, and its facts as JSON beside it; return the page's path.

    ``out`` is ``report.html`` in the run's folder when it is left out, for several runs in the current one.

    Raises
    ------
    StepwellError
        When a folder is no run's, a package of the extra ``report`` is missing, or ``out`` would overwrite other data.
    """
    if not runs:
        raise StepwellError("a report needs the folder of a run, or of several.")
    need_matplotlib()
    target = Path(out) if out is not None else (Path(runs[0]) if len(runs) == 1 else Path()) / "report.html"
    write_report([facts_of(run) for run in runs], target)
    return target


def report_facts(runs: Sequence[str | Path]) -> dict[str, Any]:
    """Return the facts of a report as plain values, as its JSON file has them."""
    return report_json([facts_of(run) for run in runs])


def _report_at_the_end(folder: Path) -> None:
    """Write the report of a run that is finished; the run does not fail where that can't be done."""
    try:
        say(f"The report is {report([folder])}.")
    except StepwellError as error:
        say(f"No report was written: {error}")


def ablate(
    recipe: Recipe | str | Path, grid: str | Path | Mapping[str, Any] = "paper", out: str | Path | None = None
) -> Ablation:
    """Run variants of a recipe in one folder and compare them; what is equal in two of them is done once.

    Parameters
    ----------
    recipe
        What the variants change.
    grid
        A YAML file of variants, the same as a mapping, or ``paper``: the variants that the paper compares.
    out
        The folder; ``runs/<the recipe's name>-ablation`` when it is left out.
    """
    opened = _recipe(recipe)
    return run_ablation(opened.name, open_grid(opened, grid), _ablation_out(opened, out))


def plan_ablation(
    recipe: Recipe | str | Path, grid: str | Path | Mapping[str, Any] = "paper", out: str | Path | None = None
) -> AblationPlan:
    """Estimate :func:`ablate` on this machine; what ``out`` has finished counts as done."""
    opened = _recipe(recipe)
    return plan_variants(open_grid(opened, grid), _ablation_out(opened, out))


def search(run: str | Path, query: str, k: int = 10, **options: Any) -> list[Any]:
    """Search with a finished run or a model; see :class:`stepwell.systems.searcher.Searcher`."""
    return list(Searcher.open(Path(run), **options).search(query, k))


def index(
    source: str | Path,
    out: str | Path,
    settings: IndexSettings | None = None,
    collection: str | None = None,
    split: str | None = None,
) -> Report:
    """Build an index of a finished run, or of a model and a collection, and measure it."""
    made_of = _vectors_of(source, collection)
    return build(*made_of, Path(out), settings or IndexSettings(), split)


def compare_indexes(
    source: str | Path,
    settings: Sequence[IndexSettings] | None = None,
    collection: str | None = None,
    split: str | None = None,
) -> list[Report]:
    """Measure several kinds of indexes without keeping them; what is worth comparing when ``settings`` is None."""
    opened, encoder, passages = _vectors_of(source, collection)
    wanted = choices(*passages.shape) if settings is None else settings
    return compare_choices(opened, encoder, passages, wanted, split)


def serve(run: str | Path, **options: Any) -> None:
    """Serve a finished run, an index or a model over HTTP until stopped; see :func:`stepwell.server.server.serve`."""
    from stepwell.server.server import serve as serve_place

    serve_place(Path(run), **options)


def evaluate_system(
    system: str | Path, collection: str | Path | None = None, split: str | None = None, depth: int | None = None
) -> tuple[Evaluation, Collection]:
    """Evaluate a finished run's student, a model directory, a TREC run file or ``bm25``.

    Without a ``split`` a run is evaluated on the queries of its final table, anything else on ``test``; see
    :func:`stepwell.systems.queries.judge_systems`.

    Raises
    ------
    StepwellError
        When the system can't be told, or the collection is not known.
    """
    on, evaluations = judge_systems([str(system)], collection, split, depth)
    return evaluations[str(system)], on.collection


def compare(
    systems: Sequence[str | Path],
    collection: str | Path | None = None,
    split: str | None = None,
    depth: int | None = None,
) -> tuple[Comparison, Collection, dict[str, Evaluation]]:
    """Compare systems on the same queries, each with the first (paired tests, Holm-corrected).

    Without a ``split`` these are the queries of the runs' final tables, where there is a run, else those of ``test``.

    Raises
    ------
    StepwellError
        When the runs' tables are not over the same queries of one collection.
    """
    on, evaluations = judge_systems([str(system) for system in systems], collection, split, depth)
    return compare_evaluations(evaluations, str(systems[0])), on.collection, evaluations


def mine(
    collection: str | Path,
    miner: str = "bm25",
    split: str = "train",
    k: int = 8,
    settings: Mining | None = None,
    seed: int = 13,
    teacher: str | Path | None = None,
    tokens: int = 176,
) -> tuple[Candidates, MiningReport, Collection]:
    """Mine K candidates of each query of a split with anything that :func:`retrieve_with` takes.

    With ``settings.denoise``, a ``teacher`` (a cross-encoder that reads ``tokens`` of a pair) says what is no negative.
    """
    settings = settings or Mining()
    opened = open_collection(collection)
    qrels = opened.qrels(split)
    ask = None
    if teacher is not None:
        judge = Stored.of(cache() / "scores", Reranker.open(str(teacher), tokens), opened)

        def ask(queries: NDArray[np.int32], passages: NDArray[np.int32]) -> NDArray[np.float32]:
            return judge.score(queries, passages[:, None])[:, 0]

    run = retrieve_with(str(miner), opened, qrels, settings.depth)
    return *mine_run(run, qrels, opened, settings, k, seed, ask), opened


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
    recipe: str | Path | None = None,
) -> Table | None:
    """Score pairs with a teacher into a Parquet file; say what the scores look like.

    The teacher is a model of any kind, or one that a recipe describes by that name; what its store has is not scored
    again. A cluster takes cross-encoders.
    """
    described = Path(recipe) if recipe is not None else None
    return score_pairs(str(collection), Path(pairs), Path(target), str(teacher), tokens, cluster, described)


def export(
    system: str | Path,
    to: Sequence[str],
    out: str | Path | None = None,
    int8: bool = False,
    collection: str | Path | None = None,
    max_loss: float = MAX_LOSS,
    force: bool = False,
    push: str | None = None,
) -> tuple[Path, list[Exported]]:
    """Export a finished run's student or any encoder; see :func:`stepwell.exports.folder.export`."""
    place = Path(out) if out is not None else None
    known = str(collection) if collection is not None else None
    return export_model(str(system), to, place, int8, known, max_loss, force, push)


def bench(system: str | Path, collection: str | Path | None = None) -> Bench:
    """Measure a finished run's student or any encoder in every way that this machine has.

    With a collection, texts and dev queries are its own, and the table says what each way loses on dev.
    """
    subject = open_system(str(system), "export")
    ground = ground_of(subject, str(collection) if collection is not None else None)
    return bench_encoder(subject.title, Encoder.open(subject.model), ground)


def _vectors_of(source: str | Path, collection: str | None) -> tuple[Collection, Encoder, NDArray[np.float32]]:
    opened = Searcher.open(Path(source), collection=collection)
    if opened.encoder is None or opened.vectors is None:
        raise StepwellError(
            f"{source} is an index already, and what it lost can't come back: build from the run or model."
        )
    return opened.collection, opened.encoder, opened.vectors.passages


def _recipe(recipe: Recipe | str | Path) -> Recipe:
    return recipe if isinstance(recipe, Recipe) else load_recipe(recipe)


def _ablation_out(recipe: Recipe, out: str | Path | None) -> Path:
    return Path(out) if out is not None else Path("runs") / f"{recipe.name}-ablation"


def _out(recipe: Recipe, out: str | Path | None) -> Path:
    return Path(out) if out is not None else Path("runs") / recipe.name
