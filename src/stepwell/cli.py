"""The verbs on the command line; the work is done elsewhere, imported when a verb needs it."""

from __future__ import annotations

import errno
import json
import os
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from stepwell import __version__
from stepwell.display import Table, say, set_quiet, show, warn
from stepwell.errors import StepwellError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Distil a small, fast dense retriever from a ladder of ever stronger teachers, and prove what it gained.",
)

RecipeFile = Annotated[Path, typer.Argument(help="The recipe, a YAML file.", show_default=False)]
OutOption = Annotated[Path | None, typer.Option("--out", help="The run's folder; runs/NAME when left out.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="Change a value of the recipe: student.layers=4 (may be repeated)."),
]
Mode = Literal["student", "asymmetric", "bm25", "fused"]
JsonOption = Annotated[bool, typer.Option("--json", help="Print plain JSON for scripts.")]
CollectionOption = Annotated[str | None, typer.Option("--collection", help="A directory, demo, irds:ID or hf:NAME.")]
EngineOption = Annotated[
    Literal["processes", "ray"],
    typer.Option("--engine", help="processes: this one, or those of accelerate launch. ray: a Ray cluster."),
]
RayAddress = Annotated[
    str, typer.Option("--ray-address", help="auto (the cluster of this machine), local (none but it), or HOST:PORT.")
]
RayWorkers = Annotated[int | None, typer.Option("--ray-workers", min=1, help="At most; as many as fit, else.")]
RayCpus = Annotated[float, typer.Option("--ray-cpus", min=0.01, help="CPUs that a worker takes.")]
RayGpus = Annotated[
    float | None, typer.Option("--ray-gpus", min=0, help="GPUs that a worker takes; 1 where there are any, else.")
]


@app.callback(invoke_without_command=True)
def options(
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only results and warnings.")] = False,
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
) -> None:
    """Set what holds for all verbs."""
    set_quiet(quiet or int(os.environ.get("RANK", "0")) > 0)
    if version:
        typer.echo(__version__)
        raise typer.Exit


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", help="The run's folder.")] = Path("runs/demo"),
    plan_only: Annotated[bool, typer.Option("--plan", help="Only show what it will take.")] = False,
) -> None:
    """Climb a small ladder on the documentation of the installed Python packages, in minutes on a CPU."""
    from stepwell import api
    from stepwell.demo import demo_recipe

    recipe = demo_recipe()
    if plan_only:
        show(api.plan(recipe, out).table())
        return
    _show_results(api.run(recipe, out))
    say(f'Try it: stepwell search {out} "how do I open a zip file"')


@app.command()
def init(
    directory: Annotated[Path, typer.Argument(help="A directory, irds:ID or hf:NAME.", show_default=False)],
    target: Annotated[Path, typer.Argument(help="The recipe to write.")] = Path("recipe.yaml"),
    student: Annotated[str, typer.Option("--from", help="The encoder to cut the student from.")] = "demo",
    layers: Annotated[int, typer.Option("--layers", help="Layers of the student.")] = 2,
) -> None:
    """Write a commented recipe for a collection of your own."""
    from stepwell.init import write_recipe

    path = write_recipe(directory, target, student, layers)
    say(f"{path} is written; look through it, then: stepwell plan {path}, and stepwell run {path}")


@app.command()
def check(
    directory: Annotated[Path, typer.Argument(help="A directory, irds:ID or hf:NAME.", show_default=False)],
    as_json: JsonOption = False,
) -> None:
    """Report every problem of a collection's files, with file and line."""
    from stepwell.collection import check_directory

    problems = check_directory(directory)
    errors = sum(problem.severity == "error" for problem in problems)
    if as_json:
        _print_json([vars(problem) | {} for problem in problems])
    else:
        for problem in problems:
            place = problem.file if problem.line is None else f"{problem.file}:{problem.line}"
            typer.echo(f"{problem.severity}: {place}: {problem.message}")
        typer.echo(f"{directory}: {errors} errors, {len(problems) - errors} warnings.")
    if errors:
        raise typer.Exit(1)


@app.command()
def plan(recipe: RecipeFile, out: OutOption = None, changes: SetOption = None, as_json: JsonOption = False) -> None:
    """List the stages with their estimated time and disk on this machine, from a short probe."""
    opened = _recipe(recipe, changes)  # first: a mistake in it is told at once, before torch is imported
    from stepwell import api

    made = api.plan(opened, out)
    _print_json(made.to_json()) if as_json else show(made.table())


@app.command()
def run(recipe: RecipeFile, out: OutOption = None, changes: SetOption = None, as_json: JsonOption = False) -> None:
    """Climb the ladder; started again after a stop or a crash it goes on where it was."""
    opened = _recipe(recipe, changes)
    from stepwell import api

    results = api.run(opened, out)
    _print_json(results) if as_json else _show_results(results)


