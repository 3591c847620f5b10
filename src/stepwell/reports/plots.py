"""The figures of a report, each from facts to SVG."""

from collections.abc import Sequence
from math import exp, log
from textwrap import shorten
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import isotonic_regression

from stepwell.reports.climb import Refined, Scores, Step, Training
from stepwell.reports.costs import Cost
from stepwell.reports.drawing import COLOURS, figure, style, svg

INK, SOFT = COLOURS["ink"], COLOURS["soft"]
STUDENT, TEACHER, BM25, THIRD = COLOURS["student"], COLOURS["teacher"], COLOURS["bm25"], COLOURS["third"]
WIDE, NARROW, SMALL = 1000, 340, 320
PART_COLOURS = {"hard": BM25, "soft": TEACHER, "keep": THIRD}
COSTS = {"parameters": ("parameters, millions", 1e6), "encode_ms": ("time to encode one text, ms", 1.0)}
KIND_COLOURS = {"student": STUDENT, "teacher": TEACHER, "base": TEACHER, "bm25": BM25, "combined": THIRD}


def cut(text: str, most: int) -> str:
    """Return a text of at most so many characters, cut between words."""
    return shorten(text, most, placeholder="...")


def ladder(start: float | None, steps: Sequence[Step], measure: str, name: str, width: int) -> str:
    """Draw the dev quality of the student as a stair: one step a rung; what was left out or taken back is dashed."""
    wide = width > 500
    levels = [start, *(step.level for step in steps)]
    with style():
        made, axes = figure(width, 320 if wide else 260)
        named = len(steps) < (16 if wide else 9)
        for at, level in enumerate(levels):
            before = levels[at - 1] if at else level
            if level is not None and before is not None:
                _stair(axes, at, before, level, steps[at - 1] if at else None, wide, named)
        _marks(axes, steps)
        axes.set_xlim(-0.6, len(steps) + 0.6)
        axes.margins(y=0.18)
        short = (step.label.removeprefix("rung ").replace("refine ", "r") for step in steps)
        long = (f"{step.label}\n{cut(step.teacher, 14)}\n{step.loss}" for step in steps)
        axes.set_xticks(range(len(levels)), ["start", *(long if wide else short)])
        axes.tick_params(axis="x", length=0, labelcolor=INK)
        axes.set_ylabel(f"{measure} on dev")
        _legend(axes, wide)
        return svg(made, name, f"The ladder: {measure} on dev after each step")


def _stair(axes: Any, at: int, before: float, level: float, step: Step | None, wide: bool, named: bool) -> None:
    climbed = step is None or step.state == "climbed"
    line = {"lw": 3, "ls": "-"} if climbed else {"lw": 2, "ls": (0, (2, 2))}
    axes.plot([at - 0.5, at + 0.5], [level, level], color=STUDENT, solid_capstyle="butt", **line)
    axes.plot([at - 0.5, at - 0.5], [before, level], color=STUDENT, lw=1.2)
    if named and (climbed or wide):
        above = step is not None and step.teacher_dev is not None and step.teacher_dev <= level
        side, place = ("bottom", (0, 6)) if above else ("top", (0, -6))
        text = f"{level:.3f}" if step is None or climbed else step.state
        look = {"color": INK if climbed else SOFT, "size": 11 if wide else 10}
        axes.annotate(text, (at, level), place, textcoords="offset points", ha="center", va=side, **look)


def _marks(axes: Any, steps: Sequence[Step]) -> None:
    for at, step in enumerate(steps, start=1):
        if step.teacher_dev is not None:
            axes.plot([at], [step.teacher_dev], marker="D", ms=6, color=TEACHER, ls="none")
        if step.state == "taken back" and step.after is not None:
            axes.plot([at], [step.after], marker="o", ms=6, mfc="none", color=STUDENT, ls="none")


def _legend(axes: Any, wide: bool) -> None:
    from matplotlib.lines import Line2D

    shown = [
        Line2D([], [], color=STUDENT, lw=3, label="student"),
        Line2D([], [], color=STUDENT, lw=2, ls=(0, (2, 2)), label="goes on as before"),
        Line2D([], [], color=TEACHER, marker="D", ms=6, ls="none", label="the rung's teacher"),
    ]
    place, columns, anchor = ("lower right", 3, (1.0, 1.0)) if wide else ("upper center", 2, (0.5, 1.28))
    axes.legend(handles=shown, borderaxespad=0.2, loc=place, ncols=columns, bbox_to_anchor=anchor)


