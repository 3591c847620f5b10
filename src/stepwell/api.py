"""The verbs as functions: what the command line calls, and what a program of yours calls.

A verb imports the rooms that it needs when it is called: a mistake in a recipe is shown before torch is imported.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stepwell.display import say
from stepwell.errors import RunError, StepwellError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from stepwell.ablations import Ablation, AblationPlan
    from stepwell.collection import Collection, Problem
    from stepwell.exports.bench import bench as bench
    from stepwell.exports.folder import export as export
    from stepwell.indexes.measure import Report, report_table as report_table
    from stepwell.indexes.settings import IndexSettings
    from stepwell.intake.start import Start
    from stepwell.jobs.encoding import encode as encode
    from stepwell.jobs.mining import mine as mine
    from stepwell.jobs.scoring import score as score
    from stepwell.ladder.plan import Plan
    from stepwell.models.encoder import Encoder
    from stepwell.recipe import Recipe
    from stepwell.recipe.yaml_file import demo_recipe as demo_recipe
    from stepwell.server.server import read_token as read_token, serve as serve
    from stepwell.systems.compare import compare as compare, evaluate as evaluate, evaluate_system as evaluate_system
    from stepwell.systems.records import Results as Results
    from stepwell.systems.searcher import Hit, Mode

_ROOMS = {
    "bench": "stepwell.exports.bench",
    "compare": "stepwell.systems.compare",
    "demo_recipe": "stepwell.recipe.yaml_file",
    "encode": "stepwell.jobs.encoding",
    "evaluate": "stepwell.systems.compare",
    "evaluate_system": "stepwell.systems.compare",
    "export": "stepwell.exports.folder",
    "mine": "stepwell.jobs.mining",
    "read_token": "stepwell.server.server",
    "report_table": "stepwell.indexes.measure",
    "score": "stepwell.jobs.scoring",
    "serve": "stepwell.server.server",
}
"""Verbs that a room has as they are."""


def __getattr__(name: str) -> Any:
    if name not in _ROOMS:
        raise AttributeError(f"module 'stepwell.api' has no attribute {name!r}")
    return getattr(import_module(_ROOMS[name]), name)


def check(path: str | Path) -> list[Problem]:
    """Return every problem of a collection's files; errors stop a run, warnings don't."""
    from stepwell.collection import check_directory

    return check_directory(path)


def init(
    directory: str | Path,
    target: str | Path = "recipe.yaml",
    student: str = "demo",
    layers: int = 2,
    *,
    test: Path | None = None,
    dry_run: bool = False,
    yes: bool = False,
    **synthetic: Any,
) -> Start:
    """Look at what is there, make synthetic queries for passages that have none, and write a recipe.

    ``synthetic`` are fields of :class:`stepwell.intake.synthetic.collection.SyntheticOptions`. What a chat endpoint
    costs is asked about first, unless ``yes``.
    """
    from stepwell.intake.start import start

    return start(directory, target, student, layers, test, synthetic, dry_run, yes)


def load_recipe(
    path: str | Path, changes: Mapping[str, Any] | Sequence[str] = (), scale: str | float | None = None
) -> Recipe:
    """Read a recipe.

    Parameters
    ----------
    path
        A YAML file.
    changes
        New values by place, ``{"student.layers": 4}``, or as ``--set`` takes them, ``["student.layers=4"]``.
    scale
        Makes the recipe small, after the changes: ``tiny``, or a factor of the lengths of all trainings.

    Raises
    ------
    RecipeError
        With all mistakes, by line.
    """
    from stepwell.recipe.scale import scaled
    from stepwell.recipe.yaml_file import load_recipe, parse_override

    recipe = load_recipe(path, dict(changes if isinstance(changes, Mapping) else map(parse_override, changes)))
    return recipe if scale is None else scaled(recipe, scale)


def plan(recipe: Recipe | str | Path, out: str | Path | None = None) -> Plan:
    """Estimate a recipe's stages on this machine; what ``out`` has finished counts as done."""
    from stepwell.ladder.run import plan as plan_recipe

    opened = _recipe(recipe)
    return plan_recipe(opened, _out(out, opened.name))


