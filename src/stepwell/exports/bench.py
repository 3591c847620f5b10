"""How fast a model runs on this machine in each way that it can run, what that costs in quality, and which to take."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from statistics import median
from typing import Any

from stepwell.display import Cell, Table, counted, progress
from stepwell.exports.graph import KINDS, OPENVINO_BF16, Kind, check_towers, graph_runner, size_of, source_of
from stepwell.exports.quality import MEASURE, DevSet, Yardstick, compare_on_texts, sample_texts, signed
from stepwell.models.encoder import Encoder
from stepwell.models.engines.backends import WAYS, Runner, extra_of, missing, parts, unfit
from stepwell.models.engines.inference import Opened
from stepwell.models.engines.machine import machine, token_budget
from stepwell.models.engines.race import Racer, bf16_is_slow, enter, rate
from stepwell.models.tokens import Tokens
from stepwell.systems.opening import open_system

ROUNDS = 5
TEXTS = 64
"""Passages that the speed is measured on."""
SECONDS = 0.5
"""About what torch fp32 takes in a round."""
HALVED = ("torch-bf16-weights", "torch-bf16-flash")
"""The ways that hold the weights in half the bytes."""
SLACK = 1.05
"""A way is only named over a plainer one when it is so many times faster."""
LOSS = 0.5
"""Points of nDCG@10 that a way may lose to be named."""
CLOSE = 0.99
"""Smallest cosine to torch fp32 that a way needs to be named, where no loss was measured."""


@dataclass(frozen=True)
class Timing:
    """One way: its speed and what it costs."""

    way: str
    rate: float  # tokens a second
    texts: float  # texts a second
    size: int  # bytes
    cosine: float  # the smallest to torch fp32
    lost: float | None = None  # points of nDCG@10, None without a collection

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
        facts = {"model": self.name, "machine": self.machine, "pick": self.pick.way}
        return facts | {"ways": [vars(timing) for timing in self.timings], "left_out": dict(self.left_out)}

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


def bench(system: str | Path, collection: str | Path | None = None) -> Bench:
    """Measure a finished run's student or any encoder in every way that this machine has.

    With a collection, texts and dev queries are its own, and the table says what each way loses on dev. A model with
    two towers, which are no single graph, is refused.
    """
    subject = open_system(str(system), "export")
    dev = DevSet.find(subject, collection)
    encoder = Encoder.open(subject.model)
    check_towers(encoder)
    texts = sample_texts(dev)
    tokens = encoder.tokenise(list(islice(cycle(texts[1]), TEXTS)), "document")
    count = int((tokens.lengths + encoder.template.overhead[0]).sum())
    weights = sum(parameter.nbytes for parameter in encoder.model.parameters())
    graphs = {kind.way: kind for kind in (*KINDS, OPENVINO_BF16)}
    with tempfile.TemporaryDirectory(prefix="stepwell-bench-") as place:
        racers, left_out = _enter_all(encoder, texts, graphs, Path(place))
        rates = _measure({way: racer.runner for way, racer in racers.items()}, encoder, tokens, count)
        reached: dict[str, float] = {}
        if dev is not None:
            yardstick = Yardstick(encoder, dev)
            reached = {way: yardstick.measure(racer.runner) for way, racer in racers.items()}
        timings = []
        for way, racer in racers.items():
            size = size_of(graphs[way], Path(place)) if way in graphs else weights // (2 if way in HALVED else 1)
            lost = 100 * (reached["torch-fp32"] - reached[way]) if reached else None
            timings.append(Timing(way, rates[way], rates[way] * TEXTS / count, size, racer.deviation.cosine, lost))
    here = machine()
    return Bench(
        subject.title, tuple(timings), left_out, f"{here['processor']}, {counted(int(here['threads']), 'thread')}"
    )


def _enter_all(
    encoder: Encoder, texts: tuple[list[str], list[str]], graphs: Mapping[str, Kind], folder: Path
) -> tuple[dict[str, Racer], dict[str, str]]:
    """Return all ways that can be taken, plainest first, and why the others can't; graphs are written to a folder."""
    net, racers, left_out = encoder.inference.net, dict[str, Racer](), dict[str, str]()
    source = source_of(encoder, texts)
    for way in (*(way for way in WAYS if parts(way)[0] == "torch"), *graphs):
        make = partial(graph_runner, encoder, graphs[way], source, folder) if way in graphs else None
        if package := missing(way):
            left_out[way] = f"needs {package}, which is not installed: pip install 'stepwell[{extra_of(way)}]'"
        elif reason := unfit(way, net.device) or bf16_is_slow(net, way):
            left_out[way] = reason
        elif isinstance(racer := enter(net, way, make, partial(compare_on_texts, encoder, texts)), str):
            left_out[way] = racer
        else:
            racers[way] = racer
    return racers, left_out


def _measure(runners: Mapping[str, Runner], encoder: Encoder, tokens: Tokens, count: int) -> dict[str, float]:
    """Return the tokens a second of each way: medians of rounds in which all take their turn."""

    def job(runner: Runner) -> None:
        encoder.encode_by(Opened(runner, token_budget()), tokens)

    times = max(1, round(SECONDS * rate(next(iter(runners.values())), job, count) / count))
    rates: dict[str, list[float]] = {way: [] for way in runners}
    with progress(ROUNDS * len(runners), "measuring") as bar:
        for _ in range(ROUNDS):
            for way, runner in runners.items():
                rates[way].append(rate(runner, job, count, times))
                bar.advance()
    return {way: median(measured) for way, measured in rates.items()}
