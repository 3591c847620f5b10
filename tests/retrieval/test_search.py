"""Exact search equals brute force, whatever the blocks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepwell.retrieval import search
from stepwell.retrieval.vectors import Vectors


def random_vectors(n_queries, n_passages, width=5, seed=0):
    random = np.random.default_rng(seed)
    return tuple(random.standard_normal((n, width)).astype(np.float32) for n in (n_queries, n_passages))


def brute_force(queries, passages, k):
    scores = queries @ passages.T
    rows = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return rows, np.take_along_axis(scores, rows, axis=1)


@settings(max_examples=40)
@given(st.integers(1, 9), st.integers(1, 40), st.integers(1, 50), st.integers(1, 5), st.integers(1, 15))
def test_equals_brute_force_with_blocks_smaller_than_the_data(n_queries, n_passages, k, query_block, passage_block):
    queries, passages = random_vectors(n_queries, n_passages)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search, "QUERY_BLOCK", query_block)
        patch.setattr(search, "PASSAGE_BLOCK", passage_block)
        rows, scores = search.top_k(queries, passages, k)
    expected_rows, expected_scores = brute_force(queries, passages, k)
    assert rows.shape == (n_queries, min(k, n_passages))
    assert rows.tolist() == expected_rows.tolist()
    assert scores == pytest.approx(expected_scores, abs=1e-5)
    assert (rows.dtype, scores.dtype) == (np.int32, np.float32)


def test_reads_memory_mapped_passages_and_tells_of_every_query(tmp_path):
    queries, passages = random_vectors(7, 30)
    np.save(tmp_path / "passages.npy", passages)
    told = []
    rows, _ = search.top_k(queries, np.load(tmp_path / "passages.npy", mmap_mode="r"), 5, told.append)
    assert rows.tolist() == brute_force(queries, passages, 5)[0].tolist()
    assert sum(told) == 7


def test_a_run_has_the_queries_asked_for_and_scores_as_logits():
    queries, passages = random_vectors(4, 20)
    vectors = Vectors(passages, queries, np.array([2, 5, 7, 9], np.int32), 20.0)
    run = search.retrieve(vectors, np.array([9, 5], np.int32), 3)
    rows, scores = brute_force(queries[[3, 1]], passages, 3)
    assert run.queries.tolist() == [9, 5]
    assert run.passages.tolist() == rows.tolist()
    assert run.scores == pytest.approx(20 * scores, abs=1e-3)


def test_queries_of_one_model_may_search_passages_of_another():
    queries, passages = random_vectors(4, 20)
    _, others = random_vectors(4, 20, seed=1)
    rows = np.arange(4, dtype=np.int32)
    student, teacher = Vectors(passages, queries, rows, 1.0), Vectors(others, queries[::-1], rows, 1.0)
    assert search.retrieve(student, rows, 6, teacher).passages.tolist() == brute_force(queries, others, 6)[0].tolist()
