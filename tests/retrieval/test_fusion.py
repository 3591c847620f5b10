"""Reciprocal rank fusion: hand-made values, and laws that hold for any runs."""

import numpy as np
import pytest
from hypothesis import given, strategies as st

from stepwell.errors import StepwellError
from stepwell.retrieval.run import Run, reciprocal_rank_fusion


def make_run(lists, queries=None):
    """Build a run from one list of passage rows a query."""
    depth = max(map(len, lists))
    passages = np.array([[*one, *[-1] * (depth - len(one))] for one in lists], np.int32).reshape(-1, depth)
    scores = np.where(passages >= 0, np.arange(depth, 0, -1), -np.inf).astype(np.float32)
    return Run(np.arange(len(lists), dtype=np.int32) if queries is None else queries, passages, scores)


rankings = st.lists(st.integers(0, 12), unique=True, min_size=1, max_size=8)


def test_scores_are_sums_of_reciprocal_ranks():
    fused = reciprocal_rank_fusion([make_run([[7, 5, 9]]), make_run([[5, 8]])], depth=10)
    assert fused.passages[0].tolist() == [5, 7, 8, 9, -1]
    assert fused.scores[0, :4] == pytest.approx([1 / 62 + 1 / 61, 1 / 61, 1 / 62, 1 / 63])
    assert fused.scores[0, 4] == -np.inf


def test_a_small_k_lets_first_ranks_stand_out():
    # Passage 1 is first once; passage 2 is third twice.
    runs = [make_run([[1, 3, 2]]), make_run([[4, 5, 2]])]
    assert reciprocal_rank_fusion(runs, depth=1, k=60).passages[0, 0] == 2
    assert reciprocal_rank_fusion(runs, depth=1, k=0).passages[0, 0] == 1


def test_runs_may_list_the_queries_in_another_order():
    a = make_run([[1, 2], [3, 4]], np.array([10, 20], np.int32))
    b = make_run([[3, 4], [1, 2]], np.array([20, 10], np.int32))
    fused = reciprocal_rank_fusion([a, b], depth=2)
    assert fused.queries.tolist() == [10, 20]
    assert fused.passages.tolist() == [[1, 2], [3, 4]]


def test_a_missing_query_is_a_mistake_of_the_user():
    with pytest.raises(StepwellError, match="1 queries are in one and not in the other"):
        reciprocal_rank_fusion([make_run([[1], [2]]), make_run([[1]])], depth=5)


def test_a_query_without_any_passage_stays_empty():
    fused = reciprocal_rank_fusion([make_run([[1, 2], []]), make_run([[2, 1], []])], depth=2)
    assert fused.passages[1].tolist() == [-1, -1]


@given(rankings)
def test_a_run_fused_with_itself_keeps_its_order(ranking):
    run = make_run([ranking])
    fused = reciprocal_rank_fusion([run, run], depth=len(ranking))
    assert fused.passages.tolist() == [ranking]


@given(st.lists(rankings, min_size=2, max_size=2))
def test_the_order_of_the_runs_does_not_matter(pair):
    a, b = (make_run([ranking]) for ranking in pair)
    one, other = (reciprocal_rank_fusion(runs, depth=6) for runs in ([a, b], [b, a]))
    assert np.array_equal(one.passages, other.passages)
    assert np.array_equal(one.scores, other.scores)


@given(st.lists(rankings, min_size=1, max_size=3), st.integers(1, 10))
def test_a_fused_list_falls_names_no_passage_twice_and_is_never_too_long(ranked, depth):
    fused = reciprocal_rank_fusion([make_run([ranking]) for ranking in ranked], depth)
    found = fused.passages[0][fused.passages[0] >= 0].tolist()
    assert len(found) == len(set(found)) == min(depth, len(set().union(*ranked)))
    assert (np.diff(fused.scores[0, : len(found)]) <= 0).all()
