"""What the benchmarks share: contenders in turn on one input, ratios of medians, memory, a table, JSON.

Rounds go A B A B ...: a machine that becomes slower for a while is slower for all. A ratio is that of two
medians; beside it stand the smallest and the largest ratio of a round. Memory is that of a process in which
nothing but the contender runs. This file also holds all calls of stepwell's models that are timed.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import machine
import numpy as np

from stepwell.display import Table, say, show
from stepwell.models.encoder import Encoder
from stepwell.models.reranker import Reranker

OURS = "stepwell"

# -- stepwell's models, as they are timed: from texts to numbers -----------------------------------------------


def embed(encoder: Encoder, texts: list[str], side: str = "document") -> np.ndarray:
    """Embed texts, tokenising included: (N, D)."""
    return encoder.encode(encoder.tokenise(texts, side), side)


def score(reranker: Reranker, queries: list[str], passages: list[str], pairs: np.ndarray) -> np.ndarray:
    """Score ``pairs`` (B, 2) of rows of queries and passages, tokenising included: (B,)."""
    return reranker.score(reranker.tokenise(queries), reranker.tokenise(passages), pairs[:, 0], pairs[:, 1])


def count_tokens(encoder: Encoder, texts: list[str], side: str = "document") -> int:
    """Return the tokens of some texts, specials included, as the model sees them."""
    return int((encoder.tokenise(texts, side).lengths + encoder.template.overhead[0]).sum())


def count_pair_tokens(reranker: Reranker, queries: list[str], passages: list[str], pairs: np.ndarray) -> int:
    """Return the tokens of some pairs, specials included, as the model sees them."""
    tokens = reranker.tokenise(queries), reranker.tokenise(passages)
    return int(reranker.lengths(*tokens, pairs[:, 0], pairs[:, 1]).sum())


# -- contenders ------------------------------------------------------------------------------------------------


class Skip(Exception):  # noqa: N818 (no error)
    """A contender can't run here; says why."""


@dataclass(frozen=True)
class Contender:
    """One way of doing the work.

    Parameters
    ----------
    name
        As the table names it.
    open
        Loads models (not timed) and gives what does the work on an input (timed).
    against
        The contender that its time is divided by; None for stepwell's own.
    """

    name: str
    open: Callable[[], Callable[[Any], Any]]
    against: str | None = OURS


@dataclass
class Outcome:
    """What a contender did: seconds of each round, the last result, memory, further columns of the table.

    ``peaks`` is the peak memory of each round, where each had a process of its own.
    """

    name: str
    against: str | None
    seconds: list[float] = field(default_factory=list)
    result: Any = None
    do: Any = None
    memory: dict[str, int] = field(default_factory=dict)
    peaks: list[int] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    skipped: str = ""


def in_turn(contenders: Sequence[Contender], inputs: Any, rounds: int, warm: Any = None) -> list[Outcome]:
    """Time all contenders in this process, round by round; ``warm`` is a small input that each gets first."""
    outcomes = [Outcome(contender.name, contender.against) for contender in contenders]
    for contender, outcome in zip(contenders, outcomes, strict=True):
        try:
            outcome.do = contender.open()
        except Skip as reason:
            outcome.skipped = str(reason)
            continue
        if warm is not None:
            outcome.do(warm)
    for number in range(rounds):
        for outcome in outcomes:
            if outcome.do is not None:
                took, outcome.result = timed(outcome.do, inputs)
                outcome.seconds.append(took)
                say(f"round {number + 1} of {rounds}: {outcome.name}, {took:.2f} s")
    return outcomes


def timed(do: Callable[[Any], Any], inputs: Any) -> tuple[float, Any]:
    """Return the seconds of one run, and its result; what ``do.before`` does is not timed."""
    if hasattr(do, "before"):
        do.before()
    gc.collect()
    machine.wait()
    start = time.perf_counter()
    result = do(inputs)
    machine.wait()
    return time.perf_counter() - start, result


# -- a contender in a process of its own -------------------------------------------------------------------------


def alone(contenders: Sequence[Contender], inputs: Any, options: argparse.Namespace, warm: Any = None) -> None:
    """Run the contender ``--only`` once and write seconds, memory and result to ``--note``."""
    contender = next(contender for contender in contenders if contender.name == options.only)
    try:
        do = contender.open()
    except Skip as reason:
        options.note.write_text(json.dumps({"skipped": str(reason)}))
        return
    if warm is not None:
        do(warm)
    with machine.Memory() as memory:
        took, result = timed(do, inputs)
    plain = None if isinstance(result, np.ndarray) else result
    options.note.write_text(json.dumps({"seconds": took, "memory": memory.to_json(), "result": plain}))


