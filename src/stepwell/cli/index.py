"""The verb index."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from stepwell.cli.app import CollectionOption, JsonOption, app, print_json
from stepwell.display import say, show
from stepwell.errors import StepwellError

Kind = Literal["exact", "usearch", "faiss-hnsw", "faiss-ivfpq", "milvus", "milvus-hnsw"]
Precision = Literal["fp32", "fp16", "int8", "binary"]


@app.command()
def index(
    source: Annotated[Path, typer.Argument(help="A finished run, or a model directory (with --collection).")],
    out: Annotated[Path | None, typer.Option("--out", help="The folder of the index.")] = None,
    kind: Annotated[Kind, typer.Option("--kind", help="How passages are found.")] = "exact",
    precision: Annotated[
        Precision | None, typer.Option("--precision", help="Number type of the vectors; fp32 when left out.")
    ] = None,
    dimension: Annotated[
        int | None, typer.Option("--dimension", min=1, help="Leading numbers of a vector to keep; all, else.")
    ] = None,
    rescore: Annotated[
        int | None,
        typer.Option("--rescore", min=0, help="So many times the passages asked for are scored again; 0: none."),
    ] = None,
    rescore_with: Annotated[
        Precision | None, typer.Option("--rescore-with", help="Number type of the vectors for that; int8, else.")
    ] = None,
    effort: Annotated[
        int, typer.Option("--effort", min=1, help="Candidates that a graph looks at, or lists that are read.")
    ] = 64,
    uri: Annotated[
        str | None, typer.Option("--uri", help="A Milvus cluster, http://HOST:PORT; a file in the folder, else.")
    ] = None,
    split: Annotated[
        str | None, typer.Option("--split", help="Whose queries measure it; dev when there is one, else.")
    ] = None,
    compare: Annotated[
        bool, typer.Option("--compare", help="Measure what there is to choose from; keep nothing.")
    ] = False,
    collection: CollectionOption = None,
    as_json: JsonOption = False,
) -> None:
    """Build an index of a run or a model, and say what it costs and loses against exact search in fp32."""
    if compare == (out is not None):
        raise StepwellError("say where the index goes with --out, or ask with --compare what there is to choose from.")
    from stepwell import api
    from stepwell.indexes.measure import report_table
    from stepwell.indexes.settings import IndexSettings

    if out is None:
        reports = api.compare_indexes(source, None, collection, split)
    else:
        settings = IndexSettings(kind, precision, dimension, rescore, rescore_with, effort, uri)
        reports = [api.index(source, out, settings, collection, split)]
    if as_json:
        print_json([report.to_json() for report in reports])
        return
    show(report_table(f"Indexes of {source}", reports))
    if out is not None:
        say(f'Try it: stepwell search {out} "a query of yours"')
