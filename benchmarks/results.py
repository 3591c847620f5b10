"""The paper's five benchmarks: its figures, ours, and what ours would take: python benchmarks/results.py [--page].

The hours are those of `stepwell plan`: the stages of each recipe in recipes/paper, priced by
src/stepwell/ladder/prices.py for the benchmark's size, over the speed that benchmarks/scaling.py assumes.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from scaling import Assumptions, markdown
from table import replaced
from transformers import BertConfig

from stepwell.display import Table, show
from stepwell.ladder.build import stages_of
from stepwell.ladder.prices import Prices, Work
from stepwell.ladder.stage import Context
from stepwell.recipe.yaml_file import load_recipe

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "results.md"
BASES = {"base": (12, 768), "large": (24, 1_024)}  # layers and width of ERNIE 2.0
DEVICES = (1, 8)


@dataclass(frozen=True)
class Benchmark:
    """A benchmark: its recipe, the paper's figures (6 layers, in %), and its size.

    ``baseline`` and ``paper`` are by measure; ``ours`` is filled in when it has been run.
    """

    title: str
    recipe: str
    baseline: Mapping[str, float]
    paper: Mapping[str, float]
    prices: Prices
    ours: Mapping[str, float] | None = None


def sizes(passages: int, train: int, test: int, passage: float, query: float = 10.0) -> Prices:
    """Return the counts of a benchmark; ``passage`` and ``query`` are tokens."""
    return Prices(passages, train, 500, test, passage, query, min(passage + query - 1, 512.0))


MARCO, DOCUMENTS = (8_841_823, 502_939), (3_213_835, 367_013)
BENCHMARKS = (
    Benchmark(
        "MS MARCO passage, dev",
        "msmarco-passage",
        {"RR@10": 31.7, "R@50": 80.0, "R@1000": 96.2},
        {"RR@10": 39.3, "R@50": 87.0, "R@1000": 98.4},
        sizes(*MARCO, 6_980, 80.0),
    ),
    Benchmark(
        "MS MARCO document, dev",
        "msmarco-document",
        {"RR@10": 34.0, "R@5": 52.1, "R@20": 75.6, "R@100": 90.4},
        {"RR@10": 42.8, "R@5": 62.4, "R@20": 83.9, "R@100": 93.3},
        sizes(*DOCUMENTS, 5_193, 512.0),
    ),
    Benchmark("TREC DL 2019, passages", "trec-dl-2019-passage", {}, {"nDCG@10": 73.3}, sizes(*MARCO, 43, 80.0)),
    Benchmark("TREC DL 2019, documents", "trec-dl-2019-document", {}, {}, sizes(*DOCUMENTS, 43, 512.0)),
    Benchmark(
        "Natural Questions, test",
        "natural-questions",
        {"R@1": 46.0, "R@5": 67.8, "R@20": 78.9, "R@100": 86.2},
        {"R@1": 57.6, "R@5": 75.6, "R@20": 84.7, "R@100": 89.6},
        sizes(21_015_324, 58_880, 3_610, 150.0),
    ),
)


@dataclass(frozen=True)
class Cost:
    """What a recipe takes: operations of inference and of training, and bytes on disk."""

    forward: float
    training: float
    disk: float

    @classmethod
    def of(cls, works: Sequence[Work]) -> Cost:
        """Add up stages."""
        return cls(*(sum(getattr(work, name) for work in works) for name in ("forward", "training", "disk")))

    def hours(self, devices: int, a: Assumptions) -> float:
        """Return the hours on so many GPUs; trainings stay on as many as the paper's batches can feed."""
        each = self.forward / devices + self.training / min(devices, a.training_devices)
        return each / (a.peak * a.share) / 3600


