"""How fast a model runs on this machine in each way that it can run, what that costs in quality, and which to take."""

import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from statistics import median
from typing import Any

from stepwell.display import Cell, Table, counted, progress
from stepwell.exports.graph import (
    KINDS,
    OPENVINO,
    Kind,
    batches_of,
    check_towers,
    load_graph,
    size_of,
    source_of,
    write_graph,
)
from stepwell.exports.quality import MEASURE, Ground, Yardstick, parity, points_lost, sample_texts, signed
from stepwell.models.encoder import Encoder
from stepwell.models.engines.backends import WAYS, Net, Runner, extra_of, missing, open_way, parts, unfit
from stepwell.models.engines.inference import Opened
from stepwell.models.engines.machine import machine, token_budget
from stepwell.models.engines.race import bf16_is_slow
from stepwell.models.tokens import Tokens

ROUNDS = 5
TEXTS = 64
"""Passages that the speed is measured on."""
SECONDS = 0.5
"""About what torch fp32 takes in a round."""
SLACK = 1.05
"""A way is only named over a plainer one when it is so many times faster."""
LOSS = 0.5
"""Points of nDCG@10 that a way may lose to be named."""
CLOSE = 0.99
"""Smallest cosine to torch fp32 that a way needs to be named, where no loss was measured."""


@dataclass(frozen=True)
class Timing:
    """One way: its speed and what it costs.

    ``rate`` is in tokens a second, ``texts`` in texts a second, ``cosine`` the smallest to torch fp32, ``size`` in
    bytes, ``lost`` in points of nDCG@10 (None without a collection).
    """

    way: str
    rate: float
    texts: float
    size: int
    cosine: float
    lost: float | None = None

    @property
    def good(self) -> bool:
        """Whether quality is no reason against it."""
        return self.cosine >= CLOSE if self.lost is None else self.lost <= LOSS


@dataclass(frozen=True)
class Bench:
    """All ways that were measured, plainest first, and why others were not."""

    name: str
    timings: tuple[Timing, ...]
    left_out: Mapping[str, str]
    machine: str

    @property
    def pick(self) -> Timing:
        """The fastest way that is good enough; a plainer one where that is about as fast."""
        good = [timing for timing in self.timings if timing.good] or list(self.timings[:1])
        best = max(timing.rate for timing in good)
        return next(timing for timing in good if timing.rate * SLACK >= best)

    def to_json(self) -> dict[str, Any]:
        """Return everything as plain values."""
        ways = [vars(timing) for timing in self.timings]
        return {"model": self.name, "machine": self.machine, "pick": self.pick.way, "ways": ways} | {
            "left_out": dict(self.left_out)
        }

    def table(self) -> Table:
        """Return the table to show."""
        first = self.timings[0]
        rows: list[list[Cell]] = [
            [
                timing.way.replace("-", " "),
                round(timing.texts),
                round(timing.rate),
                f"{timing.rate / first.rate:.2f}x",
                f"{timing.size / 1e6:.1f} MB",
                f"{timing.cosine:.4f}",
                None if timing.lost is None else signed(-timing.lost),
            ]
            for timing in self.timings
        ]
        columns = ["way", "texts/s", "tokens/s", "speed", "size", "cosine", MEASURE]
        notes = [
            f"{self.machine}; medians of {ROUNDS} rounds in turn, tokenising not counted.",
            "speed: against torch fp32; cosine: the smallest to torch fp32 over real texts.",
            *(f"{way}: {reason}" for way, reason in self.left_out.items()),
        ]
        if first.lost is None:
            columns, rows = columns[:-1], [row[:-1] for row in rows]
        else:
            notes.insert(2, f"{MEASURE}: points gained or lost on dev.")
        notes.append(f"Take {self.pick.way.replace('-', ' ')}.")
        at = self.timings.index(self.pick)
        return Table(f"Inference of {self.name}", columns, rows, notes, highlight=[at])


