"""Which way of inference is fastest on this machine: found by a short probe, kept, and the user's to overrule.

``STEPWELL_BACKEND`` names an engine (torch, openvino, onnx) or one way (``torch-bf16-weights``),
``STEPWELL_PRECISION`` a number type (fp32, bf16), ``STEPWELL_TOKEN_BUDGET`` the padded tokens of a batch. What is not
named is probed, and the choice is kept in the cache: a second run on this machine takes the very same.
"""

import hashlib
import importlib.util
import json
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch

from stepwell import display, distributed, files
from stepwell.errors import StepwellError
from stepwell.models.engines import machine
from stepwell.models.engines.backends import WAYS, Net, Runner, missing, open_way, parts
from stepwell.models.engines.graphs import PACKAGES, version_of
from stepwell.models.engines.race import bf16_is_slow, fastest, open_checked, rate
from stepwell.models.opening import transformer_of
from stepwell.models.tokens import Features

FORMAT = 3
"""Of a kept choice; a change makes every machine probe again."""

PATIENCE = 0.5
"""Longest time, in seconds, that one forward of the probe should take; larger batches are not tried."""

BUDGETS = {"cpu": (512, 8_192), "cuda": (16_384, 131_072)}
"""Smallest and largest token budget that is tried."""


@dataclass(frozen=True)
class Choice:
    """How to run a kind of model on this machine."""

    way: str  # of WAYS
    token_budget: int  # padded tokens of a batch
    tokens_per_second: float | None = None  # None when nothing had to be probed
    rejected: Mapping[str, str] = field(default_factory=dict)  # ways, or all of an engine, and why they were not chosen

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
        others = "; ".join(f"{', '.join(ways)}: {reason}" for reason, ways in reasons.items())
        chosen = f"{kind} with {_plain(self.way)}, {self.token_budget:,} tokens a batch{speed}"
        return f"{chosen} ({others})" if others else chosen


def _plain(way: str) -> str:
    return way.replace("-", " ")


def wished(device: torch.device) -> tuple[list[str], int | None]:
    """Return the ways that the user's environment leaves to choose from, plainest first, and the token budget."""
    known = f"auto, torch, openvino, onnx or a way ({', '.join(WAYS)})"
    wish = machine.wish("STEPWELL_BACKEND", known, {"torch", "openvino", "onnx", *WAYS}.__contains__)
    number = machine.wished_number()
    known = "auto or a number of tokens, such as 1024"
    size = machine.wish("STEPWELL_TOKEN_BUDGET", known, lambda value: value.isdecimal() and int(value))
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


def choose(net: Net, kind: str) -> Choice:
    """Return how to run a model for a ``kind`` of work (embedding, scoring) on this machine: as kept, or by a probe.

    Processes of one machine probe one after the other, so that the first one's choice is everyone's.
    """
    ways, budget = wished(net.device)
    if all(map(missing, ways)):
        open_way(net, ways[0])  # says what to install
    if len(ways) == 1 and budget:
        choice = Choice(ways[0], budget)
    else:
        facts = [FORMAT, _machine(net.device), _architecture(net), kind, ways, budget]
        name = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:24]

        def make(path: Path) -> None:
            path.write_text(json.dumps(asdict(probed(net, ways, budget)) | {"of": facts}, indent=1), encoding="utf-8")

        path = files.cache() / "choices" / f"{name}.json"
        kept = files.read_or_make(path, lambda path: _read(path, ways), make)
        if kept is None:
            raise OSError(f"the choice in {path} can't be read back: the disk may be failing")
        choice = kept
    if distributed.is_main():
        _say_once(choice.sentence(kind))
    return choice


@cache
def _say_once(line: str) -> None:
    display.say(line)


def _read(path: Path, ways: Sequence[str]) -> Choice | None:
    """Return a kept choice; None when it is absent, damaged, or none of these ways."""
    try:
        kept = files.read_json(path)
        choice = Choice(kept["way"], int(kept["token_budget"]), kept["tokens_per_second"], dict(kept["rejected"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return choice if choice.way in (*ways, "torch-fp32") and choice.token_budget > 0 else None


def _machine(device: torch.device) -> list[Any]:
    name = machine.processor(device)
    packages = sorted({"torch", "transformers", *(package for group in PACKAGES.values() for package in group)})
    versions = {package: version_of(package) for package in packages if importlib.util.find_spec(package)}
    return [name, torch.backends.cpu.get_cpu_capability(), device.type, torch.get_num_threads(), versions]


def _architecture(net: Net) -> list[Any]:
    config: Any = transformer_of(net.model).auto_model.config
    sizes = [getattr(config, name, None) for name in ("num_hidden_layers", "hidden_size", "num_attention_heads")]
    return [config.model_type, *sizes, sum(parameter.numel() for parameter in net.model.parameters())]


def probed(net: Net, ways: Sequence[str], budget: int | None) -> Choice:
    """Return the fastest of some ways that agree with torch fp32, and its best token budget unless that is given."""
    size = budget or machine.token_budget()
    if bf16_is_slow(net, ways[0]):  # fp32 would come first
        return Choice(ways[0], size)  # the user wants it, and a race would take minutes
    runners, rejected = dict[str, Runner](), dict[str, str]()
    for way in ways:
        if missing(way):
            rejected[parts(way)[0]] = "not installed"
        elif slow := bf16_is_slow(net, way):
            rejected["torch-bf16"] = slow
        elif isinstance(opened := open_checked(net, way), Runner):
            runners[way] = opened
        else:
            rejected[way] = opened
    if not runners:  # all that the user left failed
        return Choice("torch-fp32", size, None, rejected)
    affordable = int(speed(open_way(net, "torch-fp32"), 256) * PATIENCE)
    trial = size if budget else min(size, max(affordable, 64))
    least, most = BUDGETS.get(net.device.type, BUDGETS["cpu"])
    limits = (least, min(most, affordable)) if budget is None and trial == size else (trial, trial)
    (best, found), rates = fastest(lambda way, tokens: speed(runners[way], tokens), list(runners), trial, limits)
    rejected |= {way: f"{rates[way, trial]:,.0f} tokens/s" for way in runners if way != best}
    return Choice(best, found if trial == size else size, rates[best, found], rejected)


def speed(runner: Runner, tokens: int) -> float:
    """Return the tokens a second of batches of about so many: the net's longest samples, again and again."""
    features = runner.net.samples[-1]
    rows, width = features["attention_mask"].shape
    chosen = torch.arange(max(1, tokens // width)) % rows
    batch: Features = {name: tensor[chosen] for name, tensor in features.items()}
    batches = [batch] * runner.at_once
    real = len(batches) * int(batch["attention_mask"].sum())  # padding not counted
    return rate(runner, lambda runner: deque(runner.each(batches), maxlen=0), real)
