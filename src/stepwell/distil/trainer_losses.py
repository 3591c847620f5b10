"""The losses as sentence-transformers modules, for use in a SentenceTransformerTrainer of one's own.

They need nothing else of stepwell: ``forward`` embeds, ``compute_loss_from_embeddings`` is the pure part.
"""

from collections.abc import Iterable
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor, nn
from torch.nn import functional

from stepwell.distil.losses import embedding_loss, hard_loss, soft_loss

SCALES = {"cosine": 20.0, "dot": 1.0}
"""Factor from a similarity, as sentence-transformers names it, to a logit."""


def _scale(similarity: str, scale: float | None) -> float:
    if similarity not in SCALES:
        raise ValueError(
            f"the similarity is {similarity!r}, and these losses are of logits by {' or '.join(SCALES)}: set the "
            "model's `similarity_fn_name`, or `teacher_similarity`, to one of these."
        )
    return SCALES[similarity] if scale is None else scale


def _ready(vectors: Tensor, similarity: str) -> Tensor:
    """Return vectors (..., D) whose dot product is the similarity."""
    return functional.normalize(vectors, dim=-1) if similarity == "cosine" else vectors


class _OfEmbeddings(nn.Module):
    """A loss of the vectors of a data set's columns."""

    def __init__(self, model: SentenceTransformer) -> None:
        super().__init__()
        self.model, self.similarity = model, model.similarity_fn_name

    def forward(self, sentence_features: Iterable[dict[str, Tensor]], labels: Tensor) -> Tensor:
        """Embed the columns and return the loss."""
        embeddings = [self.model(features)["sentence_embedding"] for features in sentence_features]
        return self.compute_loss_from_embeddings(embeddings, labels)

    def compute_loss_from_embeddings(self, embeddings: list[Tensor], labels: Tensor) -> Tensor:
        """Return the loss of columns of vectors, each of shape (B, D)."""
        raise NotImplementedError


class DistillLoss(_OfEmbeddings):
    """alpha * hard + beta * soft + gamma * keep over each query's own candidates (PROD, the loss of its CE rungs).

    Columns of the data set: query, positive, negative_1, ..., negative_(K-1). Labels, shape (B, K): the
    teacher's logits; or (B, 2K): those, then the scores that the student gave at the start (needed when
    ``gamma`` > 0). With ``alpha = gamma = 0`` it equals sentence-transformers' ``DistillKLDivLoss``.

    The student scores by its own similarity (``similarity_fn_name``). Where that is cosine, vectors are normalised
    here, whether or not the model does it itself.

    Parameters
    ----------
    model
        The student; its similarity is cosine or the dot product.
    alpha, beta, gamma
        Weights of the hard loss, the soft loss and keep.
    tau
        Temperature of soft and keep.
    scale
        Factor from similarity to logit, for the student; 20 for cosine and 1 for the dot product when None.
    """

    def __init__(
        self,
        model: SentenceTransformer,
        alpha: float = 0.1,
        beta: float = 0.9,
        gamma: float = 0.0,
        tau: float = 1.0,
        scale: float | None = None,
    ) -> None:
        super().__init__(model)
        self.alpha, self.beta, self.gamma, self.tau = alpha, beta, gamma, tau
        self.scale = _scale(self.similarity, scale)

    def compute_loss_from_embeddings(self, embeddings: list[Tensor], labels: Tensor) -> Tensor:
        """Return the loss of a query column and K candidate columns, each of shape (B, D)."""
        columns = _ready(torch.stack(embeddings, dim=1), self.similarity)  # (B, K + 1, D)
        k = len(embeddings) - 1
        if k < 2:
            raise ValueError(
                "DistillLoss needs at least two candidate columns: a softmax over one candidate teaches nothing."
            )
        expected = (2 * k,) if self.gamma else (k, 2 * k)
        if labels.shape[1] not in expected:
            raise ValueError(
                f"DistillLoss got labels of shape {tuple(labels.shape)} for {k} candidate columns; it needs "
                f"(B, {k}) teacher scores, and as many scores of the student at the start beside them for gamma > 0."
            )
        scores = self.scale * torch.einsum("bd,bkd->bk", columns[:, 0], columns[:, 1:])  # (B, K)
        positives = (torch.arange(k, device=scores.device) == 0).expand_as(scores)
        loss = self.beta * soft_loss(scores, labels[:, :k], self.tau)
        if self.alpha:
            loss = loss + self.alpha * hard_loss(scores, positives)
        if self.gamma:
            loss = loss + self.gamma * soft_loss(scores, labels[:, k:], self.tau)
        return loss

    def get_config_dict(self) -> dict[str, Any]:
        """Return the settings, for the model card."""
        return {key: getattr(self, key) for key in ("alpha", "beta", "gamma", "tau", "scale")}


