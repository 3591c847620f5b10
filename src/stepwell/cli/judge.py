"""Verbs that judge systems: eval, compare."""

from __future__ import annotations

from typing import Annotated

import typer

from stepwell.cli.app import CollectionOption, JsonOption, app, print_json
from stepwell.display import Table, show
from stepwell.errors import StepwellError

SplitOption = Annotated[
    str | None,
    typer.Option("--split", help="A qrels split. Left out: the queries of the run's final table; without a run, test."),
]


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
    from stepwell.evaluation import bootstrap_interval
    from stepwell.systems.queries import judge_systems

    on, evaluations = judge_systems([system], collection, split)
    evaluation = evaluations[system]
    rows = [(m, evaluation.mean(m), *bootstrap_interval(evaluation.of(m), seed=0)) for m in evaluation.values]
    if as_json:
        print_json({m: {"mean": mean, "low": low, "high": high} for m, mean, low, high in rows})
        return
    note = f"{len(evaluation.queries):,} queries; low and high bound the 95 % bootstrap interval."
    show(Table(f"{system} on {on.name}", ["measure", "mean", "low", "high"], rows, (note,)))


@app.command()
def compare(
    systems: Annotated[list[str], typer.Argument(help="Two or more systems, as in eval; the first is the reference.")],
    collection: CollectionOption = None,
    split: SplitOption = None,
    queries: Annotated[int, typer.Option("--queries", min=0, help="Queries won and lost to show.")] = 5,
    as_json: JsonOption = False,
) -> None:
    """Compare systems: table, tests, the queries won and lost."""
    from stepwell.evaluation import compare as compare_evaluations
    from stepwell.systems.queries import contests, judge_systems

    if len(systems) < 2:
        raise StepwellError("compare needs two systems or more; for one, use `stepwell eval`.")
    on, evaluations = judge_systems(systems, collection, split)
    comparison, found = compare_evaluations(evaluations, systems[0]), contests(on, evaluations, queries)
    if as_json:
        print_json({**comparison.to_json(), "won_and_lost": found})
        return
    show(comparison.table(f"{on.collection.name}, {on.name}"))
    for contest in found:
        rows = [[f"{told['difference']:+.3f}", told["query"][:100]] for told in (*contest["won"], *contest["lost"])]
        if rows:
            title = f"{systems[0]} against {contest['system']}: won and lost most ({contest['measure']})"
            show(Table(title, ["difference", "query"], rows))
