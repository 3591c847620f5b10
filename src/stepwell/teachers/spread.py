"""How far a teacher's scores lie apart, and whether the temperature fits them.

The soft loss sees ``softmax(t / tau)`` over a query's candidates. When the scores lie close together (a cross-encoder
read through a sigmoid, a cosine without scale) it is flat and teaches nothing; when they lie too far apart it is a
label with a detour. Both ruin distillation in silence, so they are looked at before training.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import softmax

ONE_HOT = 0.99  # largest probability of a softmax that is as good as a label
FLAT = 0.99  # share of the greatest possible entropy above which a softmax is as good as even


@dataclass(frozen=True)
class Spread:
    """What the scores (logits) of many queries' candidates look like."""

    queries: int  # those with two scores or more; the others are left out
    mean_std: float  # of the standard deviation within a query
    median_std: float
    low: float  # of all scores
    high: float
    one_hot: float  # share of the queries whose softmax at tau is as good as a label
    flat: float  # or as good as even
    entropy: float  # of the softmax, mean over the queries, as a share of the greatest possible (1 = even)
    tau: float


def spread(scores: ArrayLike, tau: float = 1.0) -> Spread:
    """Describe scores (Q, K) at a temperature; NaN marks a candidate without score.

    >>> spread([[2.0, 2.0], [9.0, -9.0]]).one_hot
    0.5
    """
    table = np.asarray(scores, dtype=np.float64)  # (Q, K)
    table = table[np.isfinite(table).sum(axis=1) >= 2]
    if not len(table):
        raise ValueError("no query has two scores: there is nothing to compare")
    there = np.isfinite(table)
    std = np.nanstd(np.where(there, table, np.nan), axis=1)  # (Q,)
    probabilities = softmax(np.where(there, table / tau, -np.inf), axis=1)  # (Q, K)
    logs = np.log(probabilities, out=np.zeros_like(probabilities), where=probabilities > 0)
    entropy = -(probabilities * logs).sum(axis=1) / np.log(there.sum(axis=1))  # (Q,)
    return Spread(
        queries=len(table),
        mean_std=float(std.mean()),
        median_std=float(np.median(std)),
        low=float(table[there].min()),
        high=float(table[there].max()),
        one_hot=float((probabilities.max(axis=1) > ONE_HOT).mean()),
        flat=float((entropy > FLAT).mean()),
        entropy=float(entropy.mean()),
        tau=tau,
    )


@dataclass(frozen=True)
class Histogram:
    """How far scores (logits) lie from their query's mean."""

    edges: list[float]
    counts: list[int]  # from one edge to the next; the hundredth that lies farthest out is in the first and last bin
    std: float  # mean over the queries of the standard deviation within a query


def histogram(scores: ArrayLike, bins: int = 40) -> Histogram | None:
    """Count scores (..., K), less the mean of their query; NaN marks a candidate without score. None without scores.

    >>> histogram([[3.0, 1.0], [10.0, 12.0]], bins=2)
    Histogram(edges=[-1.0, 0.0, 1.0], counts=[2, 2], std=1.0)
    """
    table = np.asarray(scores, dtype=np.float64)
    table = table.reshape(-1, table.shape[-1])  # (Q, K)
    table = table[np.isfinite(table).sum(axis=1) >= 2]
    if not len(table):
        return None
    centred = table - np.nanmean(table, axis=1, keepdims=True)
    values = centred[np.isfinite(centred)]
    limit = float(np.quantile(np.abs(values), 0.99)) or 1.0
    counts, edges = np.histogram(np.clip(values, -limit, limit), bins, (-limit, limit))
    return Histogram(edges.tolist(), counts.tolist(), float(np.nanstd(table, axis=1).mean()))


def check_tau(scores: ArrayLike, tau: float) -> list[str]:
    """Return warnings, each with what to change, when ``tau`` does not fit the scores (Q, K).

    The tau that is suggested is the median standard deviation within a query: the softmax then sees scores
    that differ by about 1.

    >>> check_tau([[4.0, 1.0, -1.0], [3.0, 2.5, 0.0]], tau=1.0)
    []
    """
    seen = spread(scores, tau)
    if seen.median_std < 1e-6:
        return [
            "The teacher gives nearly the same score to all candidates of half of the "
            f"{seen.queries:,} queries or more: there is nothing to learn from it. Is it trained, and does "
            "it read the texts (tokens.pair)?"
        ]
    better = f"{seen.median_std:.2g}"
    start = (
        f"The teacher's scores typically differ by {better} within a query (all lie in {seen.low:.3g} to "
        f"{seen.high:.3g}): at tau {tau:g} the softmax of"
    )
    if seen.flat > 0.5:
        cause = " To mend it,"
        if seen.low >= 0 and seen.high <= 1:
            cause = (
                " They look like probabilities or cosines: take the raw logits of a cross-encoder, without a "
                "sigmoid, and set `scale` for a dual encoder; or"
            )
        return [f"{start} {seen.flat:.0%} of the queries is flat and teaches nothing.{cause} set tau near {better}."]
    if seen.one_hot > 0.9:
        return [
            f"{start} {seen.one_hot:.0%} of the queries puts more than 99 % on one candidate, which says no more than "
            f"the label. Set tau near {better}, or mine harder negatives."
        ]
    return []


def check_scores(scores: ArrayLike, tau: float | None) -> list[str]:
    """Return the warnings about scores (..., Q, K) of one or several teachers; a ``tau`` of None asks for no softmax.

    >>> len(check_scores([[0.2, 0.99]], tau=0.3)), check_scores([[9.0, -9.0]], tau=None)
    (1, [])
    """
    table = np.asarray(scores, dtype=np.float64)
    tables = table.reshape(-1, *table.shape[-2:])  # (T, Q, K)
    compared = [one for one in tables if (np.isfinite(one).sum(axis=1) >= 2).any()]
    return [text for one in compared for text in ((tau and check_tau(one, tau)) or _check_range(one))]


def _check_range(table: NDArray[np.float64]) -> list[str]:
    """Return a warning when all scores (Q, K) lie in 0..1, as probabilities do; NaN marks one that is not there."""
    low, high = float(np.nanmin(table)), float(np.nanmax(table))
    if low < 0 or high > 1:
        return []
    return [
        f"All scores lie in {low:.3g} to {high:.3g}: they look like probabilities, which lie too close together to "
        "teach. Have the teacher give raw logits, or set `logit: true` where the recipe has that key (a file, a "
        "server); where they are no probabilities, a low tau mends it."
    ]
