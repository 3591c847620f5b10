"""A little of everything that is shared over processes; ``test_distributed`` runs it with one and with two.

Run as ``accelerate launch ... train_in_processes.py MODEL COLLECTION CACHE FOLDER``; the main process writes
``FOLDER/found.json``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch

from stepwell import distributed
from stepwell.collection import open_collection
from stepwell.distil.candidates import Candidates, Draw
from stepwell.distil.negatives import mine
from stepwell.distil.objectives import EmbeddingObjective, RerankObjective, StudentObjective, Terms
from stepwell.distil.training import train
from stepwell.models.build import build_cross_encoder, build_student
from stepwell.models.encoder import Encoder
from stepwell.models.reranker import Reranker
from stepwell.recipe import Mining, Optimiser, RerankTraining
from stepwell.retrieval import vectors as stored
from stepwell.retrieval.bm25 import BM25Index
from stepwell.retrieval.search import retrieve

BATCH = 7
"""No multiple of two: the processes have to even out their shares."""


class Halves:
    """A weight that learns, one that only the last process learns, and one that nobody does."""

    separable, size = False, 8

    def __init__(self) -> None:
        self.module = torch.nn.ParameterDict(
            {name: torch.ones(2, 2) for name in ("everywhere", "on the last process", "nowhere")}
        )

    def loss(self, examples: np.ndarray, epoch: int) -> tuple[torch.Tensor, dict[str, float]]:
        """Return the sum of squares, of which each process differentiates its part."""
        last = self.module["on the last process"]
        if distributed.rank() < distributed.world_size() - 1:
            last = last.detach()
        loss = self.module["everywhere"].square().sum() / distributed.world_size() + last.square().sum()
        return loss, {"squares": loss.item()}


def work(model: str, place: str, cache: str, folder: Path) -> dict[str, object]:
    """Write vectors, then train the dual-encoder rung, the embedding rung and a reranker; return what came out."""
    collection = open_collection(place, Path(cache))
    qrels = collection.qrels("train")
    rows = qrels.query_rows
    passages = np.array([(qrels.positives(query)[0] + np.arange(4) * 3) % 60 for query in rows], np.int32)
    candidates = Candidates(rows, passages, qrels.is_positive(rows[:, None], passages).astype(np.int32))

    def texts(encoder: Encoder) -> tuple[object, object]:
        return encoder.tokenise(collection.query_texts(), "query"), encoder.tokenise(
            collection.passage_texts(), "document"
        )

    def student(similarity: str = "cos") -> Encoder:
        return Encoder(build_student(model, 2, "first", None, similarity, 1, 48))

    stored.BLOCK = 16
    place_of_vectors = folder / "vectors"
    place_of_vectors.mkdir(exist_ok=True)
    distributed.barrier()
    teacher = Encoder.open(model)
    stored.write_vectors(teacher, collection, np.arange(collection.n_queries, dtype=np.int32), place_of_vectors)
    found = stored.Vectors.open(place_of_vectors)

    rung = student()
    # Candidates of one query or two may leave a process with one text only.
    terms = Terms(alpha=0.1, beta=0.9, tau=4)
    objective = StudentObjective(rung, *texts(rung), candidates, qrels, terms, Draw(2, 1), teacher=found)
    rung_log = train(objective, Optimiser(steps=5, batch=BATCH, lr=1e-3), _fresh(folder / "rung"), 3)

    narrow = stored.Vectors(found.passages[:, :16], found.queries[:, :16], found.query_rows, 20.0)
    space = student()
    embedding = EmbeddingObjective(space, *texts(space), narrow, rows.astype(np.int64), 1)
    weights = embedding.projection.weight
    embedding_log = train(embedding, Optimiser(steps=5, batch=BATCH, lr=1e-3, clip=0.05), _fresh(folder / "space"), 3)

    scorer = Reranker(build_cross_encoder(model, 2, 64, 1))
    tokens = scorer.tokenise(collection.query_texts()), scorer.tokenise(collection.passage_texts())
    reranking = RerankObjective(scorer, *tokens, candidates, Draw(4, 1))
    reranker_log = train(reranking, RerankTraining(steps=4, batch=BATCH, lr=1e-3), _fresh(folder / "reranker"), 3)

    halves, settings = Halves(), Optimiser(steps=3, batch=4, lr=0.1, weight_decay=0.5)
    train(halves, settings, _fresh(folder / "halves"), 3)

    run = BM25Index.build(collection).run(collection, rows, 20)
    mined, report = mine(run, qrels, collection, Mining(depth=20, near_duplicate=0.3), 5, 3)

    random = np.random.default_rng(0)
    sides = (random.standard_normal((n, 8)).astype(np.float32) for n in (300, BATCH))
    searched = retrieve(stored.Vectors(*sides, np.arange(BATCH, dtype=np.int32), 20.0), np.arange(BATCH)[::-1], 50)

    return {
        "bm25": run.passages.tolist(),
        "searched": searched.passages.tolist(),
        "similarities": searched.scores.ravel().tolist(),
        "mined": [mined.passages.tolist(), report.to_json()],
        "processes": distributed.world_size(),
        "gathered": distributed.gather_rows(torch.tensor([[float(distributed.rank())]])).tolist(),
        "shares": [part.tolist() for part in distributed.in_shares(5, lambda items: (items * 10, items[:, None] / 4))],
        "few": distributed.in_shares(1, lambda items: (items + 7,))[0].tolist(),
        "none": distributed.in_shares(0, lambda items: (items,))[0].tolist(),
        "vectors": found.passages[:, 0].tolist() + found.queries[:, 0].tolist(),
        "rung": rung_log.losses,
        "rung parts": rung_log.parts["soft"],
        "embedding": embedding_log.losses,
        "projection": weights.flatten().tolist(),
        "reranker": reranker_log.losses,
        "halves": {name: weight.tolist() for name, weight in halves.module.items()},
        # A key's bias changes no attention: its gradient is rounding noise, which AdamW makes into steps.
        "weights": [p.abs().sum().item() for name, p in rung.model.named_parameters() if "key.bias" not in name],
    }


def _fresh(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    distributed.barrier()
    return folder


if __name__ == "__main__":
    result = work(*sys.argv[1:4], Path(sys.argv[4]))
    if distributed.is_main():
        (Path(sys.argv[4]) / "found.json").write_text(json.dumps(result))
    distributed.barrier()
