"""Verbs that judge systems: eval, compare."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from stepwell.cli.app import CollectionOption, JsonOption, app, print_json
from stepwell.display import Table, show
from stepwell.errors import StepwellError

if TYPE_CHECKING:
    from stepwell.judged import Judged

MEASURE = "nDCG@10"
"""What queries are won and lost by."""


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
    from stepwell.judged import judge_systems

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
    queries: Annotated[int, typer.Option("--queries", help="Queries won and lost to show.")] = 5,
    as_json: JsonOption = False,
) -> None:
    """Compare systems: table, tests, the queries won and lost."""
    from stepwell.evaluation import compare as compare_evaluations
    from stepwell.evaluation import wins_and_losses
    from stepwell.judged import judge_systems

    if len(systems) < 2:
        raise StepwellError("compare needs two systems or more; for one, use `stepwell eval`.")
    on, evaluations = judge_systems(systems, collection, split)
    first, *others = systems
    comparison = compare_evaluations(evaluations, first)
    contests: list[dict[str, Any]] = []
    for other in others:
        won, lost = wins_and_losses(evaluations[first], evaluations[other], MEASURE, queries)
        contests.append({"system": other, "measure": MEASURE, "won": _told(on, won), "lost": _told(on, lost)})
    if as_json:
        print_json({**comparison.to_json(), "won_and_lost": contests})
        return
    show(comparison.table(f"{on.collection.name}, {on.name}"))
    for contest in contests:
        rows = [[f"{told['difference']:+.3f}", told["query"][:100]] for told in (*contest["won"], *contest["lost"])]
        if rows:
            title = f"{first} against {contest['system']}: won and lost most ({MEASURE})"
            show(Table(title, ["difference", "query"], rows))


def _told(on: Judged, pairs: list[tuple[int, float]]) -> list[dict[str, Any]]:
    """Return queries (by row, with the difference) as plain values."""
    collection = on.collection
    texts = collection.query_texts([row for row, _ in pairs])
    return [
        {"query_id": collection.query_ids[row], "query": text, "difference": delta}
        for (row, delta), text in zip(pairs, texts, strict=True)
    ]
