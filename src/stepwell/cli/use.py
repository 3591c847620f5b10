"""What a run or a model is used for: search, eval, compare, serve, index, export, bench, report."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

import typer

import stepwell
from stepwell import api
from stepwell.cli.app import CollectionOption, JsonOption, app, print_json, show_result
from stepwell.display import say, show
from stepwell.errors import StepwellError

Mode = Literal["student", "asymmetric", "bm25", "fused"]
Kind = Literal["exact", "usearch", "milvus", "milvus-hnsw"]
Precision = Literal["fp32", "fp16", "int8", "binary"]
SplitOption = Annotated[
    str | None, typer.Option(help="A qrels split. Left out: the queries of the run's final table; without a run, test.")
]
System = Annotated[str, typer.Argument(help="A finished run, or a model (directory or hub name).")]


@app.command()
def search(
    system: Annotated[Path, typer.Argument(help="A finished run, an index, or a model directory.")],
    query: Annotated[str | None, typer.Argument(help="The query; left out, queries are read one a line.")] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="How many passages.")] = 5,
    mode: Annotated[Mode, typer.Option(help="student, asymmetric, bm25 or fused.")] = "student",
    collection: CollectionOption = None,
    as_json: JsonOption = False,
) -> None:
    """Search with a finished run or an index; interactive without a query."""
    searcher = stepwell.Searcher.open(system, mode, collection)
    for line in _typed() if query is None else [_readable(query)]:
        hits = searcher.search(line, k)
        if as_json and query is None:  # one line an answer
            answer = {"query": line, "hits": [hit.to_json() for hit in hits]}
            typer.echo(json.dumps(answer, ensure_ascii=False))
        elif as_json:
            print_json([hit.to_json() for hit in hits])
        else:
            for hit in hits:
                text = " ".join(hit.text.split())
                typer.echo(f"{hit.rank:>3}  {hit.score:7.3f}  {hit.passage_id}\n     {text[:200]}")


def _typed() -> Iterator[str]:
    """Yield the queries that a person or a pipe gives, one a line, up to its end or Ctrl-C."""
    prompt = "query> " if sys.stdin.isatty() else ""
    while True:
        try:
            line = _readable(input(prompt)).strip()
        except (EOFError, KeyboardInterrupt):
            return
        if line:
            yield line


def _readable(query: str) -> str:
    """Return a query with what is no UTF-8 in it replaced."""
    return query.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


@app.command(name="eval")
def evaluate(
    system: Annotated[
        str, typer.Argument(help="A finished run, a model (directory or hub name), a TREC run file, or bm25.")
    ],
    collection: CollectionOption = None,
    split: SplitOption = None,
    as_json: JsonOption = False,
) -> None:
    """Evaluate one system: a run on the queries of its final table, or anything on a split."""
    show_result(api.evaluate(system, collection, split), as_json)


@app.command()
def compare(
    systems: Annotated[list[str], typer.Argument(help="Two or more systems, as in eval; the first is the reference.")],
    collection: CollectionOption = None,
    split: SplitOption = None,
    queries: Annotated[int, typer.Option(min=0, help="Queries won and lost to show.")] = 5,
    as_json: JsonOption = False,
) -> None:
    """Compare systems: table, tests, the queries won and lost."""
    if len(systems) < 2:
        raise StepwellError("compare needs two systems or more; for one, use `stepwell eval`.")
    compared = api.compare(systems, collection, split)
    if as_json:
        print_json(compared.to_json(queries))
        return
    for table in compared.tables(queries):
        show(table)


@app.command()
def serve(
    system: Annotated[Path, typer.Argument(help="A finished run, an index, or a model directory.")],
    collection: CollectionOption = None,
    host: Annotated[str, typer.Option(help="Any but this machine's own needs a token.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65_535, help="0 takes a free one.")] = 8765,
    token_env: Annotated[str, typer.Option(help="The variable with the token.")] = "STEPWELL_TOKEN",
    token_file: Annotated[Path | None, typer.Option(help="A file with the token.")] = None,
    only: Annotated[
        list[str] | None, typer.Option(help="Offer this system beside the student (may be repeated).")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Of a forward.")] = None,
    text: Annotated[int, typer.Option(min=1, help="Longest text, in characters.")] = 2_000,
    batch: Annotated[int, typer.Option(min=1, help="Texts of a request, at most.")] = 64,
    k: Annotated[int, typer.Option("-k", min=1, help="Passages a query, at most.")] = 100,
    queue: Annotated[int, typer.Option(min=1, help="Texts that may wait; beyond it, 503.")] = 256,
    at_once: Annotated[int, typer.Option(min=1, help="Texts of a forward, at most.")] = 32,
    browse: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
) -> None:
    """Serve search over HTTP, with a page that compares the run's systems."""
    api.serve(
        system,
        collection=collection,
        host=host,
        port=port,
        token=api.read_token(token_env, token_file),
        limits=stepwell.Limits(text=text, batch=batch, k=k, queue=max(queue, batch), at_once=at_once),
        systems=only or (),
        threads=threads,
        browse=browse,
    )


