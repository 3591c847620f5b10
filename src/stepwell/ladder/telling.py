"""What a person is told when a stage is finished: a line or a small table, from the files it left."""

from __future__ import annotations

from pathlib import Path

from stepwell.display import duration, say, show_aside
from stepwell.evaluation import Evaluation
from stepwell.ladder.context import Context
from stepwell.ladder.workspace import Stage
from stepwell.systems.records import (
    Headroom,
    Mining,
    Outcome,
    Promotion,
    Record,
    ScoreFacts,
    Selection,
    TakenScores,
    Training,
)

RECORDS: dict[str, type[Record]] = {
    "headroom": Headroom,
    "promote": Promotion,
    "score": ScoreFacts,
    "take-scores": TakenScores,
    "outcome": Outcome,
}
"""What a stage leaves that says in a line what it found, by its kind; all others may leave a training."""


def tell(ctx: Context, stage: Stage, folder: Path, seconds: float) -> None:
    """Say what a stage found; stages that only prepare say nothing."""
    line = _line(ctx, stage, folder)
    if line:
        say(f"    {line}")
    if stage.kind == "select":
        show_aside(Selection.load(folder).table())
    if stage.kind in ("mine", "select"):
        for text in Mining.load(folder).lines(ctx.splits.synthetic.get("train", 0)):
            say(f"    {text}")
    if seconds > 5:
        say(f"    took {duration(seconds)}")


def _line(ctx: Context, stage: Stage, folder: Path) -> str | None:
    dev = "synthetic dev" if ctx.splits.synthetic.get("dev") else "dev"
    if stage.kind == "search-dev":
        evaluation = Evaluation.load(folder / "evaluation.parquet", ctx.collection)
        return f"{dev} " + ", ".join(f"{measure} {evaluation.mean(measure):.3f}" for measure in evaluation.values)
    kind = RECORDS.get(stage.kind, Training)
    return kind.load(folder).line(dev) if (folder / kind.file).is_file() else None
