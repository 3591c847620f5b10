"""What models are trained for: the data of a step, and the losses on it.

B examples a step, K candidates a query, U different passages in the batch, D dimensions.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from stepwell import distributed
from stepwell.collection import Qrels
from stepwell.distil import losses
from stepwell.distil.candidates import Candidates, Draw
from stepwell.models.encoder import Encoder
from stepwell.models.late_interaction import LateInteraction
from stepwell.models.reranker import Reranker
from stepwell.models.tokens import Rows, Side, Tokens
from stepwell.recipe import Soft, Together
from stepwell.retrieval.vectors import Vectors


@dataclass(frozen=True)
class Terms:
    """Weights of a student's loss."""

    alpha: float = 1.0  # hard: the labels
    beta: float = 0.0  # soft: the teacher
    gamma: float = 0.0  # keep: the student at the start of the rung, so that nothing is forgotten
    tau: float = 1.0
    over: str = "batch"  # what its softmax runs over: all passages of the batch, over all processes
    keep_over: str = "candidates"  # or the query's own K
    beside: float = 0.0  # the in-batch scores of another teacher
    hold: float = 0.0  # vectors that the student's stay near
    soft: Soft = "kl"
    teacher_tau: float | None = None
    target: float = 1.0
    rest: float = 1.0

    @property
    def softening(self) -> float:
        """The temperature of the teacher's side of the soft loss."""
        return self.tau if self.teacher_tau is None or self.soft == "decoupled" else self.teacher_tau

    def soft_loss(self, student: Tensor, teacher: Tensor, positives: Tensor, mask: Tensor | None) -> Tensor:
        """Return how far the student's scores (Q, K) are from the teacher's, by the loss that ``soft`` names."""
        return losses.SOFT[self.soft](student, teacher, positives, mask, self)


