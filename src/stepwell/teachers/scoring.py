"""Scoring the pairs that a store has not, block by block, shared by the processes; teachers that score this way."""

import itertools
import json
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray

from stepwell import distributed
from stepwell.collection import Collection
from stepwell.display import SILENT, Progress
from stepwell.errors import RunError
from stepwell.files import read_json, write_text
from stepwell.models.encoder import Encoder
from stepwell.models.files import model_kind
from stepwell.models.late_interaction import LateInteraction
from stepwell.models.reranker import Reranker
from stepwell.models.token_store import both_tokens
from stepwell.models.tokens import Tokens
from stepwell.teachers.protocol import Rows, Scores
from stepwell.teachers.store import ScoreStore

BLOCK = 2_048  # pairs a block: what an interrupted job loses at most, on each process

Model = Encoder | Reranker | LateInteraction
Places = NDArray[np.int64]
Scorer = Callable[[Rows, Rows, Progress], Scores]
"""Gives the logits (B,) of the pairs of query rows (B,) and passage rows (B,) of a collection, on this process."""

COUNTS = "pairs.json"  # in a stage's folder: the pairs of each request, and how many of them had to be scored
_requests: ContextVar[tuple[Path, Iterator[int]] | None] = ContextVar("stepwell_pair_requests", default=None)


def open_model(place: str, tokens: int) -> Model:
    """Open a model as it is, whose own files say its kind; a pair, or text of late interaction, has so many tokens."""
    kind = model_kind(place)
    if kind == "late-interaction":
        return LateInteraction.open(place, tokens, tokens)
    return Encoder.open(place) if kind == "dual-encoder" else Reranker.open(place, tokens)


def blocks(queries: Rows, passages: Rows, size: int = 0) -> Iterator[tuple[Rows, Rows]]:
    """Yield pairs (B,) in blocks (0: of :data:`BLOCK`), in order."""
    size = size or BLOCK
    for start in range(0, len(queries), size):
        yield queries[start : start + size], passages[start : start + size]


def block_scorer(model: Model, collection: Collection, mapped: bool = False) -> Scorer:
    """Return a model as what scores blocks of pairs; ``mapped``: by the tokens of the whole collection, which are kept.

    Else just the texts of a block are tokenised, for a few pairs of a large collection.
    """
    kept = both_tokens(collection, model) if mapped else None

    def score(queries: Rows, passages: Rows, progress: Progress) -> Scores:
        if kept is not None:
            return _logits(model, *kept, queries.astype(np.int64), passages.astype(np.int64), progress)
        query_rows, query_places = np.unique(queries, return_inverse=True)
        passage_rows, passage_places = np.unique(passages, return_inverse=True)
        texts = collection.query_texts(query_rows), collection.passage_texts(passage_rows)
        tokens = model.tokenise(texts[0], "query"), model.tokenise(texts[1], "document")
        return _logits(model, *tokens, query_places, passage_places, progress)

    return score


def _logits(
    model: Model, queries: Tokens, passages: Tokens, query_rows: Places, passage_rows: Places, progress: Progress
) -> Scores:
    """Return the logits of pairs (B,); a dual encoder's are similarities times its scale, each text embedded once."""
    if not isinstance(model, Encoder):
        return model.score(queries, passages, query_rows, passage_rows, progress)
    own, query_places = np.unique(query_rows, return_inverse=True)
    their, passage_places = np.unique(passage_rows, return_inverse=True)
    q, p = model.encode(queries, "query", own), model.encode(passages, "document", their)
    progress.advance(len(query_rows))
    scores: Scores = np.einsum("bd,bd->b", q[query_places], p[passage_places])  # (B,)
    return scores * np.float32(model.scale)


@contextmanager
def counting(folder: Path) -> Iterator[None]:
    """Keep the counts of what is asked meanwhile in ``pairs.json`` in a folder."""
    token = _requests.set((folder / COUNTS, itertools.count()))
    try:
        yield
    finally:
        _requests.reset(token)


def count(asked: int, scored: int) -> None:
    """Count a request of ``asked`` pairs of which ``scored`` had no score; nothing is counted outside of a stage."""
    if requests := _requests.get():
        place, number = requests
        counts = read_counts(place)  # after a kill, the same is asked again and found: the first counts stay
        if next(number) == len(counts) and distributed.is_main():
            write_text(place, json.dumps([*counts, (asked, scored)]))


def read_counts(place: Path) -> list[tuple[int, int]]:
    """Return the counts (asked, scored) in a file; none when there is no such file."""
    return [(int(asked), int(scored)) for asked, scored in read_json(place)] if place.is_file() else []