def apart(script: str, argv: Sequence[str], name: str, *more: str) -> dict[str, Any]:
    """Run one contender of a script in a process of its own; return what it noted."""
    with tempfile.TemporaryDirectory() as folder:
        note = Path(folder) / "note.json"
        command = [sys.executable, script, *argv, "--only", name, "--note", str(note), *more]
        done = subprocess.run(command, env={**os.environ, "HF_HUB_OFFLINE": "1"}, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{name} ended with status {done.returncode}:\n{done.stderr[-3000:]}")
        return dict(json.loads(note.read_text()))


def add_memory(outcomes: Sequence[Outcome], script: str, argv: Sequence[str], *more: str) -> None:
    """Run every contender once more, each in a process of its own, for its peak memory."""
    for outcome in outcomes:
        if outcome.do is not None:
            outcome.memory = apart(script, argv, outcome.name, *more)["memory"]
            say(f"memory: {outcome.name}, {outcome.memory['peak'] / 1e6:,.0f} MB")


def in_turn_apart(
    contenders: Sequence[Contender], rounds: int, script: str, argv: Sequence[str], *more: str
) -> list[Outcome]:
    """Time all contenders round by round, each run in a process of its own; memory too is the median of the rounds."""
    outcomes = [Outcome(contender.name, contender.against) for contender in contenders]
    memories: dict[str, list[dict[str, int]]] = {outcome.name: [] for outcome in outcomes}
    for number in range(rounds):
        for outcome in outcomes:
            if outcome.skipped:
                continue
            note = apart(script, argv, outcome.name, *more)
            if "skipped" in note:
                outcome.skipped = note["skipped"]
                continue
            outcome.seconds.append(note["seconds"])
            outcome.result = note["result"]
            memories[outcome.name].append(note["memory"])
            peak = note["memory"]["peak"] / 1e6
            say(f"round {number + 1} of {rounds}: {outcome.name}, {note['seconds']:.2f} s, {peak:,.0f} MB")
    for outcome in outcomes:
        if rows := memories[outcome.name]:
            outcome.memory = {kind: round(statistics.median(row[kind] for row in rows)) for kind in rows[0]}
            outcome.peaks = [row["peak"] for row in rows]
    return outcomes


# -- the command line, the table, the file -----------------------------------------------------------------------


def parser(script: str) -> argparse.ArgumentParser:
    """Return a parser with the options that all benchmarks have; ``script`` is a docstring."""
    made = argparse.ArgumentParser(description=script.split("\n\n")[0])
    made.add_argument("--collection", required=True, help="A BEIR directory, or demo.")
    made.add_argument("--model", default="demo", help="A model directory, or demo: the bundled all-MiniLM-L6-v2.")
    made.add_argument("--rounds", type=int, default=5)
    made.add_argument("--out", type=Path, help="Write the figures as JSON.")
    made.add_argument("--no-memory", action="store_true", help="Leave out the runs that measure memory.")
    for hidden, kind in (("--only", str), ("--note", Path), ("--setting", str)):
        made.add_argument(hidden, type=kind, help=argparse.SUPPRESS)
    return made


def ratio(seconds: Sequence[float], against: Sequence[float]) -> tuple[float, float, float]:
    """Return the ratio of the medians, and the smallest and largest ratio of a round.

    >>> ratio([4.0, 6.0, 5.0], [2.0, 2.0, 2.5])
    (2.5, 2.0, 3.0)
    """
    each = [a / b for a, b in zip(seconds, against, strict=True)]
    return statistics.median(seconds) / statistics.median(against), min(each), max(each)


def report(
    benchmark: str, title: str, size: int, unit: str, outcomes: Sequence[Outcome], notes: Sequence[str] = ()
) -> dict[str, Any]:
    """Return all figures as plain values, with the table of them."""
    known = {outcome.name: outcome for outcome in outcomes}
    ran = [outcome for outcome in outcomes if outcome.seconds]
    further = list(dict.fromkeys(name for outcome in ran for name in outcome.facts))
    lines, rows = [], []
    for outcome in ran:
        median = statistics.median(outcome.seconds)
        base = known.get(outcome.against or "")
        line: dict[str, Any] = {"name": outcome.name, "seconds": outcome.seconds, "median": median}
        line |= {"per_second": size / median, "memory": outcome.memory, "peaks": outcome.peaks, "facts": outcome.facts}
        told = None
        if base is not None and base.seconds:
            of = ratio(outcome.seconds, base.seconds)
            line |= {"against": base.name, "ratio": dict(zip(("median", "low", "high"), of, strict=True))}
            told = f"{of[0]:.2f} [{of[1]:.2f}, {of[2]:.2f}]"
        lines.append(line)
        memory = [f"{outcome.memory[kind] / 1e6:,.0f}" if outcome.memory else None for kind in ("peak", "own")]
        speed = f"{size / median:,.1f}"
        rows.append([outcome.name, speed, f"{median:.2f}", told, *memory, *(outcome.facts.get(n) for n in further)])
    columns = ["contender", f"{unit}/s", "seconds", "times stepwell's time", "peak MB", "own MB", *further]
    skipped = {outcome.name: outcome.skipped for outcome in outcomes if outcome.skipped}
    return finish(benchmark, title, columns, rows, [*notes, *(f"Left out: {k}: {v}." for k, v in skipped.items())]) | {
        "size": size,
        "unit": unit,
        "contenders": lines,
        "skipped": skipped,
    }


def finish(
    benchmark: str, title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], notes: Sequence[str]
) -> dict[str, Any]:
    """Return what every file of figures has: which benchmark, the machine, the table."""
    kept = [n for n in range(len(columns)) if any(row[n] is not None for row in rows)]  # no empty columns
    table = {
        "title": title,
        "columns": [columns[n] for n in kept],
        "rows": [[row[n] for n in kept] for row in rows],
        "notes": list(notes),
    }
    return {"benchmark": benchmark, "machine": machine.facts(), "table": table}


def publish(figures: dict[str, Any], out: Path | None) -> None:
    """Show the table, and write the figures where it was asked for."""
    show(Table(**figures["table"]))
    if out is not None:
        out.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