@dataclass
class StudentObjective:
    """Trains a dual encoder on its queries' candidates: contrastively, or from teachers, or both.

    One class for warm-up, in-batch rung, candidate rung and refine: they differ in ``terms`` and in which
    scores they are given. Every teacher score is looked up; no teacher runs here.
    """

    encoder: Encoder  # what learns
    queries: Tokens  # of all queries of the collection
    passages: Tokens  # of all passages
    candidates: Candidates
    qrels: Qrels  # a passage that answers another query of the batch is no negative of that query
    terms: Terms
    draw: Draw  # K of the M candidates, epoch by epoch
    # Logits of the candidates (Q, M), for beta over candidates; of several teachers (T, Q, M), put together as said.
    teacher_scores: NDArray[np.float32] | None = None
    together: Together | None = None
    teacher: Vectors | None = None  # for beta over the batch
    start: Vectors | None = None  # of the student at the start of the rung, for gamma
    beside: Vectors | None = None
    hold: Vectors | None = None

    separable = False

    def __post_init__(self) -> None:
        self.size, self.module = len(self.candidates), self.encoder.model
        for name, vectors in (("gamma", self.start), ("beside", self.beside), ("hold", self.hold)):
            if getattr(self.terms, name) and vectors is None:
                raise ValueError(f"the term {name} has a weight and no vectors")

    def loss(self, examples: Rows, epoch: int) -> tuple[Tensor, dict[str, float]]:
        """Return alpha * hard + beta * soft + gamma * keep (+ beside + hold) of some queries."""
        terms = self.terms
        columns = self.draw.columns(self.candidates, examples, epoch)  # (B, K)
        queries = self.candidates.queries[examples]  # (B,)
        own = np.take_along_axis(self.candidates.passages[examples], columns, axis=1)  # (B, K)
        filled = own >= 0
        passages, places = np.unique(own[filled], return_inverse=True)  # (U,)
        place = np.zeros(own.shape, dtype=np.int64)  # of each candidate among the U
        place[filled] = places

        q = self.encoder.embed(self.queries, queries.astype(np.int64), "query")  # (B, D)
        p = self.encoder.embed(self.passages, passages.astype(np.int64), "document")  # (U, D)
        in_batch = self.encoder.scale * q @ p.T  # (B, U)
        device = in_batch.device
        index, mask = torch.from_numpy(place).to(device), torch.from_numpy(filled).to(device)

        def over(which: str, scores: Tensor) -> Tensor:
            return scores if which == "batch" else scores.gather(1, index)  # (B, U) or (B, K)

        def scores_of(vectors: Vectors | None) -> Tensor:
            assert vectors is not None
            theirs = vectors.of_queries(queries) @ np.asarray(vectors.passages[passages]).T
            return torch.from_numpy(theirs * np.float32(vectors.scale)).to(device)  # (B, U)

        valid = {"batch": None, "candidates": mask}
        scores = over(terms.over, in_batch)
        positives = torch.zeros_like(scores, dtype=torch.bool)
        if terms.alpha or (terms.beta and terms.soft in losses.TELLS_SIDES):  # large batches pay for it
            known = self.qrels.is_positive(queries[:, None], passages[None, :])  # (B, U)
            positives = over(terms.over, torch.from_numpy(known).to(device))
        parts: dict[str, Tensor] = {}
        if terms.alpha:
            parts["hard"] = terms.alpha * losses.hard_loss(scores, positives, valid[terms.over])
        if terms.beta:
            if terms.over == "batch":
                target = scores_of(self.teacher)
            else:
                target = self._given(examples, columns, scores, positives, mask)
            parts["soft"] = terms.beta * terms.soft_loss(scores, target, positives, valid[terms.over])
        if terms.gamma:
            ours, before = over(terms.keep_over, in_batch), over(terms.keep_over, scores_of(self.start))
            parts["keep"] = terms.gamma * losses.soft_loss(ours, before, terms.tau, valid[terms.keep_over])
        if terms.beside:
            parts["beside"] = terms.beside * losses.soft_loss(in_batch, scores_of(self.beside), terms.tau)
        if terms.hold and self.hold is not None:
            near = np.concatenate([self.hold.of_queries(queries), self.hold.passages[passages]])  # (B + U, D)
            held = torch.from_numpy(near).to(device)
            parts["hold"] = terms.hold * losses.embedding_loss(torch.cat([q, p]), held, self.encoder.cosine)
        return torch.stack(list(parts.values())).sum(), {name: part.item() for name, part in parts.items()}

    def _given(self, examples: Rows, columns: Rows, scores: Tensor, positives: Tensor, mask: Tensor) -> Tensor:
        """Return the teacher's scores of the drawn candidates (B, K); of several, put together."""
        assert self.teacher_scores is not None
        theirs = self.teacher_scores[..., examples, :]  # (B, M) or (T, B, M)
        columns = np.broadcast_to(columns, (*theirs.shape[:-1], columns.shape[1]))
        target = torch.from_numpy(np.take_along_axis(theirs, columns, axis=-1)).to(scores.device)
        if target.ndim == 2:
            return target

        def loss(query: int, one: Tensor) -> Tensor:
            own = slice(query, query + 1)
            return self.terms.soft_loss(scores[own], one, positives[own], mask[own])

        match self.together:
            case "mean of softmaxes":
                return losses.mean_softmax_target(target, self.terms.softening, mask)
            case "larger of a batch":
                whole = partial(self.terms.soft_loss, scores, positives=positives, mask=mask)
                return losses.larger_batch_target(target, lambda theirs: whole(teacher=theirs))
        return losses.larger_loss_target(target, loss)


