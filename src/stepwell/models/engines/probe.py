"""Which way of inference is fastest on this machine: found by a short probe, kept, and the user's to overrule.

``STEPWELL_BACKEND`` names an engine (torch, openvino, onnx) or one way (``torch-bf16-weights``),
``STEPWELL_PRECISION`` a number type (fp32, bf16), ``STEPWELL_TOKEN_BUDGET`` the padded tokens of a batch. What is not
named is probed, and the choice is kept in the cache: a second run on this machine takes the very same.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

import torch
from filelock import FileLock

from stepwell import display, distributed
from stepwell.errors import StepwellError
from stepwell.files import cache as default_cache
from stepwell.models.build import transformer_of
from stepwell.models.engines import machine as engine
from stepwell.models.engines.backends import WAYS, Net, Runner, disparity, missing, open_way, parts, unfit
from stepwell.models.engines.graphs import PACKAGES, version_of
from stepwell.models.tokens import Features

FORMAT = 3
"""Of a kept choice; a change makes every machine probe again."""

MARGIN = 1.1
"""How many times faster a rival has to be, in the median of the rounds."""

ROUNDS = 5
"""Rounds of a race, or fewer where most of them are won or lost: on a busy machine, chance alone should not decide."""

PATIENCE = 0.5
"""Longest time, in seconds, that one forward of the probe should take; larger batches are not tried."""

BUDGETS = {"cpu": (512, 8_192), "cuda": (16_384, 131_072)}
"""Smallest and largest token budget that is tried."""


@dataclass(frozen=True)
class Choice:
    """How to run a kind of model on this machine.

    Parameters
    ----------
    way
        One of :data:`~stepwell.models.engines.backends.WAYS`.
    token_budget
        Padded tokens of a batch.
    tokens_per_second
        As the probe measured it; None when nothing had to be probed.
    rejected
        Ways, or all ways of an engine, that were not chosen, and why.
    """

    way: str
    token_budget: int
    tokens_per_second: float | None = None
    rejected: Mapping[str, str] = field(default_factory=dict)

    def sentence(self, kind: str) -> str:
        """Return the choice in one line, ``kind`` being what is done (embedding, scoring).

        Examples
        --------
        >>> Choice("torch-fp32", 1024, 5104.4, {"openvino": "not installed"}).sentence("embedding")
        'embedding with torch fp32, 1,024 tokens a batch: 5,104 tokens/s (openvino: not installed)'
        """
        speed = "" if self.tokens_per_second is None else f": {self.tokens_per_second:,.0f} tokens/s"
        reasons: dict[str, list[str]] = {}
        for way, reason in self.rejected.items():
            reasons.setdefault(reason, []).append(_plain(way))
        told = "; ".join(f"{', '.join(ways)}: {reason}" for reason, ways in reasons.items())
        return f"{kind} with {_plain(self.way)}, {self.token_budget:,} tokens a batch{speed}" + (told and f" ({told})")


def _plain(way: str) -> str:
    return way.replace("-", " ")


def wished(device: torch.device) -> tuple[list[str], int | None]:
    """Return the ways that the user's environment leaves to choose from, plainest first, and the token budget.

    Raises
    ------
    StepwellError
        When a variable has an unknown value, or a named way can't be taken here.
    """
    wish = os.environ.get("STEPWELL_BACKEND") or "auto"
    number = os.environ.get("STEPWELL_PRECISION") or "auto"
    size = os.environ.get("STEPWELL_TOKEN_BUDGET") or "auto"
    if wish not in ("auto", "torch", "openvino", "onnx", *WAYS):
        raise _unknown("STEPWELL_BACKEND", wish, f"auto, torch, openvino, onnx or a way ({', '.join(WAYS)})")
    if number not in ("auto", "fp32", "bf16"):
        raise _unknown("STEPWELL_PRECISION", number, "auto, fp32 or bf16")
    if size != "auto" and not (size.isdecimal() and int(size)):
        raise _unknown("STEPWELL_TOKEN_BUDGET", size, "auto or a number of tokens, such as 1024")
    if wish in WAYS:
        ways = [wish]
    else:
        ways = [way for way in WAYS if "int8" not in way and wish in ("auto", parts(way)[0])]
        ways = [way for way in ways if device.type == "cuda" or not way.endswith("flash")]
        ways = [way for way in ways if device.type == "cpu" or wish != "auto" or parts(way)[0] == "torch"]
    ways = [way for way in ways if number in ("auto", parts(way)[1])]
    if not ways:
        raise StepwellError(
            f"STEPWELL_BACKEND={wish} and STEPWELL_PRECISION={number} leave no way to run a model: unset one of them."
        )
    return ways, None if size == "auto" else int(size)


def _unknown(variable: str, value: str, known: str) -> StepwellError:
    return StepwellError(f"{variable} is {value!r}, which is none of its values: set it to {known}, or unset it.")


def choose(net: Net, kind: str) -> Choice:
    """Return how to run a model on this machine: the kept choice, or a probe's.

    Processes of one machine probe one after the other, so that the first one's choice is everyone's.

    Parameters
    ----------
    net
        The model.
    kind
        What is done with it: ``embedding`` or ``scoring``.

    Raises
    ------
    StepwellError
        When the user's environment asks for what is unknown, or not to be had here.
    """
    ways, budget = wished(net.device)
    if all(map(missing, ways)):
        open_way(net, ways[0])  # says what to install
    if len(ways) == 1 and budget:
        choice = Choice(ways[0], budget)
    else:
        facts = json.dumps([FORMAT, _machine(net.device), _architecture(net), kind, ways, budget])
        path = default_cache() / "choices" / f"{hashlib.sha256(facts.encode()).hexdigest()[:24]}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):
            kept = _read(path, ways)
            choice = kept or _probe(net, ways, budget)
            if kept is None:
                draft = path.with_suffix(f".{os.getpid()}")
                draft.write_text(json.dumps(asdict(choice) | {"of": json.loads(facts)}, indent=1), encoding="utf-8")
                draft.replace(path)
    if distributed.is_main():
        _say_once(choice.sentence(kind))
    return choice


@cache
def _say_once(line: str) -> None:
    display.say(line)


def _read(path: Path, ways: Sequence[str]) -> Choice | None:
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        choice = Choice(kept["way"], int(kept["token_budget"]), kept["tokens_per_second"], dict(kept["rejected"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return choice if choice.way in (*ways, "torch-fp32") and choice.token_budget > 0 else None


def _machine(device: torch.device) -> list[Any]:
    name = engine.processor(device)
    packages = sorted({"torch", "transformers", *(package for group in PACKAGES.values() for package in group)})
    versions = {package: version_of(package) for package in packages if importlib.util.find_spec(package)}
    return [name, torch.backends.cpu.get_cpu_capability(), device.type, torch.get_num_threads(), versions]


def _architecture(net: Net) -> list[Any]:
    config: Any = transformer_of(net.model).auto_model.config
    sizes = [getattr(config, name, None) for name in ("num_hidden_layers", "hidden_size", "num_attention_heads")]
    return [config.model_type, *sizes, sum(parameter.numel() for parameter in net.model.parameters())]


def _probe(net: Net, ways: Sequence[str], budget: int | None) -> Choice:
    size = budget or engine.token_budget()
    slow = bf16_is_slow(net) if ("torch", "bf16") in map(parts, ways) else None
    if slow and "torch-fp32" not in ways and parts(ways[0]) == ("torch", "bf16"):
        return Choice(ways[0], size)  # the user wants it, and a race would take minutes
    runners, rejected = _open_all(net, ways, slow)
    if not runners:  # all that the user left failed
        return Choice("torch-fp32", size, None, rejected)

    def rate(way: str, tokens: int) -> float:
        return _rate(runners[way], tokens)

    affordable = int(_rate(open_way(net, "torch-fp32"), 256) * PATIENCE)
    trial = size if budget else min(size, max(affordable, 64))
    least, most = BUDGETS.get(net.device.type, BUDGETS["cpu"])
    limits = (least, min(most, affordable)) if budget is None and trial == size else (trial, trial)
    (best, found), rates = fastest(rate, list(runners), trial, limits)
    rejected |= {way: f"{rates[way, trial]:,.0f} tokens/s" for way in runners if way != best}
    return Choice(best, found if trial == size else size, rates[best, found], rejected)


def bf16_is_slow(net: Net) -> str | None:
    """Return by how much torch's bf16 products are slower than fp32 here, or None when they are not."""
    if net.device.type != "cpu" or (gain := engine.bf16_gain()) > 1:
        return None
    return f"its products are {1 / gain:,.1f} times slower here than in fp32"


