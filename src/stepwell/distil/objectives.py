"""What models are trained for: the data of a step, and the losses on it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from stepwell.collection import Qrels
from stepwell.distil.losses import (
    decoupled_loss,
    embedding_loss,
    hard_loss,
    larger_loss_target,
    list_net_loss,
    logit_loss,
    margin_loss,
    soft_cross_entropy,
    soft_loss,
)
from stepwell.distil.negatives import Candidates
from stepwell.models.encoder import Encoder
from stepwell.models.tokens import Tokens
from stepwell.recipe import Soft
from stepwell.retrieval.vectors import Vectors
from stepwell.teachers.protocol import PairModel

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Terms:
    """Weights of a student's loss; ``*_over`` says which passages a softmax runs over.

    ``candidates`` are the query's own K, ``batch`` all passages of the batch, over all processes.
    """

    alpha: float = 1.0
    beta: float = 0.0
    gamma: float = 0.0
    tau: float = 1.0
    over: str = "batch"
    keep_over: str = "candidates"
    beside: float = 0.0
    hold: float = 0.0
    soft: Soft = "kl"
    teacher_tau: float | None = None
    target: float = 1.0
    rest: float = 1.0

    @property
    def needs_positives(self) -> bool:
        """Whether any term asks which passages of the batch are positives; large batches pay for the answer."""
        return bool(self.alpha) or bool(self.beta and self.soft in ("margin-mse", "decoupled"))

    def soft_loss(self, student: Tensor, teacher: Tensor, positives: Tensor, mask: Tensor | None) -> Tensor:
        """Return how far the student's scores (Q, K) are from the teacher's, by the loss that ``soft`` names."""
        match self.soft:
            case "kl":
                return soft_loss(student, teacher, self.tau, mask, self.teacher_tau)
            case "cross-entropy":
                return soft_cross_entropy(student, teacher, self.tau, mask, self.teacher_tau)
            case "mse":
                return logit_loss(student, teacher, mask)
            case "margin-mse":
                return margin_loss(student, teacher, positives, mask)
            case "decoupled":
                return decoupled_loss(student, teacher, positives, self.tau, mask, self.target, self.rest)


@dataclass(frozen=True)
class Draw:
    """Which candidates a step uses: K of the M that a query has.

    Parameters
    ----------
    k
        Candidates a query.
    seed
        The draw of an epoch is a function of (seed, epoch, query); with M <= K all are used.
    """

    k: int
    seed: int

    def columns(self, candidates: Candidates, examples: Rows, epoch: int) -> Rows:
        """Return the columns (B, K) to use: positives first (at most half of K), then negatives."""
        width = candidates.passages.shape[1]
        if width <= self.k:
            return np.broadcast_to(np.arange(width), (len(examples), width))
        out = np.empty((len(examples), self.k), dtype=np.int64)
        for i, example in enumerate(examples):
            random = np.random.default_rng([self.seed, epoch, int(candidates.queries[example])])
            grades, filled = candidates.grades[example], candidates.passages[example] >= 0
            positives = random.permutation(np.flatnonzero(grades > 0))[: max(1, self.k // 2)]
            negatives = random.permutation(np.flatnonzero((grades <= 0) & filled))[: self.k - len(positives)]
            chosen = np.concatenate([positives, negatives])
            padding = np.flatnonzero(~filled)[: self.k - len(chosen)]
            rest = np.setdiff1d(np.arange(width), np.concatenate([chosen, padding]))
            out[i] = np.concatenate([chosen, padding, rest])[: self.k]
        return out


class StudentObjective:
    """Trains a dual encoder on its queries' candidates: contrastively, or from teachers, or both.

    One class for warm-up, in-batch rung, candidate rung and refine: they differ in ``terms`` and in which
    scores they are given. Every teacher score is looked up; no teacher runs here.

    Parameters
    ----------
    encoder
        What learns.
    queries, passages
        Tokens of all queries and passages of the collection; row = row of the collection.
    candidates
        M candidates of each training query.
    qrels
        All known positives: a passage that answers another query of the batch is no negative of that query.
    terms
        Weights.
    draw
        K of the M candidates, epoch by epoch.
    teacher_scores
        Logits of the candidates, shape (Q, M), for ``over="candidates"`` with beta > 0. Of several teachers
        (T, Q, M): for each query the one counts whose loss is larger.
    teacher
        Vectors of the teacher, for ``over="batch"`` with beta > 0.
    start
        Vectors of the student at the start of the rung, for gamma > 0.
    beside
        Vectors of another teacher, whose in-batch scores count with weight ``terms.beside``.
    hold
        Vectors that the student's stay near, with weight ``terms.hold``.
    """

    separable = False

    def __init__(
        self,
        encoder: Encoder,
        queries: Tokens,
        passages: Tokens,
        candidates: Candidates,
        qrels: Qrels,
        terms: Terms,
        draw: Draw,
        teacher_scores: NDArray[np.float32] | None = None,
        teacher: Vectors | None = None,
        start: Vectors | None = None,
        beside: Vectors | None = None,
        hold: Vectors | None = None,
    ) -> None:
        for name, vectors in (("gamma", start), ("beside", beside), ("hold", hold)):
            if getattr(terms, name) and vectors is None:
                raise ValueError(f"the term {name} has a weight and no vectors")
        self.encoder, self.queries, self.passages = encoder, queries, passages
        self.candidates, self.qrels, self.terms, self.draw = candidates, qrels, terms, draw
        self.teacher_scores, self.teacher, self.start = teacher_scores, teacher, start
        self.beside, self.hold = beside, hold

    @property
    def size(self) -> int:
        """Training queries."""
        return len(self.candidates.queries)

    @property
    def module(self) -> nn.Module:
        """The student."""
        return self.encoder.model

    def loss(self, examples: Rows, epoch: int) -> tuple[Tensor, dict[str, float]]:
        """Return alpha * hard + beta * soft + gamma * keep (+ beside + hold) of some queries."""
        terms = self.terms
        columns = self.draw.columns(self.candidates, examples, epoch)  # (B, K)
        query_rows = self.candidates.queries[examples]  # (B,)
        own = np.take_along_axis(self.candidates.passages[examples], columns, axis=1)  # (B, K)
        filled = own >= 0
        unique, places = np.unique(own[filled], return_inverse=True)  # (U,)
        place = np.zeros(own.shape, dtype=np.int64)
        place[filled] = places

        q = self.encoder.embed(self.queries, query_rows.astype(np.int64), "query")  # (B, D)
        p = self.encoder.embed(self.passages, unique.astype(np.int64), "document")  # (U, D)
        batch = self.encoder.scale * q @ p.T  # (B, U)
        device = batch.device
        index, mask = torch.from_numpy(place).to(device), torch.from_numpy(filled).to(device)

        def pick(scores: Tensor, over: str) -> tuple[Tensor, Tensor | None]:
            return (scores, None) if over == "batch" else (scores.gather(1, index), mask)

        def of(vectors: Vectors) -> Tensor:
            theirs = vectors.of_queries(query_rows) @ np.asarray(vectors.passages[unique]).T
            return torch.from_numpy(theirs * np.float32(vectors.scale)).to(device)  # (B, U)

        parts: dict[str, Tensor] = {}
        scores, valid = pick(batch, terms.over)
        positives = torch.zeros_like(scores, dtype=torch.bool)
        if terms.needs_positives:
            known = torch.from_numpy(self.qrels.is_positive(query_rows[:, None], unique[None, :])).to(device)  # (B, U)
            positives, _ = pick(known, terms.over)
        if terms.alpha:
            parts["hard"] = terms.alpha * hard_loss(scores, positives, valid)
        if terms.beta:
            target = self._teacher(examples, columns, of, device)
            if target.ndim == 3:
                target = self._larger(target, scores, positives, valid)
            parts["soft"] = terms.beta * terms.soft_loss(scores, target, positives, valid)
        if terms.gamma and self.start is not None:
            scores, valid = pick(batch, terms.keep_over)
            parts["keep"] = terms.gamma * soft_loss(scores, pick(of(self.start), terms.keep_over)[0], terms.tau, valid)
        if terms.beside and self.beside is not None:
            parts["beside"] = terms.beside * soft_loss(batch, of(self.beside), terms.tau)
        if terms.hold and self.hold is not None:
            near = np.concatenate([self.hold.of_queries(query_rows), self.hold.passages[unique]])
            parts["hold"] = terms.hold * embedding_loss(torch.cat([q, p]), torch.from_numpy(near).to(device))
        return torch.stack(list(parts.values())).sum(), {name: part.item() for name, part in parts.items()}

    def _teacher(self, examples: Rows, columns: Rows, of: object, device: torch.device) -> Tensor:
        if self.terms.over == "batch":
            assert self.teacher is not None and callable(of)
            scores: Tensor = of(self.teacher)
            return scores
        assert self.teacher_scores is not None
        theirs = self.teacher_scores[..., examples, :]
        picked = np.take_along_axis(theirs, np.broadcast_to(columns, (*theirs.shape[:-1], columns.shape[1])), axis=-1)
        return torch.from_numpy(picked).to(device)  # (B, K) or (T, B, K)

    def _larger(self, teachers: Tensor, scores: Tensor, positives: Tensor, valid: Tensor | None) -> Tensor:
        """Return of each query the scores of the teacher that the student is farther from: (B, K)."""

        def loss(query: int, theirs: Tensor) -> Tensor:
            own = slice(query, query + 1)
            return self.terms.soft_loss(scores[own], theirs, positives[own], None if valid is None else valid[own])

        return larger_loss_target(teachers, loss)


class RerankObjective:
    """Trains what scores pairs over its queries' candidates: on labels, or to imitate given scores.

    Parameters
    ----------
    reranker
        What learns: a cross-encoder, or late interaction.
    queries, passages
        Its tokens of all queries and passages of the collection.
    candidates
        K candidates of each training query.
    imitate
        Scores to imitate instead of learning the labels, shape (Q, K).
    graded
        Learn the grades (ListNet), and not only which candidates are positives.
    """

    separable = True

    def __init__(
        self,
        reranker: PairModel,
        queries: Tokens,
        passages: Tokens,
        candidates: Candidates,
        draw: Draw,
        imitate: NDArray[np.float32] | None = None,
        graded: bool = False,
    ) -> None:
        self.graded = graded
        self.reranker, self.queries, self.passages = reranker, queries, passages
        self.candidates, self.draw, self.imitate = candidates, draw, imitate

    @property
    def size(self) -> int:
        """Training queries."""
        return len(self.candidates.queries)

    @property
    def module(self) -> nn.Module:
        """The model."""
        return self.reranker.model

    def loss(self, examples: Rows, epoch: int) -> tuple[Tensor, dict[str, float]]:
        """Return the listwise cross-entropy, or the KL to the imitated scores, of some queries."""
        columns = self.draw.columns(self.candidates, examples, epoch)  # (B, K)
        own = np.take_along_axis(self.candidates.passages[examples], columns, axis=1)  # (B, K)
        filled = own >= 0
        query_rows = np.broadcast_to(self.candidates.queries[examples][:, None], own.shape)
        flat = self.reranker.logits(
            self.queries, self.passages, query_rows[filled].astype(np.int64), own[filled].astype(np.int64)
        )
        mask = torch.from_numpy(filled).to(flat.device)
        scores = torch.zeros(own.shape, device=flat.device).masked_scatter(mask, flat)  # (B, K)
        if self.imitate is not None:
            target = torch.from_numpy(np.take_along_axis(self.imitate[examples], columns, axis=1))
            loss = soft_loss(scores, target.to(flat.device), 1.0, mask)
            return loss, {"imitate": loss.item()}
        grades = np.take_along_axis(self.candidates.grades[examples], columns, axis=1)
        if self.graded:
            loss = list_net_loss(scores, torch.from_numpy(np.maximum(grades, 0)).to(flat.device), mask)
        else:
            loss = hard_loss(scores, torch.from_numpy((grades > 0) & filled).to(flat.device), mask)
        return loss, {"listwise": loss.item()}
