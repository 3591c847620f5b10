"""The verb serve."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stepwell.cli.app import CollectionOption, app


@app.command()
def serve(
    system: Annotated[Path, typer.Argument(help="A finished run, an index, or a model directory.")],
    collection: CollectionOption = None,
    host: Annotated[str, typer.Option("--host", help="Any but this machine's own needs a token.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65_535, help="0 takes a free one.")] = 8765,
    token_env: Annotated[str, typer.Option("--token-env", help="The variable with the token.")] = "STEPWELL_TOKEN",
    token_file: Annotated[Path | None, typer.Option("--token-file", help="A file with the token.")] = None,
    only: Annotated[
        list[str] | None, typer.Option("--only", help="Offer this system beside the student (may be repeated).")
    ] = None,
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="Of a forward.")] = None,
    text: Annotated[int, typer.Option("--text", min=1, help="Longest text, in characters.")] = 2_000,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Texts of a request, at most.")] = 64,
    k: Annotated[int, typer.Option("-k", min=1, help="Passages a query, at most.")] = 100,
    queue: Annotated[int, typer.Option("--queue", min=1, help="Texts that may wait; beyond it, 503.")] = 256,
    at_once: Annotated[int, typer.Option("--at-once", min=1, help="Texts of a forward, at most.")] = 32,
    browse: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
) -> None:
    """Serve search over HTTP, with a page that compares the run's systems."""
    from stepwell.server.limits import Limits
    from stepwell.server.server import read_token, serve

    serve(
        system,
        collection=collection,
        host=host,
        port=port,
        token=read_token(token_env, token_file),
        limits=Limits(text=text, batch=batch, k=k, queue=max(queue, batch), at_once=at_once),
        systems=only or (),
        threads=threads,
        browse=browse,
    )