@app.command()
def index(
    source: Annotated[Path, typer.Argument(help="A finished run, or a model directory (with --collection).")],
    out: Annotated[Path | None, typer.Option(help="The folder of the index.")] = None,
    kind: Annotated[Kind, typer.Option(help="How passages are found.")] = "exact",
    faiss: Annotated[
        str | None, typer.Option(help="FAISS's factory string, as IVF1024,PQ48: FAISS finds them.")
    ] = None,
    precision: Annotated[Precision | None, typer.Option(help="Number type of the vectors; fp32 when left out.")] = None,
    dimension: Annotated[
        int | None, typer.Option(min=1, help="Leading numbers of a vector to keep; all, else.")
    ] = None,
    rescore: Annotated[
        int | None, typer.Option(min=0, help="So many times the passages asked for are scored again; 0: none.")
    ] = None,
    rescore_with: Annotated[
        Precision | None, typer.Option(help="Number type of the vectors for that; int8, else.")
    ] = None,
    effort: Annotated[
        int, typer.Option(min=1, help="Candidates that a graph looks at, or lists read (efSearch, nprobe).")
    ] = 64,
    uri: Annotated[
        str | None, typer.Option(help="A Milvus cluster, http://HOST:PORT; a file in the folder, else.")
    ] = None,
    split: Annotated[str | None, typer.Option(help="Whose queries measure it; dev when there is one, else.")] = None,
    compare: Annotated[
        bool, typer.Option("--compare", help="Measure what there is to choose from; keep nothing.")
    ] = False,
    vectors: Annotated[
        str | None, typer.Option(help="Vectors that are there already: a teacher of the run, or a file.")
    ] = None,
    vector_ids: Annotated[Path | None, typer.Option(help="The id of each row, for a .npy file of vectors.")] = None,
    collection: CollectionOption = None,
    as_json: JsonOption = False,
) -> None:
    """Build an index of a run or a model, and say what it costs and loses against exact search in fp32."""
    if compare == (out is not None):
        raise StepwellError("say where the index goes with --out, or ask with --compare what there is to choose from.")
    if vector_ids is not None and vectors is None:
        raise StepwellError("--vector-ids says whose the rows of a .npy file are: name that file with --vectors.")
    if out is None:
        reports = api.compare_indexes(source, None, collection, split, vectors, vector_ids)
    else:
        settings = stepwell.IndexSettings(kind, precision, dimension, rescore, rescore_with, effort, uri, faiss)
        reports = [api.index(source, out, settings, collection, split, vectors, vector_ids)]
    if as_json:
        print_json([report.to_json() for report in reports])
        return
    show(api.report_table(f"Indexes of {source}", reports))
    if out is not None:
        say(f'Try it: stepwell search {out} "a query of yours"')


@app.command()
def export(
    system: System,
    to: Annotated[list[str], typer.Option(help="onnx, openvino or safetensors (may be repeated).")],
    out: Annotated[Path | None, typer.Option(help="The new folder; exports/NAME when left out.")] = None,
    int8: Annotated[bool, typer.Option("--int8", help="Also write int8 graphs, and measure what they lose.")] = False,
    collection: CollectionOption = None,
    max_loss: Annotated[float, typer.Option(min=0, help="Points of nDCG@10 on dev that int8 may lose.")] = 0.5,
    force: Annotated[bool, typer.Option("--force", help="Write int8 even when it loses more.")] = False,
    push: Annotated[str | None, typer.Option(help="Upload to the Hub as OWNER/NAME.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Write a folder that other programs load: one graph from token ids to the vector, and a model card."""
    exported = api.export(system, to, out, int8, collection, max_loss, force, push)
    if as_json or exported.graphs:
        show_result(exported, as_json)
    say(f"{exported.folder} is written; its README.md is the model card.")


@app.command()
def bench(system: System, collection: CollectionOption = None, as_json: JsonOption = False) -> None:
    """Measure a model in fp32, bf16 and int8, in every engine that is installed, and say which to take."""
    show_result(api.bench(system, collection), as_json)


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs, finished or not.", show_default=False)],
    out: Annotated[
        Path | None, typer.Option(help="The page, .html; RUN/report.html, or report.html here for several runs.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write one self-contained page about a run, or about several side by side, and the same facts as JSON."""
    if as_json:
        print_json(api.report_facts(runs))
        return
    page = api.report(runs, out)
    say(f"The report is {page}; its facts are in {page.with_suffix('.json').name} beside it.")