def run(recipe: Recipe | str | Path, out: str | Path | None = None, yes: bool = False) -> Results | None:
    """Run a recipe to its end, or go on with it.

    Parameters
    ----------
    recipe
        What to do.
    out
        The run's folder; ``runs/<the recipe's name>`` when None. What is finished there is not done again.
    yes
        Pay for what teachers behind an API cost without a question.

    Returns
    -------
    Results | None
        What ``results.json`` says; None for processes beside the main one.

    Raises
    ------
    StepwellError
        For everything that the user can mend.
    """
    opened = _recipe(recipe)
    from stepwell.ladder.run import run as run_recipe
    from stepwell.systems.records import Results

    folder = _out(out, opened.name)
    if not run_recipe(opened, folder, yes):  # only the main process has them
        return None
    _report_at_the_end(folder)
    return Results.load(folder)


def demo(out: str | Path = "runs/demo") -> Results | None:
    """Climb the demo's ladder, or go on with it; see :func:`run`."""
    from stepwell.recipe.yaml_file import demo_recipe

    return run(demo_recipe(), out)


def ablate(
    recipe: Recipe | str | Path,
    grid: str | Path | Mapping[str, Any] = "paper",
    out: str | Path | None = None,
    yes: bool = False,
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
    yes
        Pay for what teachers behind an API cost without a question.
    """
    opened = _recipe(recipe)
    from stepwell import ablations

    out = _out(out, f"{opened.name}-ablation")
    return ablations.run_ablation(opened.name, ablations.open_grid(opened, grid), out, yes)


def plan_ablation(
    recipe: Recipe | str | Path, grid: str | Path | Mapping[str, Any] = "paper", out: str | Path | None = None
) -> AblationPlan:
    """Estimate :func:`ablate` on this machine; what ``out`` has finished counts as done."""
    opened = _recipe(recipe)
    from stepwell import ablations

    return ablations.plan_ablation(ablations.open_grid(opened, grid), _out(out, f"{opened.name}-ablation"))


def report(runs: Sequence[str | Path], out: str | Path | None = None) -> Path:
    """Write the page about runs, finished or not, and its facts as JSON beside it; return the page's path.

    ``out`` is ``report.html`` in the run's folder when it is left out, for several runs in the current one.

    Raises
    ------
    RunError
        When a folder is no run's, or ``out`` would overwrite other data.
    MissingPackage
        When a package of the extra ``report`` is not installed.
    """
    from stepwell.reports import drawing, facts, page

    if not runs:
        raise RunError("a report needs the folder of a run, or of several.")
    drawing.need_matplotlib()
    target = Path(out) if out is not None else (Path(runs[0]) if len(runs) == 1 else Path()) / "report.html"
    page.write([facts.facts_of(run) for run in runs], target)
    return target


def report_facts(runs: Sequence[str | Path]) -> dict[str, Any]:
    """Return the facts of a report as plain values, as its JSON file has them."""
    from stepwell.reports import facts, page

    return page.to_json([facts.facts_of(run) for run in runs])


def search(
    run: str | Path, query: str, k: int = 10, mode: Mode = "student", collection: str | None = None
) -> list[Hit]:
    """Return the ``k`` best passages for a query, best first; see :class:`stepwell.Searcher`."""
    from stepwell.systems.searcher import Searcher

    return Searcher.open(Path(run), mode, collection).search(query, k)


def index(
    source: str | Path,
    out: str | Path,
    settings: IndexSettings | None = None,
    collection: str | None = None,
    split: str | None = None,
    vectors: str | Path | None = None,
    vector_ids: Path | None = None,
) -> Report:
    """Build an index of a finished run, or of a model and a collection, and measure it.

    Parameters
    ----------
    source
        A finished run's folder, or a model's directory or hub name.
    out
        The new folder.
    settings
        How it is made; exact search in fp32 when None.
    collection
        What is indexed; that of the run when None.
    split
        Whose queries measure it; those of dev when None and there is one.
    vectors
        Vectors of the passages that are there already, and are taken as they are: the teacher of the run whose space
        its student was pulled to, or a file of them. The model then embeds queries alone.
    vector_ids
        The file with the id of each row, for vectors in a ``.npy`` file.

    Raises
    ------
    StepwellError
        When the vectors are not all there or not of the model's space, or ``out`` holds something else.
    """
    from stepwell.indexes.folder import build
    from stepwell.indexes.settings import IndexSettings

    wanted = settings or IndexSettings()
    if vectors is None:
        return build(*_vectors_of(source, collection, [wanted]), Path(out), wanted, split)
    given = _given_vectors(source, collection, vectors, vector_ids)
    return build(*given[:3], Path(out), wanted, split, given[3])


def compare_indexes(
    source: str | Path,
    settings: Sequence[IndexSettings] | None = None,
    collection: str | None = None,
    split: str | None = None,
    vectors: str | Path | None = None,
    vector_ids: Path | None = None,
) -> list[Report]:
    """Measure several kinds of indexes without keeping them; what is worth comparing when ``settings`` is None."""
    from stepwell.indexes import folder

    if vectors is None:
        opened, encoder, passages = _vectors_of(source, collection, settings or ())
    else:
        opened, encoder, passages, _ = _given_vectors(source, collection, vectors, vector_ids)
    wanted = folder.choices(*passages.shape) if settings is None else settings
    return folder.compare(opened, encoder, passages, wanted, split)


def _report_at_the_end(folder: Path) -> None:
    """Write the report of a run that is finished; the run does not fail where that can't be done."""
    try:
        say(f"The report is {report([folder])}.")
    except StepwellError as error:
        say(f"No report was written: {error}")


def _vectors_of(
    source: str | Path, collection: str | None, settings: Sequence[IndexSettings]
) -> tuple[Collection, Encoder, NDArray[np.float32]]:
    """Return what indexes with these settings are made from; a string of FAISS is tried before a model encodes."""
    from stepwell.indexes.folder import fitting
    from stepwell.models.encoder import Encoder
    from stepwell.systems.opening import open_system
    from stepwell.systems.searcher import Searcher

    strings = [one for one in settings if one.faiss is not None]
    if strings and collection is not None and open_system(source, "search").kind == "model":
        width = Encoder.open(str(source)).dimension
        strings = [fitting(one, width) for one in strings]
    opened = Searcher.open(Path(source), "student", collection)
    if opened.encoder is None or opened.vectors is None:
        raise RunError(f"{source} is an index already, and what it lost can't come back: build from the run or model.")
    return opened.collection, opened.encoder, opened.vectors.passages


def _given_vectors(
    source: str | Path, named: str | None, vectors: str | Path, ids: Path | None
) -> tuple[Collection, Encoder, NDArray[np.float32], str]:
    """Return what an index of vectors that are there already is made from, and what those are."""
    from stepwell.models.encoder import Encoder
    from stepwell.systems.existing import existing_vectors
    from stepwell.systems.opening import open_system

    system = open_system(source, "index")
    if system.kind not in ("run", "model"):
        raise RunError(f"{source} is no finished run and no model: given vectors need one that embeds the queries.")
    collection = system.open_collection(named)
    if collection is None:
        raise RunError(f"{source} is a model: name the collection that the vectors are of with --collection.")
    encoder = Encoder.open(system.model)
    return collection, encoder, *existing_vectors(system, collection, encoder, vectors, ids)


def _recipe(recipe: Recipe | str | Path) -> Recipe:
    return load_recipe(recipe) if isinstance(recipe, (str, Path)) else recipe


def _out(out: str | Path | None, name: str) -> Path:
    return Path(out) if out is not None else Path("runs") / name
