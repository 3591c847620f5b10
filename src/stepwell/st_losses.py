"""The losses as sentence-transformers modules, for use in a SentenceTransformerTrainer of one's own.

They need nothing else of stepwell: ``forward`` embeds, ``compute_loss_from_embeddings`` is the pure part.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor, nn

from stepwell.losses import embedding_loss, hard_loss, soft_loss


class DistillLoss(nn.Module):
    """alpha * hard + beta * soft + gamma * keep over each query's own candidates (PROD, the loss of its CE rungs).

    Columns of the data set: query, positive, negative_1, ..., negative_(K-1). Labels, shape (B, K): the
    teacher's logits; or (B, 2K): those, then the scores that the student gave at the start (needed when
    ``gamma`` > 0). With ``alpha = gamma = 0`` it equals sentence-transformers' ``DistillKLDivLoss``.

    Parameters
    ----------
    model
        The student.
    alpha, beta, gamma
        Weights of the hard loss, the soft loss and keep.
    tau
        Temperature of soft and keep.
    scale
        Factor from similarity to logit, for the student: 20 for cosine, 1 for dot product.
    """

    def __init__(
        self,
        model: SentenceTransformer,
        alpha: float = 0.1,
        beta: float = 0.9,
        gamma: float = 0.0,
        tau: float = 1.0,
        scale: float = 20.0,
    ) -> None:
        super().__init__()
        self.model = model
        self.alpha, self.beta, self.gamma, self.tau, self.scale = alpha, beta, gamma, tau, scale

    def forward(self, sentence_features: Iterable[dict[str, Tensor]], labels: Tensor) -> Tensor:
        """Embed the columns and return the loss."""
        embeddings = [self.model(features)["sentence_embedding"] for features in sentence_features]
        return self.compute_loss_from_embeddings(embeddings, labels)

    def compute_loss_from_embeddings(self, embeddings: list[Tensor], labels: Tensor) -> Tensor:
        """Return the loss of a query column and K candidate columns, each of shape (B, D)."""
        query, candidates = embeddings[0], torch.stack(embeddings[1:], dim=1)  # (B, D), (B, K, D)
        k = candidates.shape[1]
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
        scores = self.scale * torch.einsum("bd,bkd->bk", query, candidates)  # (B, K)
        positives = torch.zeros_like(scores, dtype=torch.bool)
        positives[:, 0] = True
        loss = self.beta * soft_loss(scores, labels[:, :k], self.tau)
        if self.alpha:
            loss = loss + self.alpha * hard_loss(scores, positives)
        if self.gamma:
            loss = loss + self.gamma * soft_loss(scores, labels[:, k:], self.tau)
        return loss

    def get_config_dict(self) -> dict[str, Any]:
        """Return the settings, for the model card."""
        return {key: getattr(self, key) for key in ("alpha", "beta", "gamma", "tau", "scale")}


class EmbeddingDistillLoss(nn.Module):
    """Squared distance of the student's normalised vectors to a teacher's (the embedding rung).

    One text column; labels are the teacher's vectors, shape (B, D_teacher). ``projection`` maps student
    vectors to the teacher's width where the two differ; it is not part of the saved model.
    """

    def __init__(self, model: SentenceTransformer, teacher_dimension: int | None = None) -> None:
        super().__init__()
        self.model = model
        own = model.get_embedding_dimension()
        self.projection: nn.Module = nn.Identity()
        if own is not None and teacher_dimension not in (None, own):
            self.projection = nn.Linear(own, teacher_dimension or own, bias=False)

    def forward(self, sentence_features: Iterable[dict[str, Tensor]], labels: Tensor) -> Tensor:
        """Embed the column and return the loss."""
        embeddings = [self.model(features)["sentence_embedding"] for features in sentence_features]
        return self.compute_loss_from_embeddings(embeddings, labels)

    def compute_loss_from_embeddings(self, embeddings: list[Tensor], labels: Tensor) -> Tensor:
        """Return the loss of one column of vectors, shape (B, D)."""
        return embedding_loss(self.projection(embeddings[0]), labels)