def configurations(folder: Path) -> dict[str, str]:
    """Write the configurations of the paper's models, without weights."""
    for name, (layers, width) in BASES.items():
        shape = {"num_hidden_layers": layers, "hidden_size": width, "intermediate_size": 4 * width}
        BertConfig(vocab_size=30_522, num_attention_heads=width // 64, **shape).save_pretrained(folder / name)
    base, large = (str(folder / name) for name in BASES)
    return {"student.from": base, "teachers.de12.from": base, "teachers.ce12.from": base, "teachers.ce24.from": large}


def cost(benchmark: Benchmark, bases: Mapping[str, str], **changes: Any) -> Cost:
    """Price all stages of a benchmark's recipe, as `stepwell plan` does."""
    recipe = load_recipe(ROOT / "recipes" / "paper" / f"{benchmark.recipe}.yaml", {**bases, **changes})
    nothing: Any = None  # of the collection nothing is read but whether training queries have answers
    splits: Any = SimpleNamespace(train=SimpleNamespace(answered=benchmark.recipe == "natural-questions"))
    stages = stages_of(Context(recipe, nothing, splits, Path()))
    return Cost.of([stage.cost(benchmark.prices) for stage in stages])


def figures(values: Mapping[str, float]) -> str:
    """Return figures as the page has them."""
    return " / ".join(f"{value:.1f}" for value in values.values())


def result_table(costs: Mapping[str, Cost], a: Assumptions) -> Table:
    """Return the paper's figures and ours, or what ours need."""
    columns = ["benchmark", "measures", "paper: contrastive", "paper: PROD", "ours"]
    rows = []
    for benchmark in BENCHMARKS:
        hours = costs[benchmark.recipe].hours(1, a)
        ours = figures(benchmark.ours) if benchmark.ours else f"not run: needs {hours:.0f} GPU-hours"
        measures = load_recipe(ROOT / "recipes" / "paper" / f"{benchmark.recipe}.yaml").judging
        named = benchmark.paper or {measures.measure: 0.0}
        rows.append([benchmark.title, " / ".join(named), figures(benchmark.baseline), figures(benchmark.paper), ours])
    return Table("Results", columns, rows)


def cost_table(costs: Mapping[str, Cost], bare: Mapping[str, Cost], a: Assumptions) -> Table:
    """Return what each recipe takes."""
    columns = [
        "recipe",
        "passages",
        "training queries",
        "PFLOP",
        *(f"h on {n}" for n in DEVICES),
        "of it proof",
        "disk",
    ]
    rows = []
    for benchmark in BENCHMARKS:
        all_, without = costs[benchmark.recipe], bare[benchmark.recipe]
        counts = [f"{benchmark.prices.passages:,}", f"{benchmark.prices.train:,}"]
        hours = [f"{all_.hours(n, a):.1f}" for n in DEVICES]
        proof = 1 - without.hours(1, a) / all_.hours(1, a)
        work = f"{(all_.forward + all_.training) / 1e15:,.0f}"
        rows.append([f"`{benchmark.recipe}`", *counts, work, *hours, f"{proof:.0%}", f"{all_.disk / 1e9:,.0f} GB"])
    return Table("What they take", columns, rows)


def tables(a: Assumptions) -> dict[str, Table]:
    """Return the tables of the page by name."""
    with tempfile.TemporaryDirectory() as folder:
        bases = configurations(Path(folder))
        costs = {benchmark.recipe: cost(benchmark, bases) for benchmark in BENCHMARKS}
        bare = {benchmark.recipe: cost(benchmark, bases, proof="none") for benchmark in BENCHMARKS}
    return {"results": result_table(costs, a), "hours": cost_table(costs, bare, a)}


def filled(page: str, made: Mapping[str, Table]) -> str:
    """Return the page with all tables in their places."""
    for name, table in made.items():
        page = replaced(page, markdown(table), name)
    return page


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--page", type=Path, nargs="?", const=PAGE, help="Write the tables into this page.")
    options = parser.parse_args(argv)
    made = tables(Assumptions())
    for table in made.values():
        show(table)
    if options.page is not None:
        options.page.write_text(filled(options.page.read_text(encoding="utf-8"), made), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
