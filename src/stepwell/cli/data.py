"""Verbs on collections, candidates, vectors and scores: check, mine, encode, score."""

from pathlib import Path
from typing import Annotated

import typer

import stepwell
from stepwell import api
from stepwell.cli.app import (
    EngineOption,
    JsonOption,
    RayAddress,
    RayCpus,
    RayGpus,
    RayWorkers,
    app,
    print_json,
    show_result,
)
from stepwell.display import Table, counted, say, show


@app.command()
def check(
    directory: Annotated[Path, typer.Argument(help="A directory, irds:ID or hf:NAME.", show_default=False)],
    as_json: JsonOption = False,
) -> None:
    """Report every problem of a collection's files, with file and line."""
    problems = api.check(directory)
    errors = sum(problem.severity == "error" for problem in problems)
    if as_json:
        print_json([vars(problem) | {} for problem in problems])
    else:
        for problem in problems:
            place = problem.file if problem.line is None else f"{problem.file}:{problem.line}"
            typer.echo(f"{problem.severity}: {place}: {problem.message}")
        typer.echo(f"{directory}: {counted(errors, 'error')}, {counted(len(problems) - errors, 'warning')}.")
    if errors:
        raise typer.Exit(1)


@app.command()
def mine(
    collection: Annotated[str, typer.Argument(help="A directory, demo, irds:ID or hf:NAME.")],
    target: Annotated[
        Path, typer.Argument(help="JSONL to write: query, positive, negative_1, ... as sentence-transformers takes it.")
    ],
    miner: Annotated[
        str, typer.Option("--by", help="bm25, an encoder (directory or hub name), a finished run or a TREC run file.")
    ] = "bm25",
    k: Annotated[int, typer.Option("-k", min=2, help="Candidates a query.")] = 8,
    split: Annotated[str, typer.Option(help="The qrels split.")] = "train",
    margin: Annotated[float | None, typer.Option(help="Drop what scores within this of the positive.")] = None,
    teacher: Annotated[
        str | None, typer.Option(help="A cross-encoder that says what is no negative: see --denoise.")
    ] = None,
    denoise: Annotated[
        float | None, typer.Option(help="Drop what the teacher scores above the positive minus this (logits); 0, else.")
    ] = None,
    answers: Annotated[
        bool | None,
        typer.Option(help="Drop what holds an answer; by itself where there are answers.", show_default=False),
    ] = None,
    sampling: Annotated[str, typer.Option(help="random, hardest or simans.")] = "random",
    first: Annotated[int, typer.Option(min=1, help="Best rank of a negative.")] = 1,
    last: Annotated[int, typer.Option(min=1, help="Worst rank of a negative.")] = 50,
    seed: Annotated[int, typer.Option(help="Decides the draws.")] = 13,
    pairs: Annotated[
        Path | None, typer.Option(help="JSONL to write: the ids of each line's pairs, as `score` reads them.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Mine hard negatives, and say what was dropped and why."""
    settings = {
        "depth": max(100, last),
        "first": first,
        "last": last,
        "margin": margin,
        "answers": answers,
        "denoise": denoise if teacher is None else denoise or 0.0,
        "sampling": sampling,
        "positives": 1,
    }
    mined = api.mine(collection, miner, split, k, settings, seed, teacher, target=target, pairs=pairs)
    show_result(mined.report, as_json)
    say(f"{target}: {len(mined.candidates):,} queries with {k} candidates each.")
    if pairs is not None:
        say(f"{pairs}: the ids of their pairs, in the same order; `stepwell score` reads them.")


@app.command()
def encode(
    collection: Annotated[str, typer.Argument(help="A directory, demo, irds:ID or hf:NAME.")],
    out: Annotated[Path, typer.Argument(help="The folder for the vectors; its own alone.")],
    model: Annotated[str, typer.Option(help="An encoder: directory or hub name.")],
    engine: EngineOption = "processes",
    ray_address: RayAddress = "auto",
    ray_workers: RayWorkers = None,
    ray_cpus: RayCpus = 1.0,
    ray_gpus: RayGpus = None,
    as_json: JsonOption = False,
) -> None:
    """Encode all passages and queries; started again after a stop or a crash it goes on where it was."""
    cluster = stepwell.Cluster(ray_address, ray_workers, ray_cpus, ray_gpus) if engine == "ray" else None
    show_facts(api.encode(collection, out, model, cluster).facts, as_json)


@app.command()
def score(
    collection: Annotated[str, typer.Argument(help="A directory, demo, irds:ID or hf:NAME.")],
    pairs: Annotated[Path, typer.Argument(help="Pairs: a TREC run file, or JSONL with query-id and corpus-id.")],
    target: Annotated[Path, typer.Argument(help="Parquet to write: query-id, corpus-id, score.")],
    teacher: Annotated[str, typer.Option(help="A model of any kind: directory or hub name; or a name in --recipe.")],
    recipe: Annotated[Path | None, typer.Option(help="A recipe that describes the teacher.")] = None,
    tokens: Annotated[
        int, typer.Option(min=8, help="Longest pair (late interaction: text); a recipe says it itself.")
    ] = 176,
    engine: EngineOption = "processes",
    ray_address: RayAddress = "auto",
    ray_workers: RayWorkers = None,
    ray_cpus: RayCpus = 1.0,
    ray_gpus: RayGpus = None,
    as_json: JsonOption = False,
) -> None:
    """Score pairs with a teacher of any kind, as raw logits; what its store has is not scored again."""
    cluster = stepwell.Cluster(ray_address, ray_workers, ray_cpus, ray_gpus) if engine == "ray" else None
    show_facts(api.score(collection, pairs, target, teacher, tokens, cluster, recipe), as_json)


def show_facts(table: Table | None, as_json: bool) -> None:
    """Show a table of names and values, or print it as JSON; only the main process has one."""
    if table is not None:
        print_json({str(name): value for name, value in table.rows}) if as_json else show(table)
