"""The verb search."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from stepwell.cli.app import CollectionOption, JsonOption, app, print_json

Mode = Literal["student", "asymmetric", "bm25", "fused"]


@app.command()
def search(
    system: Annotated[Path, typer.Argument(help="A finished run, an index, or a model directory.")],
    query: Annotated[str | None, typer.Argument(help="The query; left out, queries are read one a line.")] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="How many passages.")] = 5,
    mode: Annotated[Mode, typer.Option("--mode", help="student, asymmetric, bm25 or fused.")] = "student",
    collection: CollectionOption = None,
    as_json: JsonOption = False,
) -> None:
    """Search with a finished run or an index; interactive without a query."""
    from stepwell.systems.searcher import Searcher

    searcher = Searcher.open(system, mode, collection)
    if query is not None:
        _show_hits(searcher, _readable(query), k, as_json)
        return
    prompt = "query> " if sys.stdin.isatty() else ""
    while True:
        try:
            line = _readable(input(prompt)).strip()
        except (EOFError, KeyboardInterrupt):
            return
        if line and as_json:  # one line an answer
            hits = [hit.to_json() for hit in searcher.search(line, k)]
            typer.echo(json.dumps({"query": line, "hits": hits}, ensure_ascii=False))
        elif line:
            _show_hits(searcher, line, k, as_json)


def _readable(query: str) -> str:
    """Return a query with what is no UTF-8 in it replaced."""
    return query.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _show_hits(searcher: Any, query: str, k: int, as_json: bool) -> None:
    hits = searcher.search(query, k)
    if as_json:
        print_json([hit.to_json() for hit in hits])
        return
    for hit in hits:
        text = " ".join(hit.text.split())
        typer.echo(f"{hit.rank:>3}  {hit.score:7.3f}  {hit.passage_id}\n     {text[:200]}")
