"""Verbs that climb: demo, plan, run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from stepwell.cli.app import JsonOption, OutOption, RecipeFile, ScaleOption, SetOption, app, print_json, read_recipe
from stepwell.display import say, show


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", help="The run's folder.")] = Path("runs/demo"),
    plan_only: Annotated[bool, typer.Option("--plan", help="Only show what it will take.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Climb a small ladder on docstrings of Python and of installed packages, in minutes on a CPU."""
    from stepwell import api
    from stepwell.recipe.yaml_file import demo_recipe

    if plan_only:
        made = api.plan(demo_recipe(), out)
        print_json(made.to_json()) if as_json else show(made.table())
        return
    results = api.demo(out)
    print_json(results) if as_json else _show_results(results)
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
    opened = read_recipe(recipe, changes, scale)  # first: a mistake in it is told at once, before torch is imported
    from stepwell import api

    made = api.plan(opened, out)
    print_json(made.to_json()) if as_json else show(made.table())


@app.command()
def run(
    recipe: RecipeFile,
    out: OutOption = None,
    changes: SetOption = None,
    scale: ScaleOption = None,
    as_json: JsonOption = False,
) -> None:
    """Climb the ladder; started again after a stop or a crash it goes on where it was."""
    opened = read_recipe(recipe, changes, scale)
    from stepwell import api

    results = api.run(opened, out)
    print_json(results) if as_json else _show_results(results)


def _show_results(results: dict[str, Any]) -> None:
    from stepwell.evaluation import Comparison

    if results:  # only the main process has them
        show(Comparison.from_json(results["comparison"]).table())
