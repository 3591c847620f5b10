"""The application that the verbs are added to, and the options that several of them share."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from stepwell import __version__
from stepwell.display import Table, set_quiet, show

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
ScaleOption = Annotated[
    str | None,
    typer.Option(
        "--scale", help="Make the recipe small, after --set: tiny, or a factor of all trainings such as 0.01."
    ),
]
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


def show_facts(table: Table | None, as_json: bool) -> None:
    """Show a table of names and values, or print it as JSON; only the main process has one."""
    if table is not None:
        print_json({str(name): value for name, value in table.rows}) if as_json else show(table)


def read_recipe(path: Path, changes: list[str] | None, scale: str | None = None) -> Any:
    """Read a recipe with the changes of ``--set`` and ``--scale``."""
    from stepwell.recipe.scale import scaled
    from stepwell.recipe.yaml_file import load_recipe, parse_override

    recipe = load_recipe(path, dict(map(parse_override, changes or [])))
    return recipe if scale is None else scaled(recipe, scale)


def print_json(content: object) -> None:
    """Print plain JSON."""
    typer.echo(json.dumps(content, indent=1, default=str))
