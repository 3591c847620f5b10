"""What a rung of the benchmark learns from: texts, candidates, teacher's scores, and the models in a folder."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from samples import TRAINING, part
from side_by_side import score

from stepwell.collection import Qrels
from stepwell.distil.candidates import Candidates
from stepwell.distil.negatives import mine
from stepwell.models.build import build_cross_encoder, build_student, head_parameters
from stepwell.models.encoder import Encoder
from stepwell.models.opening import transformer_of
from stepwell.models.reranker import Reranker
from stepwell.recipe import Mining
from stepwell.systems.opening import retrieve_with

SPREAD = 2.0
"""Standard deviation of a query's scores under a usual teacher; a random head is scaled to it."""


@dataclass(frozen=True)
class Task:
    """Rows are those of ``queries`` and ``passages``: only what the rung uses.

    ``candidates`` (Q, K) have their positive first; ``labels`` (Q, K) are the teacher's logits of them.
    """

    folder: Path
    queries: list[str]
    passages: list[str]
    candidates: np.ndarray
    labels: np.ndarray

    @property
    def student(self) -> str:
        return str(self.folder / "student")

    @property
    def teacher(self) -> str:
        return str(self.folder / "teacher")

    @property
    def pairs(self) -> np.ndarray:
        """All pairs of a query and a candidate, (Q * K, 2)."""
        rows = np.repeat(np.arange(len(self.queries)), self.candidates.shape[1])
        return np.stack([rows, self.candidates.ravel()], axis=1)

    def mined(self) -> Candidates:
        """Return the candidates as stepwell has them."""
        grades = np.zeros_like(self.candidates, dtype=np.int32)
        grades[:, 0] = 1
        return Candidates(np.arange(len(self.queries), dtype=np.int32), self.candidates.astype(np.int32), grades)

    def qrels(self) -> Qrels:
        """Return the positives as stepwell has them."""
        rows = np.arange(len(self.queries))
        return Qrels(rows, self.candidates[:, 0], np.ones_like(rows))

    def save(self) -> None:
        """Write all but the models, for a process of its own."""
        np.savez(self.folder / "task.npz", candidates=self.candidates, labels=self.labels)
        (self.folder / "task.json").write_text(json.dumps([self.queries, self.passages]))

    @classmethod
    def load(cls, folder: Path) -> Task:
        """Read what :meth:`save` wrote."""
        arrays = np.load(folder / "task.npz")
        return cls(folder, *json.loads((folder / "task.json").read_text()), arrays["candidates"], arrays["labels"])


def without_dropout(module: torch.nn.Module) -> torch.nn.Module:
    """Switch dropout off in the configuration, so that nobody who opens the saved model trains with it."""
    config = transformer_of(module).auto_model.config
    for name in ("hidden_dropout_prob", "attention_probs_dropout_prob", "dropout", "attention_dropout"):
        if isinstance(getattr(config, name, None), float):
            setattr(config, name, 0.0)
    return module


def make_task(
    path: str, model: str, teacher: str, folder: Path, queries: int, k: int, layers: int, limit: int, pair_limit: int
) -> Task:
    """Cut a student, open a teacher, mine K candidates of the first queries with BM25 and score them."""
    collection, split = part(path, folder / "collection", TRAINING)
    qrels = collection.qrels(split)
    rows = qrels.query_rows[:queries]
    run = retrieve_with("bm25", collection, qrels.restrict(rows), 50)
    found, _ = mine(run, qrels, collection, Mining(depth=50, last=30, positives=1), k, seed=0)
    used, places = np.unique(found.passages, return_inverse=True)
    texts = collection.query_texts(found.queries), collection.passage_texts(used)
    candidates = places.reshape(found.passages.shape)
    student = without_dropout(build_student(model, layers, "first", "mean", "cos", 1, limit))
    Encoder(student).save(folder / "student")
    reranker = Reranker(build_cross_encoder(teacher, None, pair_limit, seed=0), pair_limit)
    task = Task(folder, *texts, candidates, np.zeros(candidates.shape))
    labels = score(reranker, *texts, task.pairs).reshape(candidates.shape)
    spread = float(labels.std(axis=1).mean())
    if spread < SPREAD / 4:  # a head that was never trained
        with torch.no_grad():
            for parameter in head_parameters(reranker.model):
                parameter.mul_(SPREAD / spread)
        labels = labels * np.float32(SPREAD / spread)
    without_dropout(reranker.model)
    reranker.save(folder / "teacher")
    task = Task(folder, *texts, candidates, labels)
    task.save()
    return task
