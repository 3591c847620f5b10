"""What a unit of work costs as work grows: python benchmarks/growth.py --collection DIR [--passages N] [--out FILE].

Tokenise, encode, search, mine and one epoch of a rung, over collections of 1, 4 and 16 times as many passages
(mixtures of the given ones), and with 1, 4 and 16 times as many candidates a query. Each size runs in a
process of its own. A cost that grows with the work has one time a unit, at every size; memory should not grow.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import machine
from samples import TRAINING, enlarged, part
from side_by_side import apart, embed, finish, parser, publish, timed

from stepwell.collection import Collection, open_collection
from stepwell.display import say
from stepwell.distil.candidates import Draw
from stepwell.distil.negatives import mine
from stepwell.distil.objectives import StudentObjective, Terms
from stepwell.distil.training import train
from stepwell.models.build import build_student
from stepwell.models.encoder import Encoder
from stepwell.models.token_store import side_tokens
from stepwell.recipe import Mining, Optimiser
from stepwell.retrieval.search import retrieve
from stepwell.retrieval.vectors import Vectors, write_vectors

PASSAGES, CANDIDATES = (1, 4, 16), (1, 4, 16)
UNITS = {
    "tokenise": "passage",
    "encode": "passage",
    "search": "query and passage",
    "mine": "query",
    "rung": "candidate",
}
"""The stages, and what their time should be proportional to."""
BY_CANDIDATES = ("mine", "rung")
DEPTH = 100


def stages(
    encoder: Encoder, collection: Collection, split: str, k: int, folder: Path
) -> Iterator[tuple[str, int, Callable[[object], object]]]:
    """Yield (stage, units of work, what does it) in order; each finds what the ones before it left."""
    qrels = collection.qrels(split)
    rows = qrels.query_rows
    kept = {}

    def tokenise(_: object) -> None:
        kept["texts"] = side_tokens(collection, encoder, "query"), side_tokens(collection, encoder, "document")

    def search(_: object) -> None:
        kept["run"] = retrieve(Vectors.open(folder), rows, DEPTH)

    def choose(_: object) -> None:
        kept["candidates"], _ = mine(kept["run"], qrels, collection, Mining(last=DEPTH), k, seed=0)

    def rung(_: object) -> None:
        candidates, vectors = kept["candidates"], Vectors.open(folder)
        scores = vectors.score(candidates.queries, candidates.passages)
        terms = Terms(alpha=0.1, beta=0.9, gamma=1.0, over="candidates")
        objective = StudentObjective(
            encoder, *kept["texts"], candidates, qrels, terms, Draw(k, 0), teacher_scores=scores, start=vectors
        )
        train(objective, Optimiser(epochs=1, batch=16), folder, 0)

    yield "tokenise", collection.n_passages, tokenise
    yield "encode", collection.n_passages, lambda _: write_vectors(encoder, collection, rows, folder)
    yield "search", collection.n_passages * len(rows), search
    yield "mine", len(rows), choose
    yield "rung", len(rows) * k, rung


def measure(setting: dict, note: Path) -> None:
    """Run all stages at one size and write, for each: units, seconds, memory."""
    collection = open_collection(setting["collection"], Path(setting["cache"]))
    encoder = Encoder.open(setting["student"])
    embed(encoder, ["a text"])  # what only the first call costs
    told = {}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["STEPWELL_CACHE"] = folder  # this process has tokens of its own
        for stage, units, do in stages(encoder, collection, setting["split"], setting["k"], Path(folder)):
            with machine.Memory() as memory:
                seconds, _ = timed(do, None)
            told[stage] = {"units": units, "seconds": seconds, **memory.to_json()}
    note.write_text(json.dumps(told))


def rows_of(runs: dict[tuple[int, int], list[dict]]) -> Iterator[list]:
    """Yield the lines of the table; ``runs`` holds, by (passages, candidates), what each round measured."""

    def unit(size: tuple[int, int], stage: str) -> list[float]:
        return [told[stage]["seconds"] / told[stage]["units"] for told in runs[size]]

    def own(size: tuple[int, int], stage: str) -> str:
        return f"{max(told[stage]['own'] for told in runs[size]) / 1e6:,.0f}"

    grown = [
        ("passages", [(n, 1) for n in PASSAGES], tuple(UNITS)),
        ("candidates", [(1, n) for n in CANDIDATES], BY_CANDIDATES),
    ]
    for what, sizes, names in grown:
        for stage in names:
            times = [statistics.median(unit(size, stage)) for size in sizes]
            each = [b / a for a, b in zip(unit(sizes[0], stage), unit(sizes[-1], stage), strict=True)]
            told = [_short(time * 1e6) for time in times] + [None] * (len(PASSAGES) - len(times))
            largest = f"{times[-1] / times[0]:.2f} [{min(each):.2f}, {max(each):.2f}]"
            yield [stage, what, UNITS[stage], *told, largest, own(sizes[0], stage), own(sizes[-1], stage)]


def _short(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def main(argv: list[str]) -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--passages", type=int, default=2_000, help="Passages of the smallest collection.")
    arguments.add_argument("--queries", type=int, default=256)
    arguments.add_argument("--candidates", type=int, default=8)
    arguments.add_argument("--layers", type=int, default=2, help="Layers of the student.")
    arguments.add_argument("--tokens", type=int, default=144, help="Token limit of a text.")
    options = arguments.parse_args(argv)
    if options.only:
        measure(json.loads(options.setting), options.note)
        return
    sizes = [(n, 1) for n in PASSAGES] + [(1, n) for n in CANDIDATES if n > 1]
    runs: dict[tuple[int, int], list[dict]] = {size: [] for size in sizes}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        base, split = part(options.collection, folder / "part", TRAINING, options.passages, options.queries)
        for times in PASSAGES:
            enlarged(base, split, times, folder / f"times{times}", folder / "cache")
        student = build_student(options.model, options.layers, "first", "mean", "cos", 1, options.tokens)
        Encoder(student).save(folder / "student")
        shared = {"cache": str(folder / "cache"), "student": str(folder / "student"), "split": split}
        run = partial(apart, __file__, argv)
        for number in range(options.rounds):
            for n, k in sizes:
                own = {"collection": str(folder / f"times{n}"), "k": options.candidates * k}
                name = f"{n} x passages, {k} x candidates"
                runs[n, k].append(run(name, "--setting", json.dumps(shared | own)))
                say(f"round {number + 1} of {options.rounds}: {name}")
    columns = ["stage", "what grows", "unit", *(f"µs/unit, x{n}" for n in PASSAGES)]
    columns += ["a unit at the largest / at x1", "own MB, x1", "own MB, largest"]
    notes = (
        f"x1: {base.n_passages:,} passages, {len(base.qrels(split).query_rows):,} queries, {options.candidates} "
        f"candidates, a student of {options.layers} layers. Own memory: without pages mapped from files.",
    )
    figures = finish("growth", "Cost of a unit as work grows", columns, list(rows_of(runs)), notes)
    publish(figures | {"runs": {f"{n},{k}": told for (n, k), told in runs.items()}}, options.out)


if __name__ == "__main__":
    main(sys.argv[1:])
