"""Verbs that give a model away: export, bench."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stepwell.cli.app import CollectionOption, JsonOption, app, print_json
from stepwell.display import say, show

System = Annotated[str, typer.Argument(help="A finished run, or a model (directory or hub name).")]


@app.command()
def export(
    system: System,
    to: Annotated[list[str], typer.Option("--to", help="onnx, openvino or safetensors (may be repeated).")],
    out: Annotated[Path | None, typer.Option("--out", help="The new folder; exports/NAME when left out.")] = None,
    int8: Annotated[bool, typer.Option("--int8", help="Also write int8 graphs, and measure what they lose.")] = False,
    collection: CollectionOption = None,
    max_loss: Annotated[
        float, typer.Option("--max-loss", min=0, help="Points of nDCG@10 on dev that int8 may lose.")
    ] = 0.5,
    force: Annotated[bool, typer.Option("--force", help="Write int8 even when it loses more.")] = False,
    push: Annotated[str | None, typer.Option("--push", help="Upload to the Hub as OWNER/NAME.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Write a folder that other programs load: one graph from token ids to the vector, and a model card."""
    from stepwell import api
    from stepwell.exports.folder import table

    target, graphs = api.export(system, to, out, int8, collection, max_loss, force, push)
    if as_json:
        print_json({"folder": str(target), "graphs": [graph.to_json() for graph in graphs]})
    elif graphs:
        show(table(graphs, target))
    say(f"{target} is written; its README.md is the model card.")


@app.command()
def bench(system: System, collection: CollectionOption = None, as_json: JsonOption = False) -> None:
    """Measure a model in fp32, bf16 and int8, in every engine that is installed, and say which to take."""
    from stepwell import api

    measured = api.bench(system, collection)
    print_json(measured.to_json()) if as_json else show(measured.table())
