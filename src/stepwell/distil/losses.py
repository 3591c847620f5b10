"""The losses of progressive distillation, as pure functions on score tensors.

Shapes: Q queries, K candidates a query, B texts, D dimensions. Scores (Q, K) are logits: a similarity times its scale,
or the raw output of a cross-encoder, never a probability. ``positives`` (Q, K) is True where the candidate answers the
query, ``mask`` (Q, K) False where there is no candidate. The loss of a batch, a scalar, is the mean over its queries;
no gradient flows to the ``teacher``. ``tau`` is the temperature of both softmaxes, ``teacher_tau`` the teacher's where
it differs; the factor in front is then ``tau * teacher_tau``. The cross-entropy alone leaves the student's as it is.

Source: PROD (arXiv 2209.13335), equations 3 to 8 of its method section; the embedding loss is EmbedDistill's
(arXiv 2301.12005) and LEAF's (arXiv 2509.12539).
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

_ABSENT = -1e9  # a logit whose softmax is exactly 0, and which (unlike -inf) makes no NaN


def hard_loss(scores: Tensor, positives: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return the cross-entropy of each positive against the negatives, the mean over positives, then queries.

    The other positives of a query are left out of a positive's softmax: they are no negatives. With one
    positive a query this is ``-log softmax(scores)[positive]``, the paper's L_h. Queries without one count nothing.

    Examples
    --------
    >>> scores = torch.tensor([[0.0, 0.0, 0.0]])
    >>> round(hard_loss(scores, torch.tensor([[True, False, False]])).item(), 4)  # log 3
    1.0986
    >>> round(hard_loss(scores, torch.tensor([[True, True, False]])).item(), 4)  # log 2: the other one is out
    0.6931
    """
    positives, negatives = _sides(positives, mask)
    against = torch.logsumexp(scores.masked_fill(~negatives, _ABSENT), dim=1, keepdim=True)  # (Q, 1)
    each = functional.softplus(against - scores)  # (Q, K): -log(e^s / (e^s + sum of negatives))
    count = positives.sum(dim=1)
    of_query = (each * positives).sum(dim=1) / count.clamp(min=1)  # (Q,)
    return of_query.sum() / (count > 0).sum().clamp(min=1)


