"""The proof over several collections and seeds: python benchmarks/proof.py RECIPE ... --data DIR [--page PAGE].

Runs each recipe on each collection with each seed, and puts one table of each recipe and collection together: the
mean of a query's values over the seeds, compared query by query with the final student (bootstrap intervals over the
queries, paired tests, Holm). Each run ends with its own table of the test: nothing is to be chosen by it. Started
again, it goes on.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from table import replaced

from stepwell import api
from stepwell.display import Cell, Table, say, show
from stepwell.evaluation import Comparison, Evaluation, compare
from stepwell.recipe.yaml_file import load_recipe, parse_override
from stepwell.systems.records import Results, Trained

SEEDS = (13, 14, 15)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", type=Path, nargs="+")
    parser.add_argument("--data", type=Path, required=True, help="a directory of collections")
    parser.add_argument("--collections", nargs="+", default=["nfcorpus", "scifact", "nq_wiki"])
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--set", action="append", default=[], help="change every recipe")
    parser.add_argument("--out", type=Path, default=Path("runs/proof"))
    parser.add_argument("--page", type=Path, help="a page with the marks <!-- proof --> and <!-- end of proof -->")
    options = parser.parse_args()
    tables = []
    for path in options.recipes:
        for name in options.collections:
            # One folder for all seeds of a recipe and a collection: what does not depend on the seed is done once.
            out = options.out / f"{path.stem}-{name}"
            done = []
            for seed in options.seeds:
                changes = {"collection.path": str(options.data / name), "seed": seed, "proof": "full"}
                changes |= dict(map(parse_override, options.set))
                recipe = load_recipe(path, changes)
                say(f"{path.stem} on {name}, seed {seed}")
                api.run(recipe.model_copy(update={"name": f"{path.stem}-{name}"}), out)
                done.append(kept(out, seed))
            tables.append(together(f"{path.stem} on {name}, seeds {', '.join(map(str, options.seeds))}", out, done))
            show(tables[-1])
    if options.page is not None:
        text = "\n\n".join(map(markdown, tables))
        options.page.write_text(replaced(options.page.read_text("utf-8"), text, "proof"), "utf-8")


def kept(out: Path, seed: int) -> Results:
    """Keep what a run says before the next seed's says another thing in its place."""
    found, place = Results.load(out), out / "seeds" / str(seed)
    place.mkdir(parents=True, exist_ok=True)
    found.save(place)
    return found


def together(title: str, out: Path, seeds: Sequence[Results]) -> Table:
    """Return the table over what the seeds of a run left in its folder."""
    values: dict[str, list[Evaluation]] = defaultdict(list)
    trained: dict[str, list[Trained]] = defaultdict(list)
    for results in seeds:
        for label, stage in results.table.systems.items():
            values[label].append(Evaluation.load(out / results.stages[stage] / "evaluation.parquet"))
        for row in results.table.trained:
            trained[row.system].append(row)
    whole = {label: mean(found) for label, found in values.items() if len(found) == len(seeds)}
    reference = "ladder + refine" if "ladder + refine" in whole else "ladder"
    comparison = compare(whole, reference, ["nDCG@10"])
    partly = {label: len(found) for label, found in values.items() if len(found) < len(seeds)}
    return _table(title, comparison, trained, partly)


def _table(title: str, found: Comparison, trained: dict[str, list[Trained]], partly: dict[str, int]) -> Table:
    rows: list[list[Cell]] = []
    for row in found.rows:
        by, cells = trained.get(row.name, []), found.cells(row)[:3]
        spent = [sum(getattr(one, what) for one in by) / max(1, len(by)) for what in ("updates", "texts")]
        rows.append([row.name, *cells, *(f"{count:,.0f}" if by else "" for count in spent)])
    notes = [f"Means over {found.queries:,} queries, each the mean of all seeds; in brackets 95 % bootstrap intervals."]
    notes += [f"{label}: with {count} of the seeds only, so not in the table." for label, count in partly.items()]
    return Table(title, ["system", *found.columns[:3], "updates", "texts"], rows, notes)


def mean(evaluations: Sequence[Evaluation]) -> Evaluation:
    """Return the mean of each query's values over the seeds."""
    first, *others = evaluations
    if any(not np.array_equal(first.queries, other.queries) for other in others):
        raise ValueError("the seeds were judged on different queries")
    measures = {name: np.mean([one.of(name) for one in evaluations], axis=0) for name in first.values}
    return Evaluation(first.queries, measures)


def markdown(table: Table) -> str:
    """Return a table as Markdown."""
    rows = [table.columns, ["---"] + ["---:"] * (len(table.columns) - 1), *table.rows]
    lines = ["| " + " | ".join("" if cell is None else str(cell).strip() for cell in row) + " |" for row in rows]
    return "\n".join([f"**{table.title}**", "", *lines, "", *table.notes])


if __name__ == "__main__":
    main()
