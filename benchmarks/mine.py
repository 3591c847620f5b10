"""Mining against sentence-transformers: python benchmarks/mine.py --collection DIR [--queries N] [--out FILE].

From a model, passages and queries with known positives to hard negatives: encode all, search, choose the best
ranked passages that are no positives. The same depth, the same number of negatives, no filter on either side, each
run in a process of its own. The negatives must be the same.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from peers import Setting, best_setting, open_encoder
from samples import TRAINING, part
from side_by_side import OURS, Contender, Skip, alone, embed, in_turn_apart, parser, publish, report

from stepwell.collection import Collection
from stepwell.distil.negatives import mine
from stepwell.models.encoder import Encoder
from stepwell.models.files import locate
from stepwell.recipe import Mining
from stepwell.retrieval.search import retrieve
from stepwell.retrieval.vectors import Vectors, write_vectors

SAMPLE = 256


@dataclass(frozen=True)
class Work:
    """What is mined: the negatives of the queries ``rows``."""

    collection: Collection
    split: str
    rows: np.ndarray
    depth: int
    negatives: int

    @property
    def qrels(self):
        return self.collection.qrels(self.split)


def peer(place: str, limit: int | None, setting: Setting, faiss: bool = False):
    """Return `mine_hard_negatives`; gives the texts of the negatives by query."""
    if faiss and find_spec("faiss") is None:
        raise Skip("not installed (faiss-cpu)")
    model = open_encoder(place, limit, setting)

    def do(work: Work) -> dict[str, list[str]]:
        from datasets import Dataset
        from sentence_transformers.util import mine_hard_negatives

        pairs = [(row, positive) for row in work.rows for positive in work.qrels.positives(int(row))]
        columns = {
            "query": work.collection.query_texts([row for row, _ in pairs]),
            "positive": work.collection.passage_texts([positive for _, positive in pairs]),
        }
        with setting.context():
            found = mine_hard_negatives(
                Dataset.from_dict(columns),
                model,
                corpus=work.collection.passage_texts(),
                range_max=work.depth,
                num_negatives=work.negatives,
                batch_size=setting.batch,
                use_faiss=faiss,
                output_format="n-tuple",
                verbose=False,
            )
        names = [f"negative_{n}" for n in range(1, work.negatives + 1)] if work.negatives > 1 else ["negative"]
        return {line["query"]: [line[name] for name in names] for line in found}

    return do


def ours(place: str, limit: int | None):
    """Return stepwell's encode, search and mine; gives the texts of the negatives by query."""
    encoder = Encoder.open(place)
    encoder.limit = limit or encoder.limit
    embed(encoder, ["a text"])

    def do(work: Work) -> dict[str, list[str]]:
        with tempfile.TemporaryDirectory() as folder:
            write_vectors(encoder, work.collection, work.rows, Path(folder))
            run = retrieve(Vectors.open(Path(folder)), work.rows, work.depth)
            settings = Mining(
                depth=work.depth, last=work.depth, sampling="hardest", positives=1, near_duplicate=None, margin=None
            )
            found, _ = mine(run, work.qrels, work.collection, settings, 1 + work.negatives, seed=0)
        texts = work.collection.query_texts(found.queries)
        return {q: work.collection.passage_texts(row[1:]) for q, row in zip(texts, found.passages, strict=True)}

    return do


def contenders(place: str, limit: int | None, best: Setting) -> list[Contender]:
    return [
        Contender("sentence-transformers, as it comes", lambda: peer(place, limit, Setting())),
        Contender("sentence-transformers, best torch setting", lambda: peer(place, limit, best)),
        Contender("sentence-transformers, best torch setting, faiss", lambda: peer(place, limit, best, faiss=True)),
        Contender(OURS, lambda: ours(place, limit), None),
    ]


def agreement(ours: dict[str, list[str]], theirs: dict[str, list[str]]) -> float:
    """Return the share of a contender's negatives that stepwell has for the same query."""
    shares = [len(set(found) & set(ours.get(query, ()))) / len(found) for query, found in theirs.items()]
    return float(np.mean(shares)) if shares else 0.0


def main(argv: list[str]) -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--passages", type=int, help="Use so many passages; all when left out.")
    arguments.add_argument("--queries", type=int, help="Use so many queries; all when left out.")
    arguments.add_argument("--tokens", type=int, help="Token limit; the model's own when left out.")
    arguments.add_argument("--depth", type=int, default=50, help="Passages retrieved a query.")
    arguments.add_argument("--negatives", type=int, default=7, help="Negatives a query.")
    options = arguments.parse_args(argv)
    place = locate(options.model)
    with tempfile.TemporaryDirectory() as folder:
        collection, split = part(options.collection, Path(folder), TRAINING, options.passages, options.queries)
        rows = collection.qrels(split).query_rows[: options.queries]
        if options.only:
            work = Work(collection, split, rows, options.depth, options.negatives)
            alone(contenders(place, options.tokens, Setting.from_text(options.setting)), work, options)
            return
        best = _best(place, options.tokens, collection.passage_texts(range(min(SAMPLE, collection.n_passages))))
        names = contenders(place, options.tokens, best)
        outcomes = in_turn_apart(names, options.rounds, __file__, argv, "--setting", best.to_text())
    mined = {outcome.name: outcome.result for outcome in outcomes}
    for outcome in outcomes:
        if outcome.against is not None and outcome.seconds:
            outcome.facts["same negatives"] = f"{agreement(mined[OURS], mined[outcome.name]):.2%}"
    ours = next(outcome for outcome in outcomes if outcome.name == OURS)
    notes = (
        f"{collection.n_passages:,} passages, {len(rows):,} queries, depth {options.depth}, {options.negatives} "
        f"negatives a query. The best torch setting found: {best}.",
        "Peak: all resident memory of the process; own: without pages that are mapped from files; medians of rounds. "
        f"The largest of stepwell's rounds, with the probe of this machine in it, had {max(ours.peaks) / 1e6:,.0f} MB.",
    )
    figures = report("mine", "Mining hard negatives", len(rows), "queries", outcomes, notes)
    publish(figures, options.out)


def _best(place: str, limit: int | None, texts: list[str]) -> Setting:
    def open_at(setting: Setting):
        model = open_encoder(place, limit, setting)

        def do(texts: list[str]) -> np.ndarray:
            with setting.context():
                return model.encode_document(texts, batch_size=setting.batch, show_progress_bar=False)

        return do

    return best_setting(open_at, texts)


if __name__ == "__main__":
    main(sys.argv[1:])
