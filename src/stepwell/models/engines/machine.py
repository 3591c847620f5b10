"""The machine: the number type that is fastest on it, how many tokens a batch has, its name."""

import contextlib
import ctypes
import os
import platform
import time
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path

import torch
from torch import nn

from stepwell import distributed
from stepwell.errors import RunError, StepwellError

for _cache in ("LRU_CACHE_CAPACITY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY"):  # torch's, and oneDNN's behind it
    os.environ.setdefault(_cache, "512")  # not 1,024 shapes of bf16 products: each holds a buffer of megabytes

BATCH_COST = 64
"""What a micro-batch of a training costs besides its tokens, in tokens: about what it is on a CPU with two layers."""

GAIN_ROUNDS = 40
"""Rounds that fp32 and bf16 are timed for; each takes about a millisecond."""

TRIM = 0.5
"""Seconds of a long job between two times that freed memory is given back."""


def wish(variable: str, known: str, fits: Callable[[str], object]) -> str:
    """Return what the user's environment wishes, ``auto`` where that is nothing; what does not fit is refused."""
    value = os.environ.get(variable) or "auto"
    if value == "auto" or fits(value):
        return value
    raise StepwellError(f"{variable} is {value!r}, which is none of its values: set it to {known}, or unset it.")


def wished_number() -> str:
    """Return the number type that the user wishes: auto, fp32 or bf16."""
    return wish("STEPWELL_PRECISION", "auto, fp32 or bf16", lambda value: value in ("fp32", "bf16"))


@lru_cache(maxsize=1)
def precision() -> torch.dtype:
    """Return the number type that matrices multiply fastest in on this machine: bf16 or fp32.

    Set ``STEPWELL_PRECISION`` to ``bf16`` or ``fp32`` to choose it yourself. The probe asks for a factor of
    1.3, far from either side of what real machines show (0.01 without hardware support, 2 with it).
    """
    if (number := wished_number()) != "auto":
        return torch.bfloat16 if number == "bf16" else torch.float32
    device = distributed.state().device
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    if device.type != "cpu":
        return torch.float32
    return torch.bfloat16 if bf16_gain() > 1.3 else torch.float32


@lru_cache(maxsize=1)
def bf16_gain() -> float:
    """Return how many times faster this CPU multiplies matrices of a small model in bf16 than in fp32.

    The two are timed in turn and the fastest round of each counts, so that other work on the machine slows down both.
    """
    best = {torch.float32: float("inf"), torch.bfloat16: float("inf")}
    for number in range(GAIN_ROUNDS):
        for dtype in best:
            best[dtype] = min(best[dtype], _matmul_seconds(dtype))
        if number >= 3 and best[torch.float32] < 0.2 * best[torch.bfloat16]:  # emulated: a few rounds do
            break
    return best[torch.float32] / best[torch.bfloat16]


@torch.inference_mode()
def _matmul_seconds(dtype: torch.dtype) -> float:
    inputs, weights = torch.ones(256, 384, dtype=dtype), torch.ones(1536, 384, dtype=dtype)
    start = time.perf_counter()
    nn.functional.linear(inputs, weights)
    return time.perf_counter() - start


def processor(device: torch.device) -> str:
    """Return what the processor, or the graphics card, calls itself."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def machine() -> dict[str, str]:
    """Return what the last bits of results depend on besides versions: processor, number type, how many take part."""
    return {
        "processor": processor(distributed.state().device),
        "precision": "bf16" if precision() is torch.bfloat16 else "fp32",
        "threads": str(torch.get_num_threads()),
        "processes": str(distributed.world_size()),
    }


def autocast() -> contextlib.AbstractContextManager[object]:
    """Return the context in which models run."""
    if precision() is torch.float32:
        return contextlib.nullcontext()
    return torch.autocast(distributed.state().device.type, dtype=torch.bfloat16)


def token_budget() -> int:
    """Return the padded tokens of one forward: small on a CPU, where caches count, large on a GPU."""
    return 32_768 if distributed.state().device.type == "cuda" else 1_024


def micro_batch() -> int:
    """Return the padded tokens of one forward with a gradient.

    More than in inference: each backward writes a gradient of all weights, and the graph of all batches is kept anyhow.
    """
    return 4 * token_budget()


@contextlib.contextmanager
def enough_memory(what: str, remedy: str) -> Iterator[None]:
    """Do something in here; where the memory is too small for it, say what takes less."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        text = " ".join(str(error).split())
        if isinstance(error, RuntimeError) and not isinstance(error, torch.OutOfMemoryError) and "alloc" not in text:
            raise
        raise RunError(f"{what} takes more memory than there is ({text[:160]}). {remedy}") from error


def trim(every: float) -> None:
    """Give freed memory back where the C library can, unless that was done less than ``every`` seconds ago.

    Batches of ever other shapes leave holes that would pile up. It takes a few milliseconds.
    """
    global _trimmed
    if time.monotonic() - _trimmed < every:
        return
    with contextlib.suppress(AttributeError, OSError, TypeError):  # not glibc
        ctypes.CDLL(None).malloc_trim(0)
    _trimmed = time.monotonic()


_trimmed = time.monotonic()


def few_shapes() -> bool:
    """Return whether batches should have few shapes even where few texts are run: in bf16 on a CPU.

    There each new shape of a product costs milliseconds, and memory as long as it is remembered.
    """
    return precision() is torch.bfloat16 and distributed.state().device.type == "cpu"


def searches_exactly() -> bool:
    """Return whether a run encodes for search once more, in fp32: on a CPU that embeds in bf16.

    Then search ranks as sentence-transformers does. A GPU has so much more speed in bf16 that it would cost too much.
    """
    return few_shapes()
