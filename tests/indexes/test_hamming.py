"""Search among bits finds what counting bits one by one finds."""

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from stepwell.indexes import codes as hamming


def by_hand(queries, passages, k):
    apart = np.unpackbits(queries[:, None] ^ passages, axis=2).sum(axis=2, dtype=np.int64)
    rows = np.argsort(apart, axis=1, kind="stable")[:, :k]
    return rows, np.take_along_axis(apart, rows, axis=1)


@pytest.mark.parametrize("counts", [True, False], ids=["numpy 2", "numpy 1"])
@settings(max_examples=30)
@given(st.integers(1, 5), st.integers(1, 40), st.sampled_from([1, 3, 8, 16]), st.integers(1, 50), st.integers(0, 99))
def test_it_is_the_order_by_distance_then_row(counts, q, n, width, k, seed):
    rng = np.random.default_rng(seed)
    queries, passages = (rng.integers(0, 4, (m, width), dtype=np.uint8) for m in (q, n))  # few values: many ties
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hamming, "PASSAGES", 7)
        patch.setattr(hamming, "PAIRS", 14)
        if not counts:
            patch.setattr(hamming, "_COUNT", None)
        found = hamming.nearest(queries, passages, k)
    for ours, theirs in zip(found, by_hand(queries, passages, k), strict=True):
        assert np.array_equal(ours, theirs)


def test_no_queries_or_no_passages():
    assert hamming.nearest(np.zeros((0, 2), np.uint8), np.zeros((3, 2), np.uint8), 2)[0].shape == (0, 2)
    assert hamming.nearest(np.zeros((2, 2), np.uint8), np.zeros((0, 2), np.uint8), 2)[0].shape == (2, 0)
