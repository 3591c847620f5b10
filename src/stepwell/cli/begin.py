"""The verb init: from what lies in a directory to a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from stepwell.cli.app import JsonOption, app, print_json
from stepwell.display import say

By = Literal["bm25", "encoder", "either", "both"]


@app.command()
def init(
    directory: Annotated[
        Path, typer.Argument(help="A directory, a table, irds:ID or hf:NAME.", show_default=False, metavar="DIRECTORY")
    ],
    target: Annotated[Path, typer.Argument(help="The recipe to write.")] = Path("recipe.yaml"),
    student: Annotated[str, typer.Option("--from", help="The encoder to cut the student from.")] = "demo",
    layers: Annotated[int, typer.Option("--layers", help="Layers of the student.")] = 2,
    test: Annotated[
        Path | None,
        typer.Option("--test", help="Passages without queries: a table of real queries and the passages they want."),
    ] = None,
    generator: Annotated[
        str | None,
        typer.Option("--generator", help="Passages without queries: a model that asks (directory or hub name)."),
    ] = None,
    per_passage: Annotated[
        int, typer.Option("--queries-per-passage", min=1, help="Queries that the generator makes of each passage.")
    ] = 2,
    by: Annotated[By, typer.Option("--round-trip", help="Who must find a synthetic query's passage again.")] = "bm25",
    depth: Annotated[int, typer.Option("--top", min=1, help="Within so many ranks.")] = 10,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Look at what is there, make queries for passages that have none, and write a commented recipe."""
    from stepwell.intake.start import Wishes, start

    making: dict[str, object] = {"generator": generator, "per_passage": per_passage, "by": by, "depth": depth}
    made = start(directory, target, Wishes(student, layers, None, test, making), dry_run)
    if not dry_run:
        path = made.recipe
        say(f"{path} is written; look through it, then: stepwell plan {path}, and stepwell run {path}")
    if as_json:
        print_json(made.to_json())
