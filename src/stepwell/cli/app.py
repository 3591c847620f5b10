"""The application that the verbs are added to, the options that several of them share, and how mistakes are shown."""

import json
import os
import sys
import warnings
from pathlib import Path
from typing import Annotated, Literal, Protocol

import typer

from stepwell import __version__
from stepwell.display import Table, set_quiet, show, warn
from stepwell.errors import StepwellError, explain

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Distil a small, fast dense retriever from a ladder of ever stronger teachers, and prove what it gained.",
)

RecipeFile = Annotated[Path, typer.Argument(help="The recipe, a YAML file.", show_default=False)]
OutOption = Annotated[Path | None, typer.Option(help="The run's folder; runs/NAME when left out.")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", help="Change a value of the recipe: student.layers=4 (may be repeated).")
]
ScaleOption = Annotated[
    str | None,
    typer.Option(help="Make the recipe small, after --set: tiny, or a factor of all trainings such as 0.01."),
]
YesOption = Annotated[bool, typer.Option("--yes", help="Pay for what an API costs without a question.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print plain JSON for scripts.")]
CollectionOption = Annotated[str | None, typer.Option(help="A directory, demo, irds:ID or hf:NAME.")]
EngineOption = Annotated[
    Literal["processes", "ray"],
    typer.Option(help="processes: this one, or those of accelerate launch. ray: a Ray cluster."),
]
RayAddress = Annotated[str, typer.Option(help="auto (the cluster of this machine), local (none but it), or HOST:PORT.")]
RayWorkers = Annotated[int | None, typer.Option(min=1, help="At most; as many as fit, else.")]
RayCpus = Annotated[float, typer.Option(min=0.01, help="CPUs that a worker takes.")]
RayGpus = Annotated[float | None, typer.Option(min=0, help="GPUs that a worker takes; 1 where there are any, else.")]


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


class Result(Protocol):
    """What most verbs give."""

    def table(self) -> Table:
        """Return it as a table."""

    def to_json(self) -> object:
        """Return it as plain values."""


def show_result(result: Result, as_json: bool) -> None:
    """Show the result of a verb as a table, or print it as JSON."""
    print_json(result.to_json()) if as_json else show(result.table())


def print_json(content: object) -> None:
    """Print plain JSON."""
    typer.echo(json.dumps(content, indent=1, default=str))


def main() -> None:
    """Run the command line; mistakes of a user become one paragraph and exit status 2."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.showwarning = _show_warning
    try:
        app()
    except (StepwellError, OSError) as error:
        typer.echo(f"stepwell: {error if isinstance(error, StepwellError) else explain(error)}", err=True)
        sys.exit(2)
    except (KeyboardInterrupt, SystemExit) as end:
        if isinstance(end, SystemExit) and end.code != 130:  # 130 is what Typer makes of Ctrl-C
            raise
        typer.echo("stepwell: stopped. What is finished is kept; the same command goes on from here.", err=True)
        sys.exit(130)


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    if isinstance(message, UserWarning):
        warn(str(message))
