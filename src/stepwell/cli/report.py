"""The verb that shows what a run did: report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stepwell.cli.app import JsonOption, app, print_json
from stepwell.display import say


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs, finished or not.", show_default=False)],
    out: Annotated[
        Path | None,
        typer.Option("--out", help="The page, .html; RUN/report.html, or report.html here for several runs."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write one self-contained page about a run, or about several side by side, and the same facts as JSON."""
    from stepwell import api

    if as_json:
        print_json(api.report_facts(runs))
        return
    page = api.report(runs, out)
    say(f"The report is {page}; its facts are in {page.with_suffix('.json').name} beside it.")
