"""The verb that compares variants of a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stepwell.cli.app import JsonOption, RecipeFile, ScaleOption, SetOption, app, print_json, read_recipe
from stepwell.display import show


@app.command()
def ablate(
    recipe: RecipeFile,
    grid: Annotated[
        str, typer.Option("--grid", help="A YAML file of variants, or `paper`: those that the paper compares.")
    ] = "paper",
    out: Annotated[
        Path | None, typer.Option("--out", help="The ablation's folder; runs/NAME-ablation when left out.")
    ] = None,
    changes: SetOption = None,
    scale: ScaleOption = None,
    plan_only: Annotated[bool, typer.Option("--plan", help="Only show what it will take.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Run variants of a recipe and compare them in one table; what is equal in two of them is done once."""
    opened = read_recipe(recipe, changes, scale)
    from stepwell import api

    if plan_only:
        made = api.plan_ablation(opened, grid, out)
        print_json(made.to_json()) if as_json else show(made.table())
        return
    result = api.ablate(opened, grid, out)
    print_json(result.to_json()) if as_json else show(result.table())
    if result.failed:
        raise typer.Exit(1)
