"""What a person is told when a stage is finished: a line or a small table, from the files it left."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stepwell.display import Table, duration, say, show_aside
from stepwell.distil.training import TrainingLog
from stepwell.evaluation import Evaluation
from stepwell.ladder.context import Context
from stepwell.ladder.refine import GROUPS
from stepwell.ladder.workspace import Stage, read_json


def tell(ctx: Context, stage: Stage, folder: Path, seconds: float) -> None:
    """Say what a stage found; stages that only prepare say nothing."""
    line = _line(ctx, stage, folder)
    if line:
        say(f"    {line}")
    if stage.kind == "select":
        show_aside(funnel_table(read_json(folder / "decision.json")))
    if stage.kind in ("mine", "select"):
        _mining(ctx, read_json(folder / "report.json"))
    if seconds > 5:
        say(f"    took {duration(seconds)}")


def _line(ctx: Context, stage: Stage, folder: Path) -> str | None:
    if stage.kind == "search-dev":
        evaluation = Evaluation.load(folder / "evaluation.parquet", ctx.collection)
        return f"{_dev(ctx)} " + ", ".join(f"{measure} {evaluation.mean(measure):.3f}" for measure in evaluation.values)
    if stage.kind == "headroom":
        d = read_json(folder / "decision.json")
        if d["teacher"] is None:
            return "the teacher has scores of no dev query, so its headroom is not known; climb"
        verdict = "climb" if d["go"] else "no headroom: the rung is left out (force: true would climb it all the same)"
        if d["forced"]:
            verdict = "no headroom, but the recipe says force"
        return (
            f"{d['measure']} on {d['queries']} {_dev(ctx)} queries: student {d['student']:.3f}, "
            f"teacher {d['teacher']:.3f}, headroom {d['headroom']:+.3f}; {verdict}"
        )
    if stage.kind == "promote":
        d = read_json(folder / "decision.json")
        if d["after"] is None:
            return f"the rung was left out; {d['student']} goes on"
        p = "p < 0.001" if d["p"] < 0.001 else f"p = {d['p']:.3f}"
        return f"{d['measure']} on {_dev(ctx)} {d['before']:.3f} -> {d['after']:.3f} ({p}); {d['student']} goes on"
    if stage.kind == "score":
        s = read_json(folder / "spread.json")["spread"]
        return f"standard deviation within a query {s['mean_std']:.2f}; scores from {s['low']:.1f} to {s['high']:.1f}"
    if stage.kind == "take-scores":
        d = read_json(folder / "scores.json")
        return f"{d['pairs']:,} scores; {d['unknown']:,} of them are of texts that the collection has not"
    if stage.kind == "outcome":
        d = read_json(folder / "outcome.json")
        return (
            f"of {d['selected']} selected queries {d['fixed']} are fixed (rank 1), {d['nearer']} nearer, "
            f"{d['farther']} farther; {d['broken']} that were right are broken; "
            f"right in all {d['right_before']} -> {d['right_after']}"
        )
    if (folder / "training.json").is_file():
        log = TrainingLog(**read_json(folder / "training.json"))
        return log.summary() if log.steps else None
    return None


def _dev(ctx: Context) -> str:
    return "synthetic dev" if ctx.splits.synthetic.get("dev") else "dev"


def _mining(ctx: Context, report: dict[str, Any]) -> None:
    """Say what mining took, what it dropped and why, with examples."""
    dropped = ", ".join(f"{reason} {count:,}" for reason, count in report["dropped"].items() if count) or "nothing"
    origin = ", ".join(f"{source} {count:,}" for source, count in report["negatives"].items() if count) or "none"
    made = ctx.splits.synthetic.get("train")
    queries = f"{report['queries']:,} queries{f' ({made:,} of the training queries are synthetic)' if made else ''}"
    say(f"    {queries}, {report['positives']:,} positives; negatives {origin}")
    say(f"    dropped of {report['ranked']:,} passages: {dropped}")
    for note in report["notes"]:
        say(f"    {note}")
    for example in report["examples"][:3]:
        say(f"    {example['reason']}: {example['query'][:70]} | dropped: {example['dropped'][:90]}")


def funnel_table(decision: dict[str, Any]) -> Table:
    """Return the funnel of a selection: queries at each pair of rank groups of student and teacher."""
    heads, rows = funnel_grid(decision["funnel"])
    note = (
        f"Rule {decision['rule']}: {decision['selected']} of {decision['queries']} queries selected; the teacher was "
        f"asked about {decision['asked']} (the others can't be selected)."
    )
    return Table("Rank of the first positive", ["student", *heads], rows, (note,))


def funnel_grid(funnel: list[dict[str, Any]]) -> tuple[list[str], list[list[str | int | float | None]]]:
    """Return the heads of the teacher's rank groups, and a row for each of the student's: its name, the counts."""
    counts = {(row["student"], row["teacher"]): row["queries"] for row in funnel}
    columns = [group for group in (*GROUPS, "-") if any(teacher == group for _, teacher in counts)]
    rows: list[list[str | int | float | None]] = [
        [student, *(counts.get((student, teacher), 0) for teacher in columns)]
        for student in GROUPS
        if any(key[0] == student for key in counts)
    ]
    return ["teacher not asked" if column == "-" else f"teacher {column}" for column in columns], rows