def _sides(positives: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return which candidates are positives and which are negatives, (Q, K) each."""
    return (positives, ~positives) if mask is None else (positives & mask, ~positives & mask)


def soft_loss(
    student: Tensor, teacher: Tensor, tau: float = 1.0, mask: Tensor | None = None, teacher_tau: float | None = None
) -> Tensor:
    """Return ``tau^2 * KL(softmax(teacher / tau) || softmax(student / tau))``, the paper's L_s.

    With the scores of the frozen student as ``teacher`` it is the forgetting regulariser L_r (*keep*); with
    the scores of all passages of the batch as candidates it is the loss of the dual-encoder rung.

    Examples
    --------
    >>> scores = torch.tensor([[1.0, 2.0, 3.0]])
    >>> abs(soft_loss(scores, scores + 5).item()) < 1e-6  # a softmax does not see a shift
    True
    >>> round(soft_loss(torch.zeros(1, 2), torch.tensor([[0.0, 1.0986123]])).item(), 4)  # 1/4, 3/4 against even
    0.1308
    """
    theirs = tau if teacher_tau is None else teacher_tau
    guess, target = _log_softmax(student / tau, mask), _log_softmax(teacher.detach() / theirs, mask).exp()
    return tau * theirs * functional.kl_div(guess, target, reduction="batchmean")


def soft_cross_entropy(student: Tensor, teacher: Tensor, tau: float = 1.0, mask: Tensor | None = None) -> Tensor:
    """Return ``-sum softmax(teacher / tau) log softmax(student)``, the mean over queries.

    Only the teacher is softened, by ``tau``, and there is no factor in front: the student's scores are pulled to the
    teacher's divided by tau. The value is not 0 at its best, but the entropy of the softened teacher. Source: an option
    of PROD's code.

    Examples
    --------
    >>> round(soft_cross_entropy(torch.zeros(1, 2), torch.tensor([[0.0, 1.0986123]])).item(), 4)  # log 2
    0.6931
    >>> student, teacher = torch.tensor([[0.0, 1.0986123]]), torch.tensor([[0.0, 2.1972246]])
    >>> round(soft_cross_entropy(student, teacher, tau=2.0).item(), 4)  # the entropy of 1/4, 3/4: it is there
    0.5623
    """
    target = _log_softmax(teacher.detach() / tau, mask).exp()
    return -(target * _log_softmax(student, mask)).sum(dim=1).mean()


def _log_softmax(scores: Tensor, mask: Tensor | None) -> Tensor:
    """Return log-probabilities (Q, K); where there is no candidate, those of exactly 0."""
    return functional.log_softmax(scores if mask is None else scores.masked_fill(~mask, _ABSENT), dim=1)


def logit_loss(student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return half the squared difference of the logits, the mean over all candidates.

    It asks the student for the teacher's very scores, shift and scale included. Source: an option of PROD's code.

    Examples
    --------
    >>> logit_loss(torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 2.0]])).item()  # (4 + 0) / 2 / 2
    1.0
    """
    squares = 0.5 * (student - teacher.detach()).square()
    return squares.mean() if mask is None else squares[mask].sum() / mask.sum().clamp(min=1)


def margin_loss(student: Tensor, teacher: Tensor, positives: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return MarginMSE: the squared difference of the margins (positive minus negative), the mean over pairs.

    With g = student - teacher it is the sum of ``(g[p] - g[n])^2`` over a query's positives p and negatives n: by the
    means and squared deviations of both sides, so that pairs are never written out, however many candidates a batch
    has. Source: Hofstätter et al. 2020 (arXiv 2010.02666).

    Examples
    --------
    >>> student, teacher = torch.tensor([[3.0, 1.0, 0.0]]), torch.tensor([[5.0, 1.0, 2.0]])
    >>> margin_loss(student, teacher, torch.tensor([[True, False, False]])).item()  # (2 - 4)^2 and (3 - 3)^2
    2.0
    """
    gap, means, deviations, counts = student - teacher.detach(), [], [], []
    for side in _sides(positives, mask):
        own = gap.masked_fill(~side, 0.0)  # (Q, K)
        count = side.sum(dim=1)  # (Q,)
        mean = own.sum(dim=1) / count.clamp(min=1)
        means.append(mean)
        deviations.append((own - mean[:, None]).masked_fill(~side, 0.0).square().sum(dim=1))
        counts.append(count)
    pairs = counts[0] * counts[1]
    squares = counts[1] * deviations[0] + counts[0] * deviations[1] + pairs * (means[0] - means[1]).square()
    return squares.sum() / pairs.sum().clamp(min=1)


def decoupled_loss(
    student: Tensor,
    teacher: Tensor,
    positives: Tensor,
    tau: float = 1.0,
    mask: Tensor | None = None,
    target: float = 1.0,
    rest: float = 1.0,
) -> Tensor:
    """Return decoupled KD: how much goes to the positives, and how the rest is spread, each with its own weight.

    ``tau^2 * (target * KL(b_t || b_s) + rest * KL(r_t || r_s))``, where b is the mass on the positives against the
    mass on the negatives, and r the softmax over the negatives alone. :func:`soft_loss` with one positive is the same
    with ``rest`` equal to the teacher's mass on the negatives. Source: Zhao et al. 2022 (arXiv 2203.08679), whose alpha
    and beta are ``target`` and ``rest``.

    Examples
    --------
    >>> student, teacher = torch.zeros(1, 3), torch.tensor([[0.6931472, 0.0, 0.0]])  # 1/2, 1/4, 1/4
    >>> positives = torch.tensor([[True, False, False]])
    >>> round(decoupled_loss(student, teacher, positives).item(), 4)  # KL(1/2, 1/2 || 1/3, 2/3); the rest is even
    0.0589
    """
    sides = _sides(positives, mask)

    def masses(scores: Tensor) -> Tensor:
        each = [torch.logsumexp(scores.masked_fill(~side, _ABSENT), dim=1) for side in sides]
        return functional.log_softmax(torch.stack(each, dim=1), dim=1)  # (Q, 2)

    ours, theirs = student / tau, teacher.detach() / tau
    both = functional.kl_div(masses(ours), masses(theirs), reduction="batchmean", log_target=True)
    return tau**2 * (target * both + rest * soft_loss(ours, theirs, 1.0, sides[1]))


def larger_loss_target(teachers: Tensor, loss: Callable[[int, Tensor], Tensor]) -> Tensor:
    """Return the scores of the teacher whose loss on the query is larger, query by query: (Q, K).

    ``teachers`` (T, Q, K); ``loss`` gives that of one query, by its number, against scores (1, K). The loss against the
    result is the mean over queries of the larger of the teachers' losses, with its gradient. PROD's code chooses for a
    whole batch (:func:`larger_batch_target`).

    Examples
    --------
    >>> student = torch.tensor([[0.0, 0.0], [2.0, 0.0]])
    >>> teachers = torch.stack([torch.tensor([[0.0, 0.0], [0.0, 0.0]]), torch.tensor([[1.0, 0.0], [2.0, 0.0]])])
    >>> larger_loss_target(teachers, lambda q, theirs: soft_loss(student[q : q + 1], theirs)).tolist()
    [[1.0, 0.0], [0.0, 0.0]]
    """
    with torch.no_grad():
        rows = range(teachers.shape[1])
        each = torch.stack([torch.stack([loss(q, table[q : q + 1]) for q in rows]) for table in teachers])  # (T, Q)
        return teachers[each.argmax(dim=0), torch.arange(teachers.shape[1], device=teachers.device)]


def larger_batch_target(teachers: Tensor, loss: Callable[[Tensor], Tensor]) -> Tensor:
    """Return the scores (Q, K) of the teacher whose loss on the whole batch is larger; of equal ones the first's.

    ``teachers`` (T, Q, K); ``loss`` gives that of the batch against scores (Q, K). Whatever else a batch's loss is made
    of is the same for all teachers, so the larger soft loss is the larger of all. Source: an option of PROD's code for
    several teachers at once.

    Examples
    --------
    >>> student, far, near = torch.zeros(2, 2), torch.tensor([[9.0, 0.0], [0.0, 0.0]]), torch.ones(2, 2)
    >>> larger_batch_target(torch.stack([near, far]), lambda theirs: soft_loss(student, theirs)).tolist()
    [[9.0, 0.0], [0.0, 0.0]]
    """
    with torch.no_grad():
        return teachers[torch.stack([loss(table) for table in teachers]).argmax()]


def mean_softmax_target(teachers: Tensor, tau: float = 1.0, mask: Tensor | None = None) -> Tensor:
    """Return scores (Q, K) whose softmax at ``tau`` is the mean of the teachers' softmaxes at ``tau``.

    ``teachers`` (T, Q, K). Source: the multi-teacher baseline of PROD's code.

    Examples
    --------
    >>> teachers = torch.tensor([[[1.0986123, 0.0]], [[0.0, 0.0]]])  # 3/4, 1/4 and 1/2, 1/2
    >>> torch.softmax(mean_softmax_target(teachers), dim=1).tolist()
    [[0.625, 0.375]]
    """
    each = torch.stack([_log_softmax(table / tau, mask) for table in teachers.detach()])
    return tau * (torch.logsumexp(each, dim=0) - math.log(len(teachers)))


def list_net_loss(scores: Tensor, grades: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return ListNet's cross-entropy of ``softmax(scores)`` against ``softmax(grades)``, the mean over queries.

    For cross-encoders on graded labels. Source: Cao et al. 2007, "Learning to Rank: From Pairwise Approach to
    Listwise Approach" (the top-one probability).

    Examples
    --------
    >>> round(list_net_loss(torch.zeros(1, 4), torch.tensor([[2, 0, 0, 1]])).item(), 4)  # log 4
    1.3863
    """
    return soft_cross_entropy(scores, grades.to(scores.dtype), 1.0, mask)


def embedding_loss(student: Tensor, teacher: Tensor, cosine: bool = True) -> Tensor:
    """Return the squared distance of vectors (B, D), the mean over texts.

    With ``cosine`` they are normalised first, and it equals ``2 - 2 cos``: 0 for the same direction, 4 for the opposite
    one. Without, lengths are learned too: a student that is compared by the dot product ranks by them.

    Examples
    --------
    >>> embedding_loss(torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 7.0]])).item()
    2.0
    >>> embedding_loss(torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 7.0]]), cosine=False).item()  # 4 + 49
    53.0
    """
    teacher = teacher.detach()
    if cosine:
        student, teacher = functional.normalize(student, dim=1), functional.normalize(teacher, dim=1)
    return (student - teacher).square().sum(dim=1).mean()


SOFT: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor | None, Any], Tensor]] = {
    "kl": lambda ours, theirs, _, mask, by: soft_loss(ours, theirs, by.tau, mask, by.teacher_tau),
    "cross-entropy": lambda ours, theirs, _, mask, by: soft_cross_entropy(
        ours, theirs, by.tau if by.teacher_tau is None else by.teacher_tau, mask
    ),
    "mse": lambda ours, theirs, _, mask, by: logit_loss(ours, theirs, mask),
    "margin-mse": lambda ours, theirs, positives, mask, by: margin_loss(ours, theirs, positives, mask),
    "decoupled": lambda ours, theirs, positives, mask, by: decoupled_loss(
        ours, theirs, positives, by.tau, mask, by.target, by.rest
    ),
}
"""The soft losses by the word of the recipe: of student, teacher, positives, mask (Q, K), and a rung's settings."""

TELLS_SIDES = ("margin-mse", "decoupled")
"""Those that tell positives from negatives."""
