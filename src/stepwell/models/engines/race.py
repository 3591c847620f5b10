"""One race of ways to run a model: each is opened and compared with torch fp32, then they are timed in turns."""

import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import NamedTuple

import torch

from stepwell.models.engines import machine
from stepwell.models.engines.backends import Net, Runner, open_way, parts, unfit
from stepwell.models.engines.parity import Deviation, compare_on_samples, disparity

MARGIN = 1.1
"""How many times faster a rival has to be, in the median of the rounds."""

ROUNDS = 5
"""Rounds of a race, or fewer where most of them are won or lost: on a busy machine, chance alone should not decide."""


class Racer(NamedTuple):
    """A way that can be taken, opened, and how far it is from torch fp32."""

    runner: Runner
    deviation: Deviation


def enter(
    net: Net,
    way: str,
    make: Callable[[], Runner] | None = None,
    compare: Callable[[Runner], Deviation] = compare_on_samples,
) -> Racer | str:
    """Open a way and compare it with torch fp32; where it can't be had, return why."""
    try:
        if reason := unfit(way, net.device):
            return reason
        runner = open_way(net, way) if make is None else make()
        return Racer(runner, compare(runner))
    except Exception as error:  # an exporter or an engine that can't take this model raises what it likes
        return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def open_checked(net: Net, way: str) -> Runner | str:
    """Open a way that agrees with torch fp32; where it does not, or can't be had, return why."""
    racer = enter(net, way)
    if isinstance(racer, str):
        return racer
    return disparity(racer.runner, racer.deviation) or racer.runner


def bf16_is_slow(net: Net, way: str) -> str | None:
    """Return by how much a way of torch in bf16 is slower than fp32 here, or None when it is not."""
    if parts(way) != ("torch", "bf16") or net.device.type != "cpu" or (gain := machine.bf16_gain()) > 1:
        return None
    return f"its products are {1 / gain:,.1f} times slower here than in fp32"


def rate(runner: Runner, job: Callable[[Runner], object], tokens: int, times: int = 1) -> float:
    """Return the tokens a second of a job of so many, done once before: an engine makes ready for each new shape."""
    try:
        job(runner)
        start = time.perf_counter()
        for _ in range(times):
            job(runner)
    except torch.cuda.OutOfMemoryError:
        return 0.0
    return times * tokens / (time.perf_counter() - start)


def fastest(
    rate: Callable[[str, int], float], ways: Sequence[str], start: int, limits: tuple[int, int]
) -> tuple[tuple[str, int], dict[tuple[str, int], float]]:
    """Race ways, and then token budgets of the winner; who wins most rounds by :data:`MARGIN` goes on.

    The first way holds the place that the others want. Ways are compared at the budget ``start``, which is then
    doubled, or else halved, as long as that wins and stays within ``limits``. ``rate`` measures the tokens a second of
    a way and a budget. Returns the best way and budget, and the median rate of each that was tried.
    """
    holder = ways[0], start
    rates = {holder: [rate(*holder)]}

    def wins(rival: tuple[str, int]) -> bool:
        most, outcomes = ROUNDS // 2 + 1, [0, 0]  # rounds lost and won
        while max(outcomes) < most:
            own, other = rate(*holder), rate(*rival)
            rates[holder].append(own)
            rates.setdefault(rival, []).append(other)
            outcomes[other >= MARGIN * own] += 1
        return outcomes[1] == most

    for way in ways[1:]:
        if wins((way, start)):
            holder = way, start
    for factor in (2, 0.5):
        while limits[0] <= (tokens := int(holder[1] * factor)) <= limits[1] and wins((holder[0], tokens)):
            holder = holder[0], tokens
        if holder[1] != start:
            break
    return holder, {tried: median(measured) for tried, measured in rates.items()}