@dataclass
class RerankObjective:
    """Trains what scores pairs over its queries' candidates: on labels, or to imitate given scores."""

    reranker: Reranker | LateInteraction  # what learns
    queries: Tokens  # its tokens of all queries of the collection
    passages: Tokens
    candidates: Candidates
    draw: Draw
    imitate: NDArray[np.float32] | None = None  # scores (Q, K) to imitate instead of learning the labels
    graded: bool = False  # learn the grades (ListNet), and not only which candidates are positives

    separable = True

    def __post_init__(self) -> None:
        self.size, self.module = len(self.candidates), self.reranker.model

    def loss(self, examples: Rows, epoch: int) -> tuple[Tensor, dict[str, float]]:
        """Return the listwise cross-entropy, or the KL to the imitated scores, of some queries."""
        columns = self.draw.columns(self.candidates, examples, epoch)  # (B, K)
        passages = np.take_along_axis(self.candidates.passages[examples], columns, axis=1)  # (B, K)
        queries = np.broadcast_to(self.candidates.queries[examples][:, None], passages.shape)
        filled = passages >= 0
        pairs = queries[filled].astype(np.int64), passages[filled].astype(np.int64)
        flat = self.reranker.logits(self.queries, self.passages, *pairs)
        mask = torch.from_numpy(filled).to(flat.device)
        scores = torch.zeros(passages.shape, device=flat.device).masked_scatter(mask, flat)  # (B, K)
        if self.imitate is not None:
            target = torch.from_numpy(np.take_along_axis(self.imitate[examples], columns, axis=1))
            loss = losses.soft_loss(scores, target.to(flat.device), 1.0, mask)
            return loss, {"imitate": loss.item()}
        grades = np.take_along_axis(self.candidates.grades[examples], columns, axis=1)
        if self.graded:
            loss = losses.list_net_loss(scores, torch.from_numpy(np.maximum(grades, 0)).to(flat.device), mask)
        else:
            loss = losses.hard_loss(scores, torch.from_numpy((grades > 0) & filled).to(flat.device), mask)
        return loss, {"listwise": loss.item()}


class Imitated(NamedTuple):
    """Texts of one side whose vectors the student imitates."""

    side: Side  # as what both models embed them
    tokens: Tokens  # the student's
    rows: Rows  # those that take part (R,)
    targets: Callable[[Rows], NDArray[np.float32]]  # from rows (B,) to the teacher's vectors of them (B, D)


class EmbeddingObjective:
    """Pulls the student's vectors of all passages and training queries to a teacher's (the embedding rung; no labels).

    Directions alone for a student that is compared by cosine, lengths too for one that is by the dot product.

    Examples are passages, then the queries ``rows`` (those of training, since dev and test must stay unseen), then
    ``more`` texts from elsewhere. ``seed`` initialises the projection, which exists only where the widths differ and is
    thrown away after.
    """

    separable = False

    def __init__(
        self,
        encoder: Encoder,
        queries: Tokens,
        passages: Tokens,
        teacher: Vectors,
        rows: Rows,
        seed: int,
        more: Sequence[Imitated] = (),
    ) -> None:
        self.encoder = encoder
        self.parts = (
            Imitated("document", passages, np.arange(len(passages)), lambda rows: np.asarray(teacher.passages[rows])),
            Imitated("query", queries, rows, lambda rows: teacher.of_queries(rows.astype(np.int32))),
            *more,
        )
        self._ends = np.cumsum([len(part.rows) for part in self.parts])
        self.size = int(self._ends[-1])
        width = int(teacher.passages.shape[1])
        self.projection: nn.Module = nn.Identity()
        if width != encoder.dimension:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                self.projection = nn.Linear(encoder.dimension, width, bias=False)
        self.projection.to(distributed.state().device)
        for parameter in self.projection.parameters():  # every process projects the whole batch
            hooked: Any = parameter
            hooked.register_hook(lambda gradient: gradient / distributed.world_size())
        self.module = nn.ModuleDict({"student": encoder.model, "projection": self.projection})

    def loss(self, examples: Rows, epoch: int) -> tuple[Tensor, dict[str, float]]:
        """Return the mean squared distance of some texts' vectors."""
        vectors, targets = [], []
        home = np.searchsorted(self._ends, examples, side="right")  # (B,): the part that each example is of
        for number, part in enumerate(self.parts):
            rows = part.rows[examples[home == number] - (self._ends[number] - len(part.rows))]
            if len(rows):
                vectors.append(self.encoder.embed(part.tokens, rows, part.side))
                targets.append(part.targets(rows))
        student = self.projection(torch.cat(vectors))
        target = torch.from_numpy(np.concatenate(targets)).to(student.device)
        loss = losses.embedding_loss(student, target, self.encoder.cosine)
        return loss, {"distance": loss.item()}
