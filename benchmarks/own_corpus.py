"""A folder of Markdown without queries, made into a student: python benchmarks/own_corpus.py FOLDER [--passages N].

The texts are the demo collection's: the first sentence of each docstring is a query that somebody might ask, and is
held out; what follows it goes into Markdown files, one a module, a heading for each name. `init` sees those files
alone, `run` trains on the queries that it makes of them, and the held-out sentences test: in the run's own table, and
once more over the whole texts (nothing taken out), where the student is compared with the same layers untrained and
with all layers of its base. Started again, it goes on.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
from collections import defaultdict
from pathlib import Path

from stepwell import api
from stepwell.collection.demo import build
from stepwell.collection.readers.folder import Folder
from stepwell.collection.store import refuse
from stepwell.display import say, show
from stepwell.files import cache
from stepwell.recipe.yaml_file import load_recipe, parse_override


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where everything goes")
    parser.add_argument("--passages", type=int, default=3000)
    parser.add_argument("--queries", type=int, default=1000, help="real queries of the test")
    parser.add_argument("--round-trip", default="bm25", choices=["bm25", "encoder", "either", "both"])
    parser.add_argument("--set", action="append", default=[], help="change the recipe that init wrote")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    docs, real = options.folder / "docs", options.folder / "real.csv"
    if not real.is_file():
        write(docs, real, options.passages, options.queries)
    recipe = options.folder / "recipe.yaml"
    if not recipe.is_file():
        api.init(docs, recipe, test=real, by=options.round_trip)
    run = options.folder / "run"
    results = api.run(load_recipe(recipe, dict(map(parse_override, options.set))), run)
    say((run / "results.txt").read_text(encoding="utf-8"))
    whole = options.folder / "whole"
    write_whole(docs, real, whole)
    untrained = run / results.stages["start"] / "model"
    systems = {"student": run / "model", "the same layers, untrained": untrained, "all layers of the base": "demo"}
    comparison = api.compare(list(systems.values()), whole).comparison
    names = {str(place): name for name, place in systems.items()}
    table = comparison.table("Over the whole texts, real queries")
    show(
        type(table)(
            table.title,
            [column.replace(str(run / "model"), "student") for column in table.columns],
            [[names.get(str(row[0]), row[0]), *row[1:]] for row in table.rows],
            [note.replace(str(run / "model"), "student") for note in table.notes],
        )
    )


def write(docs: Path, real: Path, passages: int, queries: int) -> None:
    """Write the Markdown files, and the held-out queries with the passages that answer them."""
    demo = build("demo-full", cache())
    texts = [json.loads(line) for line in (demo / "corpus.jsonl").read_text(encoding="utf-8").splitlines()]
    asked = [json.loads(line) for line in (demo / "queries.jsonl").read_text(encoding="utf-8").splitlines()]
    first = {query["_id"].removeprefix("q:"): query["text"] for query in asked}
    modules: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for text in texts[:passages]:  # in hash order
        module, _, name = text["_id"].rpartition(".")
        modules[module].append((name, text["text"]))
    rows = []
    for module, members in modules.items():
        file = Path(*module.split(".")).with_suffix(".md")
        (docs / file).parent.mkdir(parents=True, exist_ok=True)
        parts = [f"# {module}\n"] + [f"## {name.replace('_', ' ').strip()}\n\n{body}\n" for name, body in members]
        (docs / file).write_text("\n".join(parts), encoding="utf-8")
        for number, (name, _) in enumerate(members, start=1):
            rows.append((first[f"{module}.{name}"], f"{file.as_posix()}#{number}"))
    rows.sort(key=lambda row: hashlib.sha256(row[1].encode()).digest())
    with real.open("w", newline="", encoding="utf-8") as file_of_rows:
        csv.writer(file_of_rows).writerows([("query", "passage"), *rows[:queries]])


def write_whole(docs: Path, real: Path, folder: Path) -> None:
    """Write a BEIR directory of the folder's passages as they are, and the real queries."""
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    passages = list(Folder(docs.resolve()).texts("passage", refuse))
    with real.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    corpus = [json.dumps({"_id": text.id, "title": text.title, "text": text.text}) for text in passages]
    queries = [json.dumps({"_id": f"q{at}", "text": row["query"]}) for at, row in enumerate(rows)]
    qrels = ["query-id\tcorpus-id\tscore", *(f"q{at}\t{row['passage']}\t1" for at, row in enumerate(rows))]
    for name, lines in {"corpus.jsonl": corpus, "queries.jsonl": queries, "qrels/test.tsv": qrels}.items():
        (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