def missing(store: ScoreStore, queries: Rows, passages: Rows) -> tuple[Rows, Rows]:
    """Return, and count, the pairs without a score, each once: the same on every process, whoever adds meanwhile."""
    while True:
        todo = store.missing(queries, passages)
        mark = torch.tensor([zlib.crc32(np.concatenate(todo).tobytes())], device=distributed.state().device)
        if len(set(distributed.gather_rows(mark).tolist())) == 1:
            count(len(queries), len(todo[0]))
            return todo


class Named(NamedTuple):
    """What a teacher and its pairs are called where something is wrong with its scores."""

    teacher: str
    collection: Collection

    def refuse(self, queries: Rows, passages: Rows, scores: Scores) -> None:
        """Refuse scores (B,) of pairs (B,) of which one is no finite number."""
        wrong = np.flatnonzero(~np.isfinite(scores))
        if not len(wrong):
            return
        first = wrong[0]
        pair = self.collection.query_ids[int(queries[first])], self.collection.passage_ids[int(passages[first])]
        raise RunError(
            f"the teacher {self.teacher!r} gives no finite number for {len(wrong):,} of {len(scores):,} pairs, such as "
            f"{scores[first]} for the query {pair[0]!r} with the passage {pair[1]!r}, and what learns from that "
            "becomes NaN. Its weights are damaged or its training has diverged, or numbers overflow: score again with "
            "STEPWELL_PRECISION=fp32, or take another teacher. No such score is kept."
        )


def score_into(
    store: ScoreStore,
    scorer: Scorer,
    queries: Rows,
    passages: Rows,
    progress: Progress = SILENT,
    block: int = 0,
    named: Named | None = None,
) -> None:
    """Score pairs (B,), the same on every process, and add them to the store, ``block`` at a time.

    Each process scores every so-manieth block and the main one writes, so the scores are those of one process; another
    process sees them when it opens the store again. Scores that are no finite numbers are refused, by the names given.
    """
    block, world, rank = block or BLOCK, distributed.world_size(), distributed.rank()
    work = list(blocks(queries, passages, block))
    for start in range(0, len(work), world):
        now = work[start : start + world]
        scores, own = np.zeros(block, dtype=np.float32), 0
        if rank < len(now):
            own = len(now[rank][0])
            scores[:own] = scorer(*now[rank], progress)
        everyone = distributed.gather_rows(torch.from_numpy(scores).to(distributed.state().device)).cpu().numpy()
        q, p = (np.concatenate(rows) for rows in zip(*now, strict=True))
        if named is not None:
            named.refuse(q, p, everyone[: len(q)])
        if distributed.is_main():
            store.add(q, p, everyone[: len(q)])
        progress.advance(len(q) - own)
    distributed.barrier()


@dataclass(frozen=True)
class Stored:
    """A teacher whose score of a pair is paid for once, ever: what its store has not is scored and kept."""

    root: Path  # folder of all stores
    fingerprint: str  # the teacher's
    collection: str  # fingerprint of its texts
    scorer: Callable[[], Scorer]  # called when there is something to score
    block: int = 0  # pairs that are scored before they are kept: an interrupted job pays for these again; 0: BLOCK
    model: Model | None = None  # where it is one
    named: Named | None = None  # what it and its pairs are called

    @classmethod
    def of(cls, root: Path, model: Model, named: Named, mapped: bool = False) -> Self:
        """Return a model as such a teacher; see :func:`block_scorer`."""
        texts, scorer = named.collection.texts_fingerprint, partial(block_scorer, model, named.collection, mapped)
        return cls(root, model.fingerprint, texts, scorer, model=model, named=named)

    def store(self) -> ScoreStore:
        """Open the store."""
        return ScoreStore.open(self.root, self.fingerprint, self.collection)

    def fill(self, queries: Rows, passages: Rows, progress: Progress = SILENT) -> None:
        """Score pairs (B,) that the store has not (:func:`missing`) and keep them."""
        if len(queries):
            score_into(self.store(), self.scorer(), queries, passages, progress, self.block, self.named)

    def score(self, queries: Rows, candidates: Rows, progress: Progress = SILENT) -> Scores:
        """Return the logits of candidates (Q, K); see :meth:`stepwell.teachers.protocol.Teacher.score`."""
        filled = candidates >= 0
        query_rows = np.broadcast_to(queries[:, None], candidates.shape)
        todo = missing(self.store(), query_rows[filled], candidates[filled])
        if len(todo[0]):
            self.fill(*todo, progress.start(len(todo[0]), "pairs"))
        out = np.zeros(candidates.shape, dtype=np.float32)
        out[filled] = self.store().lookup(query_rows[filled], candidates[filled])
        if np.isnan(out).any():
            raise RunError("scores that were just written are not in the store; another program may have removed them.")
        return out
