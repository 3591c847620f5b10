"""The figures of a report, each from facts to SVG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import shorten
from typing import Any

from stepwell.report.climb import Refined, Scores, Step, Training
from stepwell.report.costs import Cost
from stepwell.report.drawing import COLOURS, figure, style, svg

INK, SOFT, LINE = COLOURS["ink"], COLOURS["soft"], COLOURS["line"]
STUDENT, TEACHER, BM25, THIRD = COLOURS["student"], COLOURS["teacher"], COLOURS["bm25"], COLOURS["third"]
WIDE, NARROW, SMALL = 960, 340, 320
PART_COLOURS = {"hard": BM25, "soft": TEACHER, "keep": THIRD}
KIND_COLOURS = {"student": STUDENT, "teacher": TEACHER, "base": TEACHER, "bm25": BM25, "combined": THIRD}


def ladder(start: float | None, steps: Sequence[Step], measure: str, name: str, width: int) -> str:
    """Draw the dev quality of the student as a stair: one step a rung; what was left out or taken back is dashed."""
    wide = width > 500
    levels = [start, *(step.level for step in steps)]
    with style():
        made, axes = figure(width, 320 if wide else 260)
        told = len(steps) < (16 if wide else 9)
        before = None
        for at, level in enumerate(levels):
            step = steps[at - 1] if at else None
            if level is None:
                continue
            climbed = step is None or step.state == "climbed"
            axes.plot(
                [at - 0.5, at + 0.5],
                [level, level],
                color=STUDENT,
                lw=3 if climbed else 2,
                ls="-" if climbed else (0, (2, 2)),
                solid_capstyle="butt",
            )
            if before is not None and before != level:
                axes.plot([at - 0.5, at - 0.5], [before, level], color=STUDENT, lw=1.2)
            if told:
                text = f"{level:.3f}" if climbed else step.state if step and wide else "="  # "=": as before
                axes.annotate(
                    text,
                    (at, level),
                    (0, -7),
                    textcoords="offset points",
                    ha="center",
                    va="top",
                    color=INK if climbed else SOFT,
                    size=11 if wide else 10,
                )
            before = level
        _marks(axes, steps)
        axes.set_xlim(-0.6, len(steps) + 0.6)
        axes.margins(y=0.18)
        axes.set_xticks(range(len(levels)), ["start", *(_tick(step, wide) for step in steps)])
        axes.tick_params(axis="x", length=0, labelcolor=INK)
        axes.set_ylabel(f"{measure} on dev")
        _legend(axes, wide)
        return svg(made, name, f"The ladder: {measure} on dev after each step")


def _marks(axes: Any, steps: Sequence[Step]) -> None:
    for at, step in enumerate(steps, start=1):
        if step.teacher_dev is not None:
            axes.plot([at], [step.teacher_dev], marker="D", ms=6, color=TEACHER, ls="none")
        if step.state == "taken back" and step.after is not None:
            axes.plot([at], [step.after], marker="o", ms=6, mfc="none", color=STUDENT, ls="none")


def _tick(step: Step, wide: bool) -> str:
    if wide:
        return f"{step.label}\n{shorten(step.teacher, 14, placeholder='...')}\n{step.loss}"
    return step.label.removeprefix("rung ").replace("refine ", "r")


def _legend(axes: Any, wide: bool) -> None:
    from matplotlib.lines import Line2D

    shown = [
        Line2D([], [], color=STUDENT, lw=3, label="student"),
        Line2D([], [], color=STUDENT, lw=2, ls=(0, (2, 2)), label="goes on as before"),
        Line2D([], [], color=TEACHER, marker="D", ms=6, ls="none", label="the rung's teacher"),
    ]
    axes.legend(
        handles=shown,
        loc="lower right" if wide else "upper center",
        ncols=3 if wide else 2,
        bbox_to_anchor=(1.0, 1.0) if wide else (0.5, 1.28),
        borderaxespad=0.2,
    )


@dataclass(frozen=True)
class Line:
    """One system of a forest plot: a mean and its interval, and perhaps its difference from the reference."""

    label: str
    colour: str
    value: float
    interval: tuple[float, float]
    difference: float | None = None
    difference_interval: tuple[float, float] | None = None


def forest(lines: Sequence[Line], measure: str, reference: str, name: str, width: int) -> str:
    """Draw means with intervals, and beside them (wide only) the differences from the reference."""
    wide = width > 500
    both = wide and any(line.difference is not None for line in lines)
    with style():
        made, axes = figure(
            width, 60 + len(lines) * (23 if wide else 36), columns=2 if both else 1, sharey=True, squeeze=False
        )
        left, *right = axes[0]
        for at, line in enumerate(lines):
            _interval(left, at, line.value, line.interval, line.colour)
            if right and line.difference is not None and line.difference_interval is not None:
                _interval(right[0], at, line.difference, line.difference_interval, line.colour)
            if not wide:
                left.text(
                    0,
                    at - 0.42,
                    shorten(line.label, 48, placeholder="..."),
                    transform=left.get_yaxis_transform(),
                    va="center",
                    size=11,
                )
        left.set_ylim(len(lines) - 0.4, -0.6 if wide else -0.8)
        left.set_yticks(
            range(len(lines)), [shorten(line.label, 48, placeholder="...") if wide else "" for line in lines]
        )
        left.set_xlabel(f"{measure} on test")
        for panel in axes[0]:
            panel.tick_params(axis="y", length=0, labelcolor=INK, labelsize=12)
            panel.spines["left"].set_visible(False)
            panel.grid(axis="x")
        if right:
            right[0].axvline(0, color=SOFT, lw=1)
            right[0].set_xlabel(f"difference from {shorten(reference, 30, placeholder='...')}")
        return svg(made, name, f"{measure} of each system on the test queries, with intervals")


def _interval(axes: Any, at: int, value: float, interval: tuple[float, float], colour: str) -> None:
    axes.plot(interval, [at, at], color=colour, lw=2, solid_capstyle="butt")
    axes.plot([value], [at], marker="s", ms=6, color=colour, ls="none")


def quality_and_cost(
    costs: Sequence[Cost], values: dict[str, float], named: set[str], measure: str, name: str, width: int
) -> str:
    """Draw quality against parameters and against the time to encode a text; BM25, which has neither, is a line.

    The systems in ``named`` have their names beside their points.
    """
    wide = width > 500
    with style():
        rows, columns = (1, 2) if wide else (2, 1)
        made, axes = figure(width, 330 if wide else 520, columns, rows, sharey=True, squeeze=False)
        for panel, what, label in zip(
            axes.flat, ("parameters", "encode_ms"), ("parameters, millions", "time to encode one text, ms"), strict=True
        ):
            _cloud(panel, costs, values, named, what)
            panel.set_xlabel(label)
            panel.grid(axis="y")
        for panel in axes[:, 0]:
            panel.set_ylabel(f"{measure} on test")
        return svg(made, name, f"{measure} on test against the size and the speed of each system")


def _cloud(axes: Any, costs: Sequence[Cost], values: dict[str, float], named: set[str], what: str) -> None:
    from matplotlib.ticker import FuncFormatter

    scale = 1e-6 if what == "parameters" else 1.0
    known = [(float(x) * scale, values[cost.system], cost) for cost in costs if (x := getattr(cost, what)) is not None]
    for x, y, cost in known:
        bold = cost.system in named
        axes.plot(
            [x],
            [y],
            marker="o",
            ms=9 if bold else 6,
            color=KIND_COLOURS[cost.kind],
            mfc=KIND_COLOURS[cost.kind] if bold else "none",
            ls="none",
        )
        if bold:
            axes.annotate(
                shorten(cost.system, 32, placeholder="..."),
                (x, y),
                (8, 0),
                textcoords="offset points",
                va="center",
                size=11,
            )
    if known:
        low, high = min(x for x, _, _ in known), max(x for x, _, _ in known)
        axes.set_xscale("log")
        axes.set_xlim(low / 1.4, high * 1.4 * (high / low) ** 0.45)  # room for names on the right
        axes.set_xticks(_round_ticks(low, high))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.minorticks_off()
    for cost in costs:
        if cost.kind == "bm25":
            axes.axhline(values[cost.system], color=BM25, lw=1.5, ls=(0, (4, 3)))
            axes.annotate(
                "BM25",
                (0, values[cost.system]),
                (3, -4),
                xycoords=axes.get_yaxis_transform(),
                textcoords="offset points",
                va="top",
                size=11,
                color=BM25,
            )


def _round_ticks(low: float, high: float) -> list[float]:
    """Return 1, 2 and 5 times powers of ten around a range, every other one where they are many."""
    ticks = [m * 10.0**e for e in range(-6, 12) for m in (1, 2, 5)]
    inside = [tick for tick in ticks if low / 2 <= tick <= high * 2]
    return inside if len(inside) < 9 else [tick for tick in inside if f"{tick:e}".startswith("1")]


def loss(training: Training, name: str) -> str:
    """Draw the loss of a training and its parts against the step."""
    with style():
        made, axes = figure(SMALL, 190)
        for part, values in training.parts.items():
            axes.plot(training.at, values, color=PART_COLOURS.get(part, SOFT), lw=1.2, label=part)
        axes.plot(training.at, training.loss, color=STUDENT if training.parts else INK, lw=1.8, label="loss")
        axes.set_xlabel("optimiser step")
        axes.set_ylabel("loss")
        axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
        axes.grid(axis="y")
        if training.parts:
            axes.legend(loc="upper right", ncols=2, handlelength=1.2, columnspacing=1.0)
        return svg(made, name, f"Loss against the step: {training.title}")


def spread(scores: Scores, name: str) -> str:
    """Draw how far the logits of teacher and student lie from their query's mean."""
    with style():
        made, axes = figure(SMALL, 200)
        for what, seen, colour in (
            ("teacher", scores.teacher_scores, TEACHER),
            ("student", scores.student_scores, STUDENT),
        ):
            if seen is not None:
                shares = [
                    100 * count / max(1, sum(seen.counts)) / (seen.edges[1] - seen.edges[0]) for count in seen.counts
                ]
                axes.stairs(shares, seen.edges, color=colour, lw=1.8, label=f"{what}, std {seen.std:.2f}")
        axes.set_xlabel("logit, less its query's mean")
        axes.set_ylabel("candidates, % a unit")
        axes.legend(loc="upper left", handlelength=1.2, bbox_to_anchor=(0, 1.32), borderaxespad=0.0)
        return svg(made, name, f"Spread of the scores of teacher and student: {scores.title}")


def funnel(round_: Refined, name: str) -> str:
    """Draw how many training queries there are, were asked about, selected and fixed."""
    bars = [("training queries", round_.queries), ("teacher asked", round_.asked), ("selected", round_.selected)]
    if round_.outcome:
        bars.append(("fixed (rank 1)", round_.outcome["fixed"]))
    with style():
        made, axes = figure(NARROW, 36 + 30 * len(bars))
        axes.barh(range(len(bars)), [count for _, count in bars], height=0.62, color=STUDENT)
        for at, (_, count) in enumerate(bars):
            axes.annotate(f"{count:,}", (count, at), (5, 0), textcoords="offset points", va="center", size=11)
        axes.set_yticks(range(len(bars)), [text for text, _ in bars])
        axes.tick_params(axis="y", length=0, labelcolor=INK, labelsize=12)
        axes.set_ylim(len(bars) - 0.5, -0.5)
        axes.margins(x=0.18)
        axes.set_xticks([])
        axes.spines["bottom"].set_visible(False)
        return svg(made, name, f"The funnel of {round_.label}")