class InBatchDistillLoss(_OfEmbeddings):
    """KL between the softmaxes over all passages of the batch, teacher and student (PROD, its dual-encoder rung).

    Columns of the data set: query, positive, and negative_1, ... if there are any. Labels, shape (B, C, D_teacher): the
    teacher's vectors of the C columns, in their order, as its ``encode`` gives them; D_teacher may be another width
    than the student's. On several devices each has the softmax over its own batch.

    Parameters
    ----------
    model
        The student; its similarity is cosine or the dot product.
    tau
        Temperature.
    scale
        Factor from the student's similarity to a logit; 20 for cosine and 1 for the dot product when None.
    teacher_similarity
        The teacher's ``similarity_fn_name``: "cosine" or "dot".
    teacher_scale
        The same factor, for the teacher.

    Examples
    --------
    >>> model = SentenceTransformer(modules=[nn.Identity()], similarity_fn_name="dot")
    >>> loss = InBatchDistillLoss(model, teacher_similarity="dot")
    >>> queries, passages = torch.zeros(2, 3), torch.zeros(2, 3)  # an even softmax for each query
    >>> labels = torch.tensor([[[1.0986123], [1.0]], [[1.0986123], [0.0]]])  # 3/4 and 1/4 for each query
    >>> round(loss.compute_loss_from_embeddings([queries, passages], labels).item(), 4)
    0.1308
    """

    def __init__(
        self,
        model: SentenceTransformer,
        tau: float = 1.0,
        scale: float | None = None,
        teacher_similarity: str = "cosine",
        teacher_scale: float | None = None,
    ) -> None:
        super().__init__(model)
        self.tau, self.teacher_similarity = tau, teacher_similarity
        self.scale, self.teacher_scale = _scale(self.similarity, scale), _scale(teacher_similarity, teacher_scale)

    def compute_loss_from_embeddings(self, embeddings: list[Tensor], labels: Tensor) -> Tensor:
        """Return the loss of a query column and one or more passage columns, each of shape (B, D)."""
        columns = torch.stack(embeddings, dim=1)  # (B, C, D)
        if labels.ndim != 3 or labels.shape[:2] != columns.shape[:2] or columns.shape[1] < 2:
            b, c = columns.shape[:2]
            raise ValueError(
                f"InBatchDistillLoss got labels of shape {tuple(labels.shape)} for {b} rows of {c} columns; it needs a "
                f"query, one or more passages, and the teacher's vector of each: ({b}, {c}, D_teacher)."
            )
        student = self.scale * _in_batch(columns, self.similarity)  # (B, B * (C - 1))
        teacher = self.teacher_scale * _in_batch(labels, self.teacher_similarity)  # (B, B * (C - 1))
        return soft_loss(student, teacher, self.tau)

    def get_config_dict(self) -> dict[str, Any]:
        """Return the settings, for the model card."""
        return {key: getattr(self, key) for key in ("tau", "scale", "teacher_similarity", "teacher_scale")}


def _in_batch(columns: Tensor, similarity: str) -> Tensor:
    """Return the similarities of each query with all passages of the batch: (B, C, D) to (B, B * (C - 1))."""
    columns = _ready(columns, similarity)
    return columns[:, 0] @ columns[:, 1:].flatten(0, 1).T


class EmbeddingDistillLoss(_OfEmbeddings):
    """Squared distance of the student's vectors to a teacher's (the embedding rung).

    Where the student's similarity is the dot product, of the vectors as they are; else of both normalised.

    One text column; labels are the teacher's vectors, shape (B, D_teacher). ``projection`` maps student
    vectors to the teacher's width where the two differ; it is not part of the saved model.
    """

    def __init__(self, model: SentenceTransformer, teacher_dimension: int | None = None) -> None:
        super().__init__(model)
        own = model.get_embedding_dimension()
        self.projection: nn.Module = nn.Identity()
        if own is not None and teacher_dimension not in (None, own):
            self.projection = nn.Linear(own, teacher_dimension or own, bias=False)

    def compute_loss_from_embeddings(self, embeddings: list[Tensor], labels: Tensor) -> Tensor:
        """Return the loss of one column of vectors, shape (B, D)."""
        return embedding_loss(self.projection(embeddings[0]), labels, self.similarity != "dot")
