"""What an index loses against exact search in fp32, and how fast it is, on queries of the collection."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stepwell.collection import Collection
from stepwell.display import Cell, Table
from stepwell.evaluation import bootstrap_interval, evaluate
from stepwell.indexes.settings import IndexSettings
from stepwell.indexes.vector_index import VectorIndex
from stepwell.models.encoder import Encoder
from stepwell.retrieval.run import Floats, Found, Run
from stepwell.retrieval.search import pair_scores, top_k

SAMPLE = 1_000  # queries that are measured with, at most; spread evenly over those there are
DEPTH = 100
MEASURE = "nDCG@10"


@dataclass(frozen=True)
class Measured:
    """How an index does against exact search in fp32 with all dimensions."""

    queries: int  # how many it was measured with
    recall_10: float  # share of the 10 best passages that are among its own 10, or score as well as the last of them
    recall_100: float
    per_second: float  # queries a second when all come in one call
    split: str | None = None  # whose judgements the measures below go by; None when there are none
    ndcg: float | None = None  # nDCG@10
    delta: float | None = None  # its difference to exact search in fp32
    low: float | None = None  # bounds of the 95 % bootstrap interval of that
    high: float | None = None


@dataclass(frozen=True)
class Report:
    """What an index costs and what it gives."""

    settings: IndexSettings  # resolved
    passages: int  # how many, N
    search_bytes: int  # of what is searched
    again_bytes: int  # of the vectors to score again with
    measured: Measured | None  # None when there were no queries

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        return asdict(self) | {"settings": self.settings.to_json()}


class Sample:
    """Queries to measure with, and what exact search in fp32 finds for them among all passages' vectors (N, D)."""

    def __init__(self, collection: Collection, encoder: Encoder, passages: Floats, split: str | None = None) -> None:
        self.split = split or ("dev" if "dev" in collection.splits else None)  # None: all queries
        qrels = collection.qrels(self.split) if self.split else None
        every = np.arange(collection.n_queries) if qrels is None else qrels.query_rows
        chosen = np.unique(np.linspace(0, max(0, len(every) - 1), min(len(every), SAMPLE)).astype(np.int64))
        self.rows, self.passages, self.qrels = every[chosen].astype(np.int32), passages, qrels
        if len(self.rows):
            self.vectors = encoder.encode(encoder.tokenise(collection.query_texts(self.rows), "query"), "query")
            self.best = top_k(self.vectors, passages, DEPTH)
            self.exact = None if qrels is None else self._ndcg(self.best)

    def measure(self, index: VectorIndex) -> Measured | None:
        """Measure an index; None when there are no queries."""
        if not len(self.rows):
            return None
        index.search(self.vectors[:8], 10)  # the first call opens, probes, reads files
        start = time.perf_counter()
        index.search(self.vectors, 10)
        per_second = len(self.rows) / max(time.perf_counter() - start, 1e-9)
        found = index.search(self.vectors, DEPTH)
        plain = Measured(len(self.rows), self._recall(found[0], 10), self._recall(found[0], 100), per_second)
        if self.exact is None:
            return plain
        own = self._ndcg(found)
        delta = own - self.exact
        low, high = bootstrap_interval(delta, seed=0)
        return replace(plain, split=self.split, ndcg=float(own.mean()), delta=float(delta.mean()), low=low, high=high)

    def _recall(self, rows: NDArray[np.int32], k: int) -> float:
        k = min(k, self.best[1].shape[1])
        last = self.best[1][:, k - 1 : k]
        scores = pair_scores(self.vectors, self.passages, rows[:, :k])
        return float((scores >= last - 1e-5 * np.abs(last)).sum() / (k * len(rows)))  # fp32 sums differ a little

    def _ndcg(self, found: Found) -> NDArray[np.float64]:
        assert self.qrels is not None
        evaluation = evaluate(Run(self.rows, *found), self.qrels, (MEASURE,))
        return evaluation.of(MEASURE)[np.isin(evaluation.queries, self.rows)]


def report_table(title: str, reports: Sequence[Report]) -> Table:
    """Return the table of what indexes cost and give."""
    heads = ["kind", "precision", "dims", "again", "bytes/passage", "MB"]
    heads += ["recall@10", "recall@100", MEASURE, "delta", "low", "high", "queries/s"]
    notes = [
        "bytes/passage: of what is searched; MB: all vectors. again: how many times the passages asked for are scored "
        "again, and with what."
    ]
    measured = next((report.measured for report in reports if report.measured), None)
    if measured is None:
        notes.append("There were no queries, so nothing was measured: name another split with --split.")
    else:
        against = f"Against exact search in fp32 with all dimensions, on {measured.queries:,} queries"
        if measured.split is None:
            notes += [f"{against}.", "For nDCG name a split that has judgements: --split."]
        else:
            notes.append(f"{against} of {measured.split}; low and high bound the 95 % interval of delta.")
    return Table(title, heads, [_cells(report) for report in reports], notes)


def _cells(report: Report) -> list[Cell]:
    settings, m = report.settings, report.measured
    again = f"{settings.rescore} x {settings.rescore_with}" if settings.rescore else "-"
    count = max(1, report.passages)
    cells: list[Cell] = [settings.kind, settings.faiss or settings.precision, settings.dimension, again]
    cells += [f"{report.search_bytes / count:,.0f}", f"{(report.search_bytes + report.again_bytes) / 1e6:,.1f}"]
    if m is None:
        return [*cells, *[None] * 7]
    signed = [None if value is None else f"{value:+.3f}" for value in (m.delta, m.low, m.high)]
    return [*cells, m.recall_10, m.recall_100, m.ndcg, *signed, f"{m.per_second:,.0f}"]