class Line(NamedTuple):
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
        height = 60 + len(lines) * (23 if wide else 36)
        made, axes = figure(width, height, columns=2 if both else 1, sharey=True, squeeze=False)
        left, *right = axes[0]
        for at, line in enumerate(lines):
            _interval(left, at, line.value, line.interval, line.colour)
            if right and line.difference is not None and line.difference_interval is not None:
                _interval(right[0], at, line.difference, line.difference_interval, line.colour)
            if not wide:
                at_left = left.get_yaxis_transform()
                left.text(0, at - 0.42, cut(line.label, 48), transform=at_left, va="center", size=11)
        left.set_ylim(len(lines) - 0.4, -0.6 if wide else -0.8)
        left.set_yticks(range(len(lines)), [cut(line.label, 48) if wide else "" for line in lines])
        left.set_xlabel(f"{measure} on test")
        for panel in axes[0]:
            panel.tick_params(axis="y", length=0, labelcolor=INK, labelsize=12)
            panel.spines["left"].set_visible(False)
            panel.grid(axis="x")
        if right:
            right[0].axvline(0, color=SOFT, lw=1)
            right[0].set_xlabel(f"difference from {cut(reference, 30)}")
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
        for panel, (what, (label, unit)) in zip(axes.flat, COSTS.items(), strict=True):
            known = [(float(x) / unit, values[cost.system], cost) for cost in costs if (x := getattr(cost, what))]
            _cloud(panel, known, named, wide)
            for level in (values[cost.system] for cost in costs if cost.kind == "bm25"):
                at_right = panel.get_yaxis_transform()
                panel.axhline(level, color=BM25, lw=1.5, ls=(0, (4, 3)))
                panel.annotate("BM25", (1, level), (4, 0), at_right, "offset points", color=BM25, va="center")
            panel.margins(y=0.12)
            _name(panel, [point for point in known if point[2].system in named], 250 if wide else 190)
            panel.set_xlabel(label)
            panel.grid(axis="y")
        for panel in axes[:, 0]:
            panel.set_ylabel(f"{measure} on test")
        return svg(made, name, f"{measure} on test against the size and the speed of each system")


def _cloud(axes: Any, known: Sequence[tuple[float, float, Cost]], named: set[str], wide: bool) -> None:
    for x, y, cost in known:
        bold = cost.system in named
        colour = KIND_COLOURS[cost.kind] if bold or cost.kind != "student" else SOFT
        look = {"ms": 9, "zorder": 2.5} if bold else {"ms": 6, "mfc": "none"}
        axes.plot([x], [y], marker="o", color=colour, ls="none", **look)
    if known:
        low, high = min(x for x, _, _ in known), max(x for x, _, _ in known)
        left, right = (0.22, 0.32) if wide else (0.33, 0.43)  # shares of the width that are room for names
        span = max(log(high / low), 0.5) / (1 - left - right)
        axes.set_xscale("log")
        axes.set_xlim(low / exp(left * span), low * exp((1 - left) * span))
        axes.set_xticks(_round_ticks(low, high))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.minorticks_off()


def _name(axes: Any, points: Sequence[tuple[float, float, Cost]], height: float) -> None:
    """Write names beside points, the student's on the left, apart from each other, on axes of ``height`` pixels."""
    bottom, top = axes.get_ylim()
    unit = height / (top - bottom)
    for (x, y, cost), at in zip(points, apart([y * unit for _, y, _ in points], 15.0), strict=True):
        left = cost.kind == "student"
        place = {"xytext": (-9 if left else 9, at - y * unit), "ha": "right" if left else "left"}
        axes.annotate(cut(cost.system, 32), (x, y), textcoords="offset points", va="center", size=11, **place)


def apart(places: Sequence[float], gap: float) -> list[float]:
    """Return places moved as little as it takes to lie ``gap`` apart, in the same order.

    >>> apart([0.0, 1.0, 9.0], 3.0)
    [-1.0, 2.0, 9.0]
    """
    if not places:
        return []
    order = np.argsort(places, kind="stable")
    gaps = gap * np.arange(len(places))
    moved = np.empty(len(places))
    moved[order] = isotonic_regression(np.asarray(places)[order] - gaps).x + gaps
    return [float(place) for place in moved]


def _round_ticks(low: float, high: float) -> list[float]:
    """Return 1, 2 and 5 times powers of ten around a range, every other one where they are many."""
    ticks = [m * 10.0**e for e in range(-6, 12) for m in (1, 2, 5)]
    inside = [tick for tick in ticks if low / 3 <= tick <= high * 3]
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
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_ylim(bottom=min(0.0, min(training.loss)))
        axes.grid(axis="y")
        if training.parts:
            made.legend(loc="outside upper center", ncols=6, handlelength=1.0, columnspacing=0.8, handletextpad=0.4)
        return svg(made, name, f"Loss against the step: {training.title}")


def spread(scores: Scores, name: str) -> str:
    """Draw how far the logits of teacher and student lie from their query's mean."""
    with style():
        made, axes = figure(SMALL, 200)
        both = (("teacher", scores.teacher_scores, TEACHER), ("student", scores.student_scores, STUDENT))
        for what, seen, colour in both:
            if seen is not None:
                unit = max(1, sum(seen.counts)) * (seen.edges[1] - seen.edges[0])
                shares = [100 * count / unit for count in seen.counts]
                axes.stairs(shares, seen.edges, color=colour, lw=1.8, label=f"{what}, std {seen.std:.2f}")
        axes.set_xlabel("logit, less its query's mean")
        axes.set_ylabel("candidates, % a unit")
        made.legend(loc="outside upper center", ncols=2, handlelength=1.0, columnspacing=1.0, handletextpad=0.4)
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
