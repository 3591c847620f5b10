"""How sure a difference is: bootstrap intervals, a paired test, Holm's correction."""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

_BLOCK = 4_000_000  # draws held in memory at once


def bootstrap_interval(
    values: NDArray[np.float64], seed: int, level: float = 0.95, samples: int = 10_000
) -> tuple[float, float]:
    """Return the percentile bootstrap interval of the mean of values (Q,): queries are drawn anew, with replacement.

    Source: Efron, Bootstrap Methods: Another Look at the Jackknife, Annals of Statistics 1979.

    >>> low, high = bootstrap_interval(np.array([0.0, 1.0] * 50), seed=1)
    >>> round(low, 1), round(high, 1)
    (0.4, 0.6)
    """
    ((low,), (high,)) = bootstrap_intervals(values[:, None], seed, level, samples)
    return float(low), float(high)


def bootstrap_intervals(
    values: NDArray[np.float64], seed: int, level: float = 0.95, samples: int = 10_000
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return :func:`bootstrap_interval` of each column (Q, C), from the same draws of queries: two arrays (C,).

    ``level`` is the share of the ``samples`` means inside the interval; without queries it is NaN.
    """
    queries, columns = values.shape
    if queries == 0:
        return np.full(columns, np.nan), np.full(columns, np.nan)
    rng = np.random.default_rng(seed)
    means = np.empty((samples, columns))
    block = max(1, _BLOCK // queries)
    for start in range(0, samples, block):
        size = min(block, samples - start)
        draws = rng.integers(0, queries, (size, queries)) + queries * np.arange(size)[:, None]
        times = np.bincount(draws.ravel(), minlength=size * queries).reshape(size, queries)  # (S, Q)
        means[start : start + size] = times @ values / queries  # (S, C)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return low, high


def paired_test(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Return the two-sided p-value of the paired t-test that two systems (Q,) have the same mean.

    The t-test on per-query differences agrees with the randomisation test on retrieval measures and keeps
    its error rate, while Wilcoxon's and the sign test ask another question than that of the mean.
    Where the differences are all equal t is not defined: then it is 1 when they are zero, else the exact
    p-value of the randomisation test, 2 ** (1 - Q). With fewer than two queries it is 1.

    Sources: Smucker, Allan and Carterette, A Comparison of Statistical Significance Tests for Information Retrieval
    Evaluation, CIKM 2007. Urbano, Lima and Hanjalic, Statistical Significance Testing in Information
    Retrieval: An Empirical Analysis of Type I, Type II and Type III Errors, SIGIR 2019.

    >>> paired_test(np.array([0.1, 0.5, 0.9]), np.array([0.1, 0.5, 0.9]))
    1.0
    """
    if a.shape != b.shape:
        raise ValueError(f"values of {a.shape} and of {b.shape} are not paired")
    differences = a - b
    if len(differences) < 2 or not differences.any():
        return 1.0
    if np.ptp(differences) <= 1e-12 * np.abs(differences).max():
        return float(2.0 ** (1 - len(differences)))
    return float(stats.ttest_1samp(differences, 0.0).pvalue)


def smallest_seen(differences: NDArray[np.float64], level: float = 0.05, power: float = 0.8) -> float:
    """Return the true mean difference that so many queries (Q,) show at ``level`` with a chance of ``power``.

    The differences tell how much queries vary; a smaller one than this is missed more often than 1 - ``power``. NaN
    with fewer than two queries, or where no query differs.

    Source: Sakai, Statistical Power Analysis for IR Evaluation (Laboratory Experiments in Information Retrieval, 2018).

    >>> round(smallest_seen(np.array([0.1, -0.1] * 50)), 3)
    0.028
    """
    n = len(differences)
    if n < 2 or not np.ptp(differences):
        return float("nan")
    reach = stats.t.ppf(1 - level / 2, n - 1) + stats.t.ppf(power, n - 1)
    return float(reach * np.std(differences, ddof=1) / np.sqrt(n))


def holm(p_values: ArrayLike) -> NDArray[np.float64]:
    """Return p-values (m,) adjusted by Holm's step-down method, in the order given.

    Rejecting where the adjusted value is below a level keeps the chance of even one false rejection in the
    whole family below that level, whatever the dependence between the tests.

    Source: Holm, A Simple Sequentially Rejective Multiple Test Procedure, Scandinavian Journal of Statistics 1979.

    >>> holm([0.01, 0.04, 0.03]).round(3).tolist()
    [0.03, 0.06, 0.06]
    """
    values = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(values, kind="stable")
    raised = values[order] * np.arange(len(values), 0, -1)
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(np.maximum.accumulate(raised), 1.0)
    return adjusted