def _open_all(net: Net, ways: Sequence[str], slow: str | None) -> tuple[dict[str, Runner], dict[str, str]]:
    """Return the ways that can be taken, opened, and why the others can't."""
    runners: dict[str, Runner] = {}
    rejected: dict[str, str] = {}
    for way in ways:
        if missing(way):
            rejected[parts(way)[0]] = "not installed"
        elif slow and parts(way) == ("torch", "bf16"):
            rejected["torch-bf16"] = slow
        elif isinstance(opened := _try(net, way), Runner):
            runners[way] = opened
        else:
            rejected[way] = opened
    return runners, rejected


def _try(net: Net, way: str) -> Runner | str:
    """Open a way and compare it with torch fp32: the runner, or what speaks against it."""
    try:
        reason = unfit(way, net.device)
        if reason is None:
            runner = open_way(net, way)
            reason = disparity(runner)
    except Exception as error:  # an exporter or an engine that can't take this model: it raises what it likes
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
    return reason or runner


def fastest(
    rate: Callable[[str, int], float], ways: Sequence[str], start: int, limits: tuple[int, int]
) -> tuple[tuple[str, int], dict[tuple[str, int], float]]:
    """Race ways, and then token budgets of the winner; who wins most rounds by :data:`MARGIN` goes on.

    Parameters
    ----------
    rate
        Measures the tokens a second of a way and a budget.
    ways
        The first one holds the place that the others want.
    start
        The budget that ways are compared at; it is doubled, or else halved, as long as that wins.
    limits
        The smallest and the largest budget to try.

    Returns
    -------
    tuple
        The best way and budget, and the median rate of each that was tried: all ways at ``start``, and some budgets.
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


def _rate(runner: Runner, tokens: int) -> float:
    """Return tokens a second (padding not counted) of batches of about so many."""
    batch = _tiled(runner.net.samples[-1], tokens)
    batches = [batch] * runner.at_once
    try:
        for _ in range(2):  # an engine makes ready for a shape when it first meets it
            start = time.perf_counter()
            for _ in runner.each(batches):
                pass
    except torch.cuda.OutOfMemoryError:
        return 0.0
    return len(batches) * int(batch["attention_mask"].sum()) / (time.perf_counter() - start)


def _tiled(features: Features, tokens: int) -> Features:
    """Repeat the texts of a batch until it has about so many padded tokens."""
    rows, width = features["attention_mask"].shape
    chosen = torch.arange(max(1, tokens // width)) % rows
    return {name: tensor[chosen] for name, tensor in features.items()}