def bench(name: str, encoder: Encoder, ground: Ground | None = None) -> Bench:
    """Measure a model in every way that this machine has."""
    check_towers(encoder)
    texts = sample_texts(ground)
    passages = list(islice(cycle(texts[1]), TEXTS))
    with tempfile.TemporaryDirectory(prefix="stepwell-bench-") as place:
        ways, left_out = _open(encoder, texts, Path(place))
        tokens = encoder.tokenise(passages, "document")
        rates = _race({way: runner for way, (runner, _) in ways.items()}, encoder, tokens)
        yardstick = Yardstick(encoder, ground) if ground is not None else None
        before = yardstick.measure(ways["torch-fp32"][0]) if yardstick is not None else 0.0
        length = float((tokens.lengths + encoder.template.overhead[0]).mean())
        timings = []
        for way, (runner, size) in ways.items():
            lost = None
            if yardstick is not None:
                lost = 0.0 if way == "torch-fp32" else points_lost(before, yardstick.measure(runner))
            cosine = parity(encoder, runner.run, texts)[1]
            timings.append(Timing(way, rates[way], rates[way] / length, size, cosine, lost))
    here = machine()
    return Bench(name, tuple(timings), left_out, f"{here['processor']}, {counted(int(here['threads']), 'thread')}")


def _open(
    encoder: Encoder, texts: tuple[list[str], list[str]], folder: Path
) -> tuple[dict[str, tuple[Runner, int]], dict[str, str]]:
    """Return all ways that can be gone, opened, with the bytes that each needs; and why the others can't."""
    net, opened, left_out = encoder.inference.net, dict[str, tuple[Runner, int]](), dict[str, str]()
    weights = sum(parameter.nbytes for parameter in encoder.model.parameters())

    def attempt(way: str, make: Callable[[], tuple[Runner, int]]) -> None:
        reason = _reason(way, net)
        try:
            if reason is None:
                opened[way] = make()
        except Exception as error:  # an exporter or an engine that can't take this model: it raises what it likes
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
        if reason is not None:
            left_out[way] = reason

    def in_torch(way: str) -> tuple[Runner, int]:
        halved = way in ("torch-bf16-weights", "torch-bf16-flash")
        return open_way(net, way), weights // 2 if halved else weights

    def as_graph(kind: Kind) -> tuple[Runner, int]:
        source = source_of(encoder, batches_of(encoder, *texts))
        path = folder / kind.file
        if not path.is_file():
            write_graph(source, kind, folder)
        return Runner(kind.way, net, load_graph(path, kind, source)), size_of(path)

    for way in WAYS:
        if parts(way)[0] == "torch":
            attempt(way, partial(in_torch, way))
    for kind in (*KINDS, Kind("openvino", "bf16", OPENVINO.file)):
        attempt(kind.way, partial(as_graph, kind))
    return opened, left_out


def _reason(way: str, net: Net) -> str | None:
    if package := missing(way):
        return f"needs {package}, which is not installed: pip install 'stepwell[{extra_of(way)}]'"
    return unfit(way, net.device) or bf16_is_slow(net, way)


def _race(runners: Mapping[str, Runner], encoder: Encoder, tokens: Tokens) -> dict[str, float]:
    """Return the tokens a second of each way: medians of rounds in which all take their turn."""
    count = int((tokens.lengths + encoder.template.overhead[0]).sum())

    def seconds(runner: Runner, times: int = 1) -> float:
        start = time.perf_counter()
        for _ in range(times):
            encoder.encode_by(Opened(runner, token_budget()), tokens)
        return time.perf_counter() - start

    for runner in runners.values():
        seconds(runner)  # engines compile and allocate at first
    times = max(1, round(SECONDS / seconds(next(iter(runners.values())))))
    taken: dict[str, list[float]] = {way: [] for way in runners}
    with progress(ROUNDS * len(runners), "measuring") as bar:
        for _ in range(ROUNDS):
            for way, runner in runners.items():
                taken[way].append(seconds(runner, times))
                bar.advance()
    return {way: times * count / median(rounds) for way, rounds in taken.items()}
