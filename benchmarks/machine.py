"""What the benchmarks say of a machine: facts, how fast it multiplies matrices, the memory of a process."""

from __future__ import annotations

import os
import platform
import threading
import time
from contextlib import suppress
from functools import lru_cache
from importlib import metadata
from pathlib import Path

import psutil
import torch
from torch.nn import functional

from stepwell import distributed
from stepwell.models.engines.machine import bf16_gain
from stepwell.models.shape import config_of

PACKAGES = (
    "stepwell",
    "torch",
    "sentence-transformers",
    "transformers",
    "numpy",
    "openvino",
    "onnxruntime",
    "faiss-cpu",
)
INTERVAL = 0.01
"""Seconds between two looks at the memory."""


def facts() -> dict:
    """Return what a reader needs to judge the figures by; no paths."""
    versions = {}
    for name in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    device = distributed.state().device
    return {
        "processor": torch.cuda.get_device_name() if device.type == "cuda" else _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "load": round(psutil.getloadavg()[0], 2),  # of other work, when this begins
        "versions": versions,
    }


def _processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def wait() -> None:
    """Let a GPU finish what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


@lru_cache(maxsize=1)
def bf16_pays() -> bool:
    """Whether this machine multiplies bf16 matrices faster than fp32 ones; emulation is far slower."""
    if distributed.state().device.type == "cpu":
        return bf16_gain() > 1.3
    shape = (384, 1536, 16_384)
    return _products(*shape, torch.bfloat16, 0.05) > 1.3 * _products(*shape, torch.float32, 0.05)


def matmul_peaks(place: str, seconds: float = 0.5) -> dict[str, float]:
    """Return operations a second of a model's matrix products, by number type; only those that pay.

    The shapes are those of a transformer layer (four of width x width, two of width x inner) over several
    numbers of tokens, of which the fastest counts: no forward pass can be faster on this machine.
    """
    config = config_of(place)
    width = int(config.hidden_size)
    inner = int(getattr(config, "intermediate_size", None) or 4 * width)
    kinds = {"fp32": torch.float32} | ({"bf16": torch.bfloat16} if bf16_pays() else {})
    sizes = (512, 1_024, 4_096, 16_384) if distributed.state().device.type == "cpu" else (4_096, 16_384, 65_536)
    return {
        name: max(_products(width, inner, tokens, kind, seconds / len(sizes)) for tokens in sizes)
        for name, kind in kinds.items()
    }


@torch.inference_mode()
def _products(width: int, inner: int, tokens: int, kind: torch.dtype, seconds: float) -> float:
    device = distributed.state().device
    shapes = [(width, width)] * 4 + [(inner, width), (width, inner)]
    weights = [torch.randn(shape, device=device).to(kind) for shape in shapes]
    inputs = {size: torch.randn(tokens, size, device=device).to(kind) for size in (width, inner)}
    best, began = float("inf"), time.perf_counter()
    while best == float("inf") or time.perf_counter() - began < seconds:
        start = time.perf_counter()
        for weight in weights:
            functional.linear(inputs[weight.shape[1]], weight)
        wait()
        best = min(best, time.perf_counter() - start)
    return 2.0 * tokens * sum(a * b for a, b in shapes) / best


class Memory:
    """Follows the memory of this process from a thread: ``with Memory() as memory: ...; memory.to_json()``.

    ``peak`` counts all resident pages, ``own`` leaves out those that are mapped from files (the system can
    take them back at any time), ``start`` is what was resident before the work began. In bytes.
    """

    def __init__(self) -> None:
        self._process, self._stop = psutil.Process(), threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self.start = self.peak = self.own = 0

    def __enter__(self) -> Memory:
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        self._look()
        self.start = self.peak
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._look()

    def _follow(self) -> None:
        while not self._stop.wait(INTERVAL):
            self._look()

    def _look(self) -> None:
        now = self._process.memory_info()
        self.peak = max(self.peak, now.rss)
        self.own = max(self.own, now.rss - getattr(now, "shared", 0))

    def to_json(self) -> dict[str, int]:
        told = {"start": self.start, "peak": self.peak, "own": self.own}
        if torch.cuda.is_available():
            told["device"] = torch.cuda.max_memory_allocated()
        return told
