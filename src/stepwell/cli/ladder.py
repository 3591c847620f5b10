"""From a directory to a finished run: init, demo, plan, run, ablate."""

import json
import math
from pathlib import Path
from typing import Annotated, Literal

import typer

from stepwell import api
from stepwell.cli.app import (
    JsonOption,
    OutOption,
    RecipeFile,
    ScaleOption,
    SetOption,
    YesOption,
    app,
    print_json,
    show_result,
)
from stepwell.display import say, show

By = Literal["bm25", "encoder", "either", "both"]
PlanOption = Annotated[bool, typer.Option("--plan", help="Only show what it will take.")]


@app.command()
def init(
    directory: Annotated[
        Path, typer.Argument(help="A directory, a table, irds:ID or hf:NAME.", show_default=False, metavar="DIRECTORY")
    ],
    target: Annotated[Path, typer.Argument(help="The recipe to write.")] = Path("recipe.yaml"),
    student: Annotated[str, typer.Option("--from", help="The encoder to cut the student from.")] = "demo",
    layers: Annotated[int, typer.Option(help="Layers of the student.")] = 2,
    test: Annotated[
        Path | None, typer.Option(help="Passages without queries: a table of real queries and the passages they want.")
    ] = None,
    generator: Annotated[
        str | None,
        typer.Option(
            "--generator",
            help="Passages without queries: a model that asks (directory or hub name), or the URL of an "
            "OpenAI-compatible API: http://localhost:11434/v1.",
        ),
    ] = None,
    model: Annotated[str | None, typer.Option("--generator-model", help="Of an API: the model's name.")] = None,
    key: Annotated[
        str | None, typer.Option("--generator-key", help="Of an API: the environment variable with the key.")
    ] = None,
    extra: Annotated[
        str, typer.Option("--generator-extra", help="Of an API: further fields of a request, as JSON.")
    ] = "{}",
    kinds: Annotated[
        str, typer.Option("--kinds", help="Of an API: what it is asked for.")
    ] = "question,keywords,claim,how-to",
    price: Annotated[
        str | None, typer.Option("--price", help="Of an API: of a million tokens sent, and of a million back: 0.15,0.6")
    ] = None,
    parallel: Annotated[int, typer.Option("--parallel", min=1, help="Of an API: requests at a time.")] = 4,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before an API is asked.")] = False,
    per_passage: Annotated[
        int, typer.Option("--queries-per-passage", min=1, help="Queries that the generator makes of each passage.")
    ] = 2,
    by: Annotated[By, typer.Option("--round-trip", help="Who must find a synthetic query's passage again.")] = "bm25",
    depth: Annotated[int, typer.Option("--top", min=1, help="Within so many ranks.")] = 10,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Look at what is there, make queries for passages that have none, and write a commented recipe."""
    making: dict[str, object] = {"generator": generator, "per_passage": per_passage, "by": by, "depth": depth}
    chat = {
        "model": model,
        "key": key,
        "extra": _fields(extra),
        "kinds": tuple(kind.strip() for kind in kinds.split(",") if kind.strip()),
        "price": None if price is None else _prices(price),
        "parallel": parallel,
    }
    made = api.init(directory, target, student, layers, test=test, dry_run=dry_run, yes=yes, **making, **chat)
    if not dry_run:
        path = made.recipe
        say(f"{path} is written; look through it, then: stepwell plan {path}, and stepwell run {path}")
    if as_json:
        print_json(made.to_json())


def _fields(text: str) -> dict[str, object]:
    """Read --generator-extra."""
    try:
        fields = json.loads(text)
    except ValueError:
        fields = None
    if not isinstance(fields, dict):
        said = f'{text!r} is no JSON object, such as {{"max_tokens": 4000}}'
        raise typer.BadParameter(said, param_hint="--generator-extra")
    return fields


def _prices(text: str) -> tuple[float, float]:
    """Read --price."""
    try:
        there, back = (float(part) for part in text.split(","))
    except ValueError:
        there = back = -1.0
    if not (0 <= there < math.inf and 0 <= back < math.inf):
        raise typer.BadParameter(f"{text!r} is not two numbers with a comma between: 0.15,0.6", param_hint="--price")
    return there, back


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="The run's folder.")] = Path("runs/demo"),
    plan_only: PlanOption = False,
    as_json: JsonOption = False,
) -> None:
    """Climb a small ladder on docstrings of Python and of installed packages, in minutes on a CPU."""
    if plan_only:
        show_result(api.plan(api.demo_recipe(), out), as_json)
        return
    _show_results(api.demo(out), as_json)
    query = '"how do I open a compressed file"'
    say(f"Try it: stepwell search {out} {query}")
    say(f"Beyond the demo's 2,400 passages: stepwell search {out / 'model'} {query} --collection demo-full")


@app.command()
def plan(
    recipe: RecipeFile,
    out: OutOption = None,
    changes: SetOption = None,
    scale: ScaleOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the stages with their estimated time and disk on this machine, from a short probe."""
    show_result(api.plan(api.load_recipe(recipe, changes or (), scale), out), as_json)


@app.command()
def run(
    recipe: RecipeFile,
    out: OutOption = None,
    changes: SetOption = None,
    scale: ScaleOption = None,
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Climb the ladder; started again after a stop or a crash it goes on where it was."""
    _show_results(api.run(api.load_recipe(recipe, changes or (), scale), out, yes), as_json)


@app.command()
def ablate(
    recipe: RecipeFile,
    grid: Annotated[
        str, typer.Option(help="A YAML file of variants, or `paper`: those that the paper compares.")
    ] = "paper",
    out: Annotated[Path | None, typer.Option(help="The ablation's folder; runs/NAME-ablation when left out.")] = None,
    changes: SetOption = None,
    scale: ScaleOption = None,
    plan_only: PlanOption = False,
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Run variants of a recipe and compare them in one table; what is equal in two of them is done once."""
    opened = api.load_recipe(recipe, changes or (), scale)
    if plan_only:
        show_result(api.plan_ablation(opened, grid, out), as_json)
        return
    result = api.ablate(opened, grid, out, yes)
    show_result(result, as_json)
    if result.failed:
        raise typer.Exit(1)


def _show_results(results: "api.Results | None", as_json: bool) -> None:
    if results is None:  # not the main process
        return
    print_json(results.to_json()) if as_json else show(results.table.comparison.table())
