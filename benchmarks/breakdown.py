"""Where the time of an embedding job and of a rung goes: python benchmarks/breakdown.py --collection DIR [--out FILE].

Both run in torch, in the number type that this machine multiplies fastest, under torch's profiler. The time of every
operation is its own, without what it calls; what is left of the clock is Python, tokenising and waiting.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections import defaultdict
from functools import partial
from pathlib import Path

import machine
import numpy as np
from rung import SOFT, Ours
from rung_task import make_task
from samples import EVALUATION, part
from side_by_side import count_tokens, finish, parser, publish
from torch.profiler import ProfilerActivity, profile

from stepwell.ladder.prices import BACKWARD
from stepwell.models.encoder import Encoder
from stepwell.models.engines import machine as engine
from stepwell.models.engines.backends import open_way
from stepwell.models.engines.inference import Opened
from stepwell.models.shape import operations_a_token
from stepwell.recipe import Optimiser

KINDS = {
    "matrix products": ("mm", "addmm", "linear", "mkldnn_linear"),
    "attention": ("scaled_dot_product", "bmm", "baddbmm", "softmax"),
    "activation": ("gelu",),
    "norms": ("layer_norm", "native_layer_norm", "linalg_vector_norm"),
    "words": ("embedding", "index", "scatter", "gather"),
    "optimiser": ("fused_adam", "foreach"),
    "copies, sums, zeros": (
        "copy",
        "to_copy",
        "cat",
        "add",
        "sum",
        "fill",
        "zero",
        "mul",
        "where",
        "masked",
        "sub",
        "div",
    ),
}
"""Kinds of work, and what the names of their operations begin with, behind the library's and underscores."""

REST = "other operations"
OUTSIDE = "outside of torch"


def kind_of(operation: str) -> str:
    """Return the kind of an operation.

    >>> kind_of("aten::_scaled_dot_product_flash_attention_for_cpu"), kind_of("aten::addmm"), kind_of("aten::add_")
    ('attention', 'matrix products', 'copies, sums, zeros')
    """
    name = operation.rpartition("::")[2].strip("_")
    fits = {start: kind for kind, starts in KINDS.items() for start in starts if name.startswith(start)}
    return fits[max(fits, key=len)] if fits else REST


def shares(do) -> tuple[dict[str, float], float]:
    """Run ``do`` under the profiler; return the share of each kind of work in the time, and that in seconds."""
    with profile(activities=[ProfilerActivity.CPU]) as told:
        start = time.perf_counter()
        do()
        seconds = time.perf_counter() - start
    taken: dict[str, float] = defaultdict(float)
    for event in told.key_averages():
        if event.key.startswith(("aten::", "mkldnn::")):
            taken[kind_of(event.key)] += event.self_cpu_time_total / 1e6
    taken[OUTSIDE] = max(0.0, seconds - sum(taken.values()))
    return {kind: part / seconds for kind, part in taken.items()}, seconds


def main(argv: list[str]) -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--texts", type=int, default=300)
    arguments.add_argument("--queries", type=int, default=64)
    arguments.add_argument("--layers", type=int, default=2, help="Layers of the rung's student.")
    options = arguments.parse_args(argv)
    number = "bf16" if machine.bf16_pays() else "fp32"
    with tempfile.TemporaryDirectory() as place:
        collection, _ = part(options.collection, Path(place) / "part", EVALUATION, options.texts, options.texts // 4)
        task = make_task(
            options.collection, options.model, options.model, Path(place), options.queries, 8, options.layers, 144, 176
        )
        encoder = Encoder.open(options.model)
        texts = collection.passage_texts()
        way = open_way(encoder.inference.net, "torch-bf16-weights" if number == "bf16" else "torch-fp32")
        opened = Opened(way, 2 * engine.token_budget())

        def embed() -> None:
            encoder.encode_by(opened, encoder.tokenise(texts, "document"))

        rung = Ours(task, Optimiser(epochs=1, batch=16), SOFT, scoring=False)
        rung.before()
        jobs, rows = {}, {}
        embed()  # what only the first call costs
        tokens = count_tokens(encoder, texts), rung(None)["tokens"]
        for name, do, operations in (
            ("embed", embed, tokens[0] * operations_a_token(options.model, None)),
            ("rung", partial(rung, None), tokens[1] * BACKWARD * operations_a_token(task.student, None)),
        ):
            rounds, fractions = [], []
            for _ in range(options.rounds):  # the speed of a machine changes: its peak is that of the same moment
                before = machine.matmul_peaks(task.student)[number]
                of, seconds = shares(do)
                peak = (before + machine.matmul_peaks(task.student)[number]) / 2
                rounds.append(of)
                fractions.append((operations / seconds / peak, operations / seconds / peak / of["matrix products"]))
            jobs[name] = {
                kind: float(np.median([of.get(kind, 0.0) for of in rounds])) for kind in [*KINDS, REST, OUTSIDE]
            }
            rows[name] = [f"{fraction:.0%}" for fraction in np.median(fractions, axis=0)]
    lines = [[kind, *(f"{job[kind]:.0%}" for job in jobs.values())] for kind in [*KINDS, REST, OUTSIDE]]
    lines.append(["share of the matmul peak", *(row[0] for row in rows.values())])
    lines.append(["the same, of the products' own time", *(row[1] for row in rows.values())])
    notes = (
        f"Torch in {number}: {options.texts:,} passages embedded by all layers, and a rung of {options.queries:,} "
        f"queries with 8 candidates for a student of {options.layers} layers; medians of {options.rounds} rounds.",
    )
    columns = ["share of the time", "embed", "rung"]
    publish(finish("breakdown", "Where the time goes", columns, lines, notes) | {"shares": jobs}, options.out)


if __name__ == "__main__":
    main(sys.argv[1:])
