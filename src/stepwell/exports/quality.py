"""What an exported graph is worth: how far its vectors are from torch's, and what it loses on dev."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from stepwell.collection import Collection, Qrels, resolve_splits
from stepwell.collection.splits import hash_order
from stepwell.display import progress
from stepwell.errors import RunError, StepwellError
from stepwell.evaluation import evaluate
from stepwell.models.encoder import Encoder
from stepwell.models.engines.backends import Runner, open_way
from stepwell.models.engines.graphs import Run as Forward
from stepwell.models.engines.inference import Opened
from stepwell.models.engines.machine import token_budget
from stepwell.models.engines.parity import LONG, SHORT
from stepwell.models.tokens import Tokens
from stepwell.recipe import CollectionSection
from stepwell.retrieval.run import Run
from stepwell.retrieval.search import retrieve, top_k
from stepwell.retrieval.vectors import Vectors
from stepwell.systems.folder import RunFolder
from stepwell.systems.opening import vectors_of

MEASURE = "nDCG@10"
QUERIES = 500
"""Dev queries that a loss is measured on, at most."""
RIVALS = 50
"""Passages of each of them that may come first: the best by the vectors there are."""
TEXTS = 128
"""Texts of a collection that int8 is calibrated on: half queries, half passages."""


@dataclass(frozen=True)
class Ground:
    """The collection that a model is exported for, and its dev queries."""

    collection: Collection  # the texts
    dev: Qrels  # judgements of at most QUERIES queries that steered a training and are not the test
    train_rows: NDArray[np.int32]  # queries to calibrate on
    vectors: Vectors | None = None  # vectors that a run left; None when they are to be made

    @classmethod
    def of(cls, collection: Collection, run: RunFolder | None = None) -> Ground:
        """Take a collection, with the splits of a run's recipe or else as a recipe has them by default."""
        section = CollectionSection(path=collection.place)
        if run is not None and run.recipe_text:
            section = run.load_recipe().collection
        splits = resolve_splits(collection, section)
        dev = splits.dev.restrict(hash_order(collection, splits.dev.query_rows)[:QUERIES])
        return cls(collection, dev, splits.train.query_rows, run.student_vectors() if run is not None else None)

    def sample(self, seed: int = 0) -> tuple[list[str], list[str]]:
        """Return training queries and passages, drawn by ``seed``: never a dev or a test query."""
        rng, half = np.random.default_rng(seed), TEXTS // 2
        queries = rng.permutation(self.train_rows)[:half]
        passages = rng.choice(self.collection.n_passages, min(half, self.collection.n_passages), replace=False)
        return self.collection.query_texts(queries), self.collection.passage_texts(passages)


def sample_texts(ground: Ground | None) -> tuple[list[str], list[str]]:
    """Return queries and passages of a collection, or texts that stepwell has where none is known."""
    return ground.sample() if ground is not None else (list(SHORT), list(LONG))


class Yardstick:
    """Measures ways of running one encoder on the same dev queries and the same passages.

    The passages are the first :data:`RIVALS` of each query by torch fp32; a way ranks all of them for each query. What
    never came near the top of any query can't be missed much, and a corpus of millions needs no second encoding.
    """

    def __init__(self, encoder: Encoder, ground: Ground) -> None:
        self.encoder, self.ground = encoder, ground
        self.rows = ground.dev.query_rows
        vectors = ground.vectors or vectors_of(encoder, ground.collection, self.rows)
        self.pool = np.unique(retrieve(vectors, self.rows, RIVALS).passages)
        self.pool = self.pool[self.pool >= 0]
        self.queries = encoder.tokenise(ground.collection.query_texts(self.rows), "query")
        self.passages = encoder.tokenise(ground.collection.passage_texts(self.pool), "document")

    def measure(self, runner: Runner) -> float:
        """Return the mean nDCG@10 on dev, 0..1, of a way."""
        with progress(len(self.pool) + len(self.rows), f"measuring {runner.way}") as bar:
            queries, passages = (
                self.encoder.encode_by(Opened(runner, token_budget()), tokens, progress=bar)
                for tokens in (self.queries, self.passages)
            )
        places, scores = top_k(queries, passages, RIVALS)
        return evaluate(Run(self.rows, self.pool[places], scores), self.ground.dev, (MEASURE,)).mean(MEASURE)


def points_lost(before: float, after: float) -> float:
    """Return a loss of nDCG@10 in points (hundredths), above 0 when it fell.

    Examples
    --------
    >>> round(points_lost(0.412, 0.409), 3)
    0.3
    """
    return 100 * (before - after)


def signed(points: float) -> str:
    """Return points for a table.

    Examples
    --------
    >>> signed(0.349), signed(-1e-9)
    ('+0.35', '+0.00')
    """
    return f"{round(points, 2) + 0.0:+.2f}"


def runner_of(encoder: Encoder, way: str, run: Forward) -> Runner:
    """Return a loaded graph as a way of running an encoder."""
    return Runner(way, encoder.inference.net, run)


def torch_runner(encoder: Encoder) -> Runner:
    """Return torch fp32: what all others are compared with."""
    return open_way(encoder.inference.net, "torch-fp32")


def parity(encoder: Encoder, run: Forward, texts: tuple[list[str], list[str]]) -> tuple[float, float]:
    """Compare vectors with torch fp32's on real texts."""
    raw = Runner("graph", replace(encoder.inference.net, cosine=False), run)  # normalising is the graph's own work
    far, cosine = 0.0, 1.0
    for side, part in zip(("query", "document"), texts, strict=True):
        tokens: Tokens = encoder.tokenise(part, "query" if side == "query" else "document")
        theirs, ours = (
            encoder.encode_by(Opened(way, token_budget()), tokens).astype(np.float64)
            for way in (raw, torch_runner(encoder))
        )
        length = np.linalg.norm(ours, axis=1, keepdims=True)
        far = max(far, float(np.abs(theirs - ours).max() / length.min()))
        cosine = min(cosine, float(((theirs * ours).sum(1) / (np.linalg.norm(theirs, axis=1) * length[:, 0])).min()))
    return far, cosine


def refused(encoder: Encoder, what: str, error: Exception) -> StepwellError:
    """Return what a user is told when an engine can't take a model."""
    kind = type(encoder.model[0]).__name__
    reason = " ".join(str(error).split())[:200]
    return RunError(
        f"{what} can't take this model ({kind}): {type(error).__name__}: {reason}. Nothing was written. Export it with "
        "--to safetensors, or to the other engine."
    )
