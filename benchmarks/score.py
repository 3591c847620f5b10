"""Scoring pairs against sentence-transformers: python benchmarks/score.py --collection DIR [--pairs N] [--out FILE].

All contenders score the same pairs, a query and a passage that BM25 finds for it, tokenising included, under the
same token limit. An encoder (`--model demo`) gets a random scoring head, which costs what a trained one does.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import machine
import numpy as np
from peers import Setting, backends, best_setting, open_scorer
from samples import TRAINING, part
from side_by_side import OURS, Contender, add_memory, alone, count_pair_tokens, in_turn, parser, publish, report, score

from stepwell.models.build import build_cross_encoder
from stepwell.models.reranker import Reranker
from stepwell.models.shape import operations_a_token
from stepwell.systems.opening import retrieve_with

SAMPLE = 256
"""Pairs on which settings are tried."""


@dataclass(frozen=True)
class Pairs:
    """Rows (B, 2) of queries and passages, and the same as texts."""

    queries: list[str]
    passages: list[str]
    rows: np.ndarray

    @property
    def texts(self) -> list[tuple[str, str]]:
        return [(self.queries[query], self.passages[passage]) for query, passage in self.rows]

    def some(self, count: int) -> Pairs:
        """Return ``count`` of the pairs, evenly spread."""
        return Pairs(self.queries, self.passages, self.rows[:: max(1, len(self.rows) // count)][:count])


def pairs_of(path: str, folder: Path, count: int, depth: int) -> Pairs:
    """Return ``count`` pairs: the first ``depth`` passages of BM25 for each of the first queries."""
    collection, split = part(path, folder, TRAINING)
    rows = collection.qrels(split).query_rows[: -(-count // depth)]
    run = retrieve_with("bm25", collection, collection.qrels(split).restrict(rows), depth)
    query, rank = np.nonzero(run.passages >= 0)
    used, passages = np.unique(run.passages[query, rank], return_inverse=True)
    pairs = np.stack([query, passages], axis=1)[:count].astype(np.int64)
    return Pairs(collection.query_texts(rows), collection.passage_texts(used), pairs)


def peer(model, setting: Setting):
    """Return what calls `predict` of an open model."""

    def do(pairs: Pairs | list[tuple[str, str]]):
        texts = pairs.texts if isinstance(pairs, Pairs) else pairs
        with setting.context():
            return model.predict(texts, batch_size=setting.batch, show_progress_bar=False)

    return do


def ours(place: str, limit: int):
    """Return stepwell's score."""
    reranker = Reranker.open(place, limit)
    return lambda pairs: score(reranker, pairs.queries, pairs.passages, pairs.rows)


def contenders(place: str, limit: int, best: Setting, sample: Pairs) -> list[Contender]:
    def open_at(other: str = place, **more):
        return open_scorer(other, limit, **more)

    def at(setting: Setting):
        return lambda: peer(open_scorer(place, limit, setting), setting)

    return [
        Contender("sentence-transformers, as it comes", at(Setting())),
        Contender("sentence-transformers, best torch setting", at(best)),
        *backends(open_at, lambda model, batch: peer(model, Setting(batch)), sample.texts),
        Contender(OURS, lambda: ours(place, limit), None),
    ]


def main(argv: list[str]) -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--pairs", type=int, default=2_000)
    arguments.add_argument("--depth", type=int, default=20, help="Pairs a query.")
    arguments.add_argument("--tokens", type=int, default=176, help="Token limit of a pair.")
    options = arguments.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        pairs = pairs_of(options.collection, Path(folder), options.pairs, options.depth)
        place = str(Path(folder) / "scorer")
        Reranker(build_cross_encoder(options.model, None, options.tokens, seed=0), options.tokens).save(Path(place))
        sample = pairs.some(SAMPLE)
        if options.only:
            best = Setting.from_text(options.setting)
            alone(contenders(place, options.tokens, best, sample), pairs, options, sample.some(32))
            return
        best = best_setting(lambda setting: peer(open_scorer(place, options.tokens, setting), setting), sample)
        outcomes = in_turn(contenders(place, options.tokens, best, sample), pairs, options.rounds, sample.some(32))
        peaks = machine.matmul_peaks(place)
        tokens = count_pair_tokens(Reranker.open(place, options.tokens), pairs.queries, pairs.passages, pairs.rows)
        operations = tokens * operations_a_token(place, None)
        for outcome in outcomes:
            if outcome.seconds:
                away = np.abs(outcome.result - outcomes[0].result).max()
                outcome.facts["largest difference"] = f"{away:.4f}"
                share = operations / float(np.median(outcome.seconds)) / max(peaks.values())
                outcome.facts["of the matmul peak"] = f"{share:.0%}"
        if not options.no_memory:
            add_memory(outcomes, __file__, argv, "--setting", best.to_text())
    told = " and ".join(f"{peak / 1e9:,.0f} GFLOP/s in {name}" for name, peak in peaks.items())
    spread = outcomes[0].result.std()
    notes = (
        f"The best torch setting found: {best}. Matrix products of the model's shapes reach {told}.",
        f"Differences are of raw logits, to those of the first line, whose standard deviation is {spread:.3f}.",
    )
    figures = report("score", "Scoring pairs with a cross-encoder", len(pairs.rows), "pairs", outcomes, notes)
    publish(figures | {"peaks": peaks}, options.out)


if __name__ == "__main__":
    main(sys.argv[1:])
