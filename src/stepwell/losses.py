"""The losses of progressive distillation, as pure functions on score tensors.

Shapes: Q queries, K candidates a query, B texts, D dimensions. Scores are logits: a similarity times its scale,
or the raw output of a cross-encoder, never a probability. The loss of a batch is the mean over its queries.

Source: PROD (arXiv 2209.13335), equations 3 to 8 of its method section; the embedding loss is EmbedDistill's
(arXiv 2301.12005) and LEAF's (arXiv 2509.12539).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

_ABSENT = -1e9  # a logit whose softmax is exactly 0, and which (unlike -inf) makes no NaN


def hard_loss(scores: Tensor, positives: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return the cross-entropy of each positive against the negatives, the mean over positives, then queries.

    The other positives of a query are left out of a positive's softmax: they are no negatives. With one
    positive a query this is ``-log softmax(scores)[positive]``, the paper's L_h.

    Parameters
    ----------
    scores
        Student scores, shape (Q, K).
    positives
        True where the candidate answers the query, bool, shape (Q, K).
    mask
        False where there is no candidate (padding), bool, shape (Q, K).

    Returns
    -------
    Tensor
        Scalar; queries without a positive count nothing.

    Examples
    --------
    >>> scores = torch.tensor([[0.0, 0.0, 0.0]])
    >>> round(hard_loss(scores, torch.tensor([[True, False, False]])).item(), 4)  # log 3
    1.0986
    >>> round(hard_loss(scores, torch.tensor([[True, True, False]])).item(), 4)  # log 2: the other one is out
    0.6931
    """
    negatives = ~positives if mask is None else ~positives & mask
    if mask is not None:
        positives = positives & mask
    against = torch.logsumexp(scores.masked_fill(~negatives, _ABSENT), dim=1, keepdim=True)  # (Q, 1)
    each = functional.softplus(against - scores)  # (Q, K): -log(e^s / (e^s + sum of negatives))
    count = positives.sum(dim=1)
    of_query = (each * positives).sum(dim=1) / count.clamp(min=1)  # (Q,)
    return of_query.sum() / (count > 0).sum().clamp(min=1)


def soft_loss(student: Tensor, teacher: Tensor, tau: float = 1.0, mask: Tensor | None = None) -> Tensor:
    """Return ``tau^2 * KL(softmax(teacher / tau) || softmax(student / tau))``, the paper's L_s.

    With the scores of the frozen student as ``teacher`` it is the forgetting regulariser L_r (*keep*); with
    the scores of all passages of the batch as candidates it is the loss of the dual-encoder rung.

    Parameters
    ----------
    student, teacher
        Scores, shape (Q, K). No gradient flows to ``teacher``.
    tau
        Temperature.
    mask
        False where there is no candidate, bool, shape (Q, K).

    Examples
    --------
    >>> scores = torch.tensor([[1.0, 2.0, 3.0]])
    >>> abs(soft_loss(scores, scores + 5).item()) < 1e-6  # a softmax does not see a shift
    True
    >>> round(soft_loss(torch.zeros(1, 2), torch.tensor([[0.0, 1.0986123]])).item(), 4)  # 1/4, 3/4 against even
    0.1308
    """
    student, teacher = student / tau, teacher.detach() / tau
    if mask is not None:
        student, teacher = student.masked_fill(~mask, _ABSENT), teacher.masked_fill(~mask, _ABSENT)
    target = functional.softmax(teacher, dim=1)
    return tau**2 * functional.kl_div(functional.log_softmax(student, dim=1), target, reduction="batchmean")


def embedding_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the squared distance of normalised vectors, the mean over texts.

    It equals ``2 - 2 cos``: 0 for the same direction, 4 for the opposite one.

    Parameters
    ----------
    student, teacher
        Vectors, shape (B, D). No gradient flows to ``teacher``.

    Examples
    --------
    >>> embedding_loss(torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 7.0]])).item()
    2.0
    """
    difference = functional.normalize(student, dim=1) - functional.normalize(teacher.detach(), dim=1)
    return difference.square().sum(dim=1).mean()
