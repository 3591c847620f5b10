"""Verbs that judge systems: eval, compare."""

from __future__ import annotations

from typing import Annotated

import typer

from stepwell.cli.app import CollectionOption, JsonOption, app, print_json
from stepwell.display import Table, show
from stepwell.errors import StepwellError


@app.command(name="eval")
def evaluate(
    system: Annotated[
        str, typer.Argument(help="A finished run, a model (directory or hub name), a TREC run file, or bm25.")
    ],
    collection: CollectionOption = None,
    split: Annotated[str, typer.Option("--split", help="The qrels split.")] = "test",
    as_json: JsonOption = False,
) -> None:
    """Evaluate one system on a split."""
    from stepwell import api
    from stepwell.evaluation import bootstrap_interval

    evaluation, _ = api.evaluate_system(system, collection, split)
    rows = [(m, evaluation.mean(m), *bootstrap_interval(evaluation.of(m), seed=0)) for m in evaluation.values]
    if as_json:
        print_json({m: {"mean": mean, "low": low, "high": high} for m, mean, low, high in rows})
        return
    note = f"{len(evaluation.queries):,} queries; low and high bound the 95 % bootstrap interval."
    show(Table(f"{system} on {split}", ["measure", "mean", "low", "high"], rows, (note,)))


@app.command()
def compare(
    systems: Annotated[list[str], typer.Argument(help="Two or more systems, as in eval; the first is the reference.")],
    collection: CollectionOption = None,
    split: Annotated[str, typer.Option("--split", help="The qrels split.")] = "test",
    queries: Annotated[int, typer.Option("--queries", help="Queries won and lost to show.")] = 5,
    as_json: JsonOption = False,
) -> None:
    """Compare systems: table, tests, the queries won and lost."""
    from stepwell import api

    if len(systems) < 2:
        raise StepwellError("compare needs two systems or more; for one, use `stepwell eval`.")
    comparison, opened, evaluations = api.compare(systems, collection, split)
    if as_json:
        print_json(comparison.to_json())
        return
    show(comparison.table(f"{opened.name}, {split}"))
    first = str(systems[0])
    for other in map(str, systems[1:]):
        won, lost = api.won_and_lost(evaluations[first], evaluations[other], queries)
        rows = [[f"{delta:+.3f}", opened.query_texts([row])[0][:100]] for row, delta in (*won, *lost)]
        if rows:
            show(Table(f"{first} against {other}: won and lost most (nDCG@10)", ["difference", "query"], rows))