@app.command(name="eval")
def evaluate(
    system: Annotated[
        str, typer.Argument(help="A finished run, a model (directory or hub name), a TREC run file, or bm25.")
    ],
    collection: CollectionOption = None,
    split: Annotated[str, typer.Option("--split", help="The qrels split.")] = "test",
    as_json: JsonOption = False,
) -> None:
    """Evaluate one system on a split."""
    from stepwell import api
    from stepwell.evaluation import bootstrap_interval

    evaluation, _ = api.evaluate_system(system, collection, split)
    rows = [(m, evaluation.mean(m), *bootstrap_interval(evaluation.of(m), seed=0)) for m in evaluation.values]
    if as_json:
        _print_json({m: {"mean": mean, "low": low, "high": high} for m, mean, low, high in rows})
        return
    note = f"{len(evaluation.queries):,} queries; low and high bound the 95 % bootstrap interval."
    show(Table(f"{system} on {split}", ["measure", "mean", "low", "high"], rows, (note,)))


@app.command()
def compare(
    systems: Annotated[list[str], typer.Argument(help="Two or more systems, as in eval; the first is the reference.")],
    collection: CollectionOption = None,
    split: Annotated[str, typer.Option("--split", help="The qrels split.")] = "test",
    queries: Annotated[int, typer.Option("--queries", help="Queries won and lost to show.")] = 5,
    as_json: JsonOption = False,
) -> None:
    """Compare systems: table, tests, the queries won and lost."""
    from stepwell import api

    if len(systems) < 2:
        raise StepwellError("compare needs two systems or more; for one, use `stepwell eval`.")
    comparison, opened, evaluations = api.compare(systems, collection, split)
    if as_json:
        _print_json(comparison.to_json())
        return
    show(comparison.table(f"{opened.name}, {split}"))
    first = str(systems[0])
    for other in map(str, systems[1:]):
        won, lost = api.won_and_lost(evaluations[first], evaluations[other], queries)
        rows = [[f"{delta:+.3f}", opened.query_texts([row])[0][:100]] for row, delta in (*won, *lost)]
        if rows:
            show(Table(f"{first} against {other}: won and lost most (nDCG@10)", ["difference", "query"], rows))


@app.command()
def search(
    system: Annotated[Path, typer.Argument(help="A finished run, or a model directory.")],
    query: Annotated[str | None, typer.Argument(help="The query; left out, queries are read one a line.")] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="How many passages.")] = 5,
    mode: Annotated[Mode, typer.Option("--mode", help="student, asymmetric, bm25 or fused.")] = "student",
    collection: CollectionOption = None,
    as_json: JsonOption = False,
) -> None:
    """Search with a finished run; interactive without a query."""
    from stepwell.retrieval.searcher import Searcher

    searcher = Searcher.open(system, mode, collection)
    if query is not None:
        _show_hits(searcher, query, k, as_json)
        return
    prompt = "query> " if sys.stdin.isatty() else ""
    while True:
        try:
            line = input(prompt).strip()
        except (EOFError, KeyboardInterrupt):
            return
        if line:
            _show_hits(searcher, line, k, as_json)


def _show_hits(searcher: Any, query: str, k: int, as_json: bool) -> None:
    hits = searcher.search(query, k)
    if as_json:
        _print_json([hit.to_json() for hit in hits])
        return
    for hit in hits:
        text = " ".join(hit.text.split())
        typer.echo(f"{hit.rank:>3}  {hit.score:7.3f}  {hit.passage_id}\n     {text[:200]}")


@app.command()
def mine(
    collection: Annotated[str, typer.Argument(help="A directory, demo, irds:ID or hf:NAME.")],
    target: Annotated[
        Path,
        typer.Argument(help="JSONL to write: query, positive, negative_1, ... as sentence-transformers takes it."),
    ],
    miner: Annotated[str, typer.Option("--by", help="bm25, or an encoder (directory or hub name).")] = "bm25",
    k: Annotated[int, typer.Option("-k", min=2, help="Candidates a query.")] = 8,
    split: Annotated[str, typer.Option("--split", help="The qrels split.")] = "train",
    margin: Annotated[
        float | None, typer.Option("--margin", help="Drop what scores within this of the positive.")
    ] = None,
    sampling: Annotated[str, typer.Option("--sampling", help="random, hardest or simans.")] = "random",
    first: Annotated[int, typer.Option("--first", min=1, help="Best rank of a negative.")] = 1,
    last: Annotated[int, typer.Option("--last", min=1, help="Worst rank of a negative.")] = 50,
    seed: Annotated[int, typer.Option("--seed", help="Decides the draws.")] = 13,
) -> None:
    """Mine hard negatives, and say what was dropped and why."""
    from pydantic import ValidationError

    from stepwell import api
    from stepwell.exchange import write_tuples
    from stepwell.recipe import Mining

    if target.exists():
        raise StepwellError(f"{target} is there already and would be overwritten: choose another name or move it away.")
    try:
        settings = Mining(first=first, last=last, margin=margin, sampling=sampling, positives=1)
    except ValidationError as error:
        raise StepwellError(
            f"the mining options don't fit: {error.errors()[0]['msg'].removeprefix('Value error, ')}."
        ) from None
    candidates, report, opened = api.mine(collection, miner, split, k, settings, seed)
    write_tuples(candidates, opened, target)
    show(report.table())
    say(f"{target}: {len(candidates):,} queries with {k} candidates each.")


