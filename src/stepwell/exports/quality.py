"""What an exported graph is worth: how far its vectors are from torch's, and what it loses on dev."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stepwell.collection import Collection, Qrels, resolve_splits
from stepwell.collection.splits import hash_order
from stepwell.display import progress
from stepwell.errors import RunError
from stepwell.evaluation import evaluate
from stepwell.models.encoder import Encoder
from stepwell.models.engines.backends import Runner, open_way
from stepwell.models.engines.inference import Opened
from stepwell.models.engines.machine import token_budget
from stepwell.models.engines.parity import Deviation, compare
from stepwell.models.preparation import LONG, SHORT
from stepwell.models.tokens import Side
from stepwell.recipe import CollectionSection
from stepwell.retrieval.run import Run
from stepwell.retrieval.search import retrieve, top_k
from stepwell.retrieval.vectors import Vectors
from stepwell.systems.opening import System, vectors_of

MEASURE = "nDCG@10"
QUERIES = 500
"""Dev queries that a loss is measured on, at most."""
RIVALS = 50
"""Passages of each of them that may come first: the best by the vectors there are."""
TEXTS = 128
"""Texts of a collection that int8 is calibrated on: half queries, half passages."""


@dataclass(frozen=True)
class DevSet:
    """A collection with its dev queries, which what is exported is measured on."""

    collection: Collection
    qrels: Qrels  # of at most QUERIES queries that steered a training and are not the test
    train_rows: NDArray[np.int32]  # queries to calibrate on
    vectors: Vectors | None = None  # that a run left; None when they are to be made

    @classmethod
    def find(cls, system: System, collection: str | Path | None) -> "DevSet | None":
        """Return that of a named collection or else of a run's own; None when none is named or known.

        The splits are those of the run's recipe where it is over the collection, else those that a recipe has by
        default. A collection without dev queries is refused.
        """
        run, opened = system.run, system.open_collection(collection)
        if opened is None:
            return None
        if run is not None and not run.is_over(opened):
            if collection is None:
                raise RunError(
                    f"the collection {opened.place} is not the one that the run in {run.place} was made from (its "
                    "content has changed): a loss measured on it would say nothing of this run. Name another with "
                    "--collection."
                )
            run = None
        described = run is not None and run.recipe_text
        section = run.load_recipe().collection if run and described else CollectionSection(path=opened.place)
        splits = resolve_splits(opened, section)
        qrels = splits.dev.restrict(hash_order(opened, splits.dev.query_rows)[:QUERIES])
        return cls(opened, qrels, splits.train.query_rows, run.student_vectors() if run else None)


def sample_texts(dev: DevSet | None) -> tuple[list[str], list[str]]:
    """Return training queries and passages, never a dev or test query; stepwell's own texts without a collection."""
    if dev is None:
        return list(SHORT), list(LONG)
    rng, half, collection = np.random.default_rng(0), TEXTS // 2, dev.collection
    queries = rng.permutation(dev.train_rows)[:half]
    passages = rng.choice(collection.n_passages, min(half, collection.n_passages), replace=False)
    return collection.query_texts(queries), collection.passage_texts(passages)


class Yardstick:
    """Measures ways of running one encoder on the same dev queries and the same passages.

    The passages are the first :data:`RIVALS` of each query by torch fp32; a way ranks all of them for each query. What
    never came near the top of any query can't be missed much, and a corpus of millions needs no second encoding.
    """

    def __init__(self, encoder: Encoder, dev: DevSet) -> None:
        self.encoder, self.qrels, self.rows = encoder, dev.qrels, dev.qrels.query_rows
        vectors = dev.vectors or vectors_of(encoder, dev.collection, self.rows)
        self.pool = np.unique(retrieve(vectors, self.rows, RIVALS).passages)
        self.pool = self.pool[self.pool >= 0]
        self.queries = encoder.tokenise(dev.collection.query_texts(self.rows), "query")
        self.passages = encoder.tokenise(dev.collection.passage_texts(self.pool), "document")

    def measure(self, runner: Runner) -> float:
        """Return the mean nDCG@10 on dev, 0..1, of a way."""
        with progress(len(self.pool) + len(self.rows), f"measuring {runner.way}") as bar:
            queries, passages = (
                self.encoder.encode_by(Opened(runner, token_budget()), tokens, progress=bar)
                for tokens in (self.queries, self.passages)
            )
        places, scores = top_k(queries, passages, RIVALS)
        return evaluate(Run(self.rows, self.pool[places], scores), self.qrels, (MEASURE,)).mean(MEASURE)


def signed(points: float) -> str:
    """Return points for a table, never as -0.00."""
    return f"{round(points, 2) + 0.0:+.2f}"


def compare_on_texts(encoder: Encoder, texts: tuple[list[str], list[str]], runner: Runner) -> Deviation:
    """Compare a way's vectors with torch fp32's on real queries and passages."""
    plain = open_way(encoder.inference.net, "torch-fp32")
    raw = replace(runner, net=replace(runner.net, cosine=False))  # normalising is the graph's own work

    def pairs() -> Iterator[tuple[Tensor, Tensor]]:
        for side, part in zip(get_args(Side), texts, strict=True):
            tokens = encoder.tokenise(part, side)
            ours, reference = (encoder.encode_by(Opened(way, token_budget()), tokens) for way in (raw, plain))
            yield torch.from_numpy(ours), torch.from_numpy(reference)

    return compare(pairs())