@app.command()
def encode(
    collection: Annotated[str, typer.Argument(help="A directory, demo, irds:ID or hf:NAME.")],
    out: Annotated[Path, typer.Argument(help="The folder for the vectors; its own alone.")],
    model: Annotated[str, typer.Option("--model", help="An encoder: directory or hub name.")],
    engine: EngineOption = "processes",
    ray_address: RayAddress = "auto",
    ray_workers: RayWorkers = None,
    ray_cpus: RayCpus = 1.0,
    ray_gpus: RayGpus = None,
) -> None:
    """Encode all passages and queries; started again after a stop or a crash it goes on where it was."""
    from stepwell.cluster import Cluster
    from stepwell.exchange import encode_collection

    cluster = Cluster(ray_address, ray_workers, ray_cpus, ray_gpus) if engine == "ray" else None
    _show_table(encode_collection(collection, out, model, cluster))


@app.command()
def score(
    collection: Annotated[str, typer.Argument(help="A directory, demo, irds:ID or hf:NAME.")],
    pairs: Annotated[Path, typer.Argument(help="Pairs: a TREC run file, or JSONL with query-id and corpus-id.")],
    target: Annotated[Path, typer.Argument(help="Parquet to write: query-id, corpus-id, score.")],
    teacher: Annotated[str, typer.Option("--teacher", help="A cross-encoder: directory or hub name.")],
    tokens: Annotated[int, typer.Option("--tokens", min=8, help="Longest pair, in tokens.")] = 176,
    engine: EngineOption = "processes",
    ray_address: RayAddress = "auto",
    ray_workers: RayWorkers = None,
    ray_cpus: RayCpus = 1.0,
    ray_gpus: RayGpus = None,
) -> None:
    """Score pairs with a cross-encoder, as raw logits; what its store has is not scored again."""
    from stepwell.cluster import Cluster
    from stepwell.exchange import score_pairs

    if target.exists():
        raise StepwellError(f"{target} is there already and would be overwritten: choose another name or move it away.")
    cluster = Cluster(ray_address, ray_workers, ray_cpus, ray_gpus) if engine == "ray" else None
    _show_table(score_pairs(collection, pairs, target, teacher, tokens, cluster))


def _show_table(table: Table | None) -> None:
    if table is not None:  # only the main process has it
        show(table)


def _show_results(results: dict[str, Any]) -> None:
    from stepwell.evaluation import Comparison

    if results:  # only the main process has them
        show(Comparison.from_json(results["comparison"]).table())


def _recipe(path: Path, changes: list[str] | None) -> Any:
    from stepwell.recipe_file import load_recipe, parse_override

    return load_recipe(path, dict(map(parse_override, changes or [])))


def _print_json(content: object) -> None:
    typer.echo(json.dumps(content, indent=1, default=str))


def _explain(error: OSError) -> str:
    where = f" at {error.filename}" if error.filename else ""
    if error.errno == errno.ENOSPC:
        return (
            f"the disk is full{where}. What is finished is safe; make room and run the same command again: it goes on."
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"no permission to read or write{where} ({error.strerror}). Choose another folder, or change its rights."
    return f"the system refused{where}: {error.strerror or error}. Nothing was overwritten; mend that and run again."


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    if isinstance(message, UserWarning):
        warn(str(message))


def main() -> None:
    """Run the command line; mistakes of a user become one paragraph and exit status 2."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.showwarning = _show_warning
    try:
        app()
    except StepwellError as error:
        typer.echo(f"stepwell: {error}", err=True)
        sys.exit(2)
    except OSError as error:
        typer.echo(f"stepwell: {_explain(error)}", err=True)
        sys.exit(2)
    except (KeyboardInterrupt, SystemExit) as end:
        if isinstance(end, SystemExit) and end.code != 130:  # 130 is what Typer makes of Ctrl-C
            raise
        typer.echo("stepwell: stopped. What is finished is kept; the same command goes on from here.", err=True)
        sys.exit(130)
