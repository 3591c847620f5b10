"""Exact search equals brute force, whatever the blocks and the number type; equal scores go by row."""

from __future__ import annotations

from contextlib import contextmanager

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from stepwell.display import Progress
from stepwell.errors import StepwellError
from stepwell.models.engines import machine as engine
from stepwell.retrieval import search
from stepwell.retrieval.vectors import Vectors


def random_vectors(n_queries, n_passages, width=5, seed=0):
    random = np.random.default_rng(seed)
    return tuple(random.standard_normal((n, width)).astype(np.float32) for n in (n_queries, n_passages))


def brute_force(queries, passages, k):
    scores = queries @ passages.T
    rows = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return rows, np.take_along_axis(scores, rows, axis=1)


@contextmanager
def forced(**constants):
    """Search with other constants; ``half`` pretends that bf16 is fast here and pays from one query on."""
    with pytest.MonkeyPatch.context() as patch:
        if constants.pop("half", False):
            patch.setattr(engine, "precision", lambda: torch.bfloat16)
            patch.setattr(search, "HALF_FROM", 1)
        for name, value in constants.items():
            patch.setattr(search, name, value)
        yield patch


@contextmanager
def scans_counted(**constants):
    """Search in bf16 and count the queries that each number type has scanned."""
    counts, scan = {torch.float32: 0, torch.bfloat16: 0}, search._scan

    def counted(queries, passages, k, center=None):
        counts[torch.float32 if center is None else torch.bfloat16] += len(queries)
        return scan(queries, passages, k, center)

    with forced(half=True, **constants) as patch:
        patch.setattr(search, "_scan", counted)
        yield counts


SMALL = st.fixed_dictionaries(
    {
        "QUERY_BLOCK": st.integers(3, 7),
        "PASSAGE_BLOCK": st.integers(8, 60),
        "HALF_BLOCK": st.integers(8, 60),
        "SCORES": st.integers(20, 200),
        "CHUNK": st.integers(1, 7),
        "PAIRS": st.sampled_from([40, 100, 4_096]),
        "half": st.booleans(),
    }
)
"""Blocks smaller than the data."""


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 9), st.integers(1, 150), st.integers(1, 60), SMALL, st.integers(0, 5))
def test_equals_brute_force(n_queries, n_passages, k, constants, seed):
    queries, passages = random_vectors(n_queries, n_passages, seed=seed)
    with forced(**constants):
        rows, scores = search.top_k(queries, passages, k)
    expected_rows, expected_scores = brute_force(queries, passages, k)
    assert rows.shape == (n_queries, min(k, n_passages))
    assert rows.tolist() == expected_rows.tolist()
    assert scores == pytest.approx(expected_scores, abs=1e-5)
    assert (rows.dtype, scores.dtype) == (np.int32, np.float32)


@settings(max_examples=40, deadline=None)
@given(st.data(), st.integers(1, 4), st.integers(1, 150), st.integers(1, 160), SMALL, st.integers(0, 3))
def test_equal_scores_go_by_row(data, n_queries, n_passages, k, constants, largest):
    """Whole numbers are multiplied exactly; few of them, or only zeros, make many duplicates and ties."""
    seed = data.draw(st.integers(0, 100))
    random = np.random.default_rng(seed)
    queries, passages = (
        random.integers(-largest, largest + 1, (n, 2)).astype(np.float32) for n in (n_queries, n_passages)
    )
    with forced(**constants):
        rows, scores = search.top_k(queries, passages, k)
    expected_rows, expected_scores = brute_force(queries, passages, k)
    assert rows.tolist() == expected_rows.tolist()
    assert scores.tolist() == expected_scores.tolist()


def test_scores_may_all_be_negative_and_rise_to_the_last_passage():
    queries, passages = np.ones((1, 1), np.float32), -np.arange(500, 0, -1, dtype=np.float32)[:, None]
    with forced(SCORES=1, CHUNK=8):
        rows, scores = search.top_k(queries, passages, 3)
    assert rows.tolist() == [[499, 498, 497]]
    assert scores.tolist() == [[-1, -2, -3]]


def test_a_list_is_no_longer_than_the_corpus_and_may_be_empty():
    queries, passages = random_vectors(2, 3)
    assert search.top_k(queries, passages, 10)[0].shape == (2, 3)
    assert search.top_k(queries, passages[:0], 10)[0].shape == (2, 0)
    assert search.top_k(queries[:0], passages, 10)[0].shape == (0, 3)


# -- bf16 --------------------------------------------------------------------------------------------------------


def test_bf16_finds_what_fp32_finds_without_a_second_scan():
    queries, passages = random_vectors(40, 3_000, width=64)
    with scans_counted() as scanned:
        rows, scores = search.top_k(queries, passages, 10)
    expected_rows, expected_scores = brute_force(queries, passages, 10)
    assert rows.tolist() == expected_rows.tolist()
    assert scores == pytest.approx(expected_scores, rel=1e-5)
    assert scanned == {torch.bfloat16: 40, torch.float32: 0}


def test_passages_that_bf16_misorders_come_in_fp32_order():
    """Eight scores a thousandth apart: bf16, with two or three digits, takes several for equal."""
    passages = np.zeros((400, 2), np.float32)
    passages[:8, 0] = 1 + np.arange(8) / 1_024
    queries = np.array([[1, 0], [0.5, 0]], np.float32)
    half = torch.from_numpy(queries).bfloat16() @ torch.from_numpy(passages - passages.mean(0)).bfloat16().T
    assert half[0].argsort(descending=True, stable=True)[:4].tolist() != [7, 6, 5, 4]
    with scans_counted() as scanned:
        rows, _ = search.top_k(queries, passages, 4)
    assert rows.tolist() == [[7, 6, 5, 4]] * 2
    assert scanned[torch.float32] == 0  # all that bf16 can't tell apart is within the margin


def test_where_the_margin_can_not_tell_the_query_is_searched_in_fp32():
    """300 passages that bf16 takes for equal, the best of them last, for the first query alone."""
    passages = np.zeros((1_000, 2), np.float32)
    passages[:300, 0] = 1 + np.arange(300) / 100_000
    passages[300:400, 1] = np.arange(100)
    queries = np.eye(2, dtype=np.float32)
    with scans_counted() as scanned:
        rows, _ = search.top_k(queries, passages, 3)
    assert rows.tolist() == [[299, 298, 297], [399, 398, 397]]
    assert scanned == {torch.bfloat16: 2, torch.float32: 1}


def test_one_passage_far_longer_than_all_others_does_no_harm():
    queries, passages = random_vectors(6, 500, width=16)
    passages[77] *= 1e4
    with scans_counted() as scanned:
        rows, _ = search.top_k(queries, passages, 5)
    assert rows.tolist() == brute_force(queries, passages, 5)[0].tolist()
    assert scanned[torch.float32] == 6  # its rounding could hide anything


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 200), st.floats(-18, 9), st.floats(-18, 9), st.booleans(), st.integers(0, 1_000))
def test_no_passage_scores_above_what_its_bf16_score_allows(width, queries_size, passages_size, alike, seed):
    random = np.random.default_rng(seed)
    queries = random.standard_normal((3, width)) * 10.0**queries_size
    passages = random.standard_normal((50, width)) * 10.0**passages_size
    if alike:
        passages = passages[:1] * (1 + 0.01 * random.random((50, 1)))
    left, right = (torch.from_numpy(vectors.astype(np.float32)) for vectors in (queries, passages))
    center = right[:10].mean(0)
    shorter = right - center
    coarse = (left.bfloat16() @ shorter.bfloat16().T).float()
    exact, fp32 = left.double() @ right.double().T, left @ right.T
    longest = shorter.norm(dim=1).max().item()
    reach = search._reach(left.repeat_interleave(50, 0), center, coarse.flatten(), longest).view(3, 50)
    assert (reach >= exact).all()
    assert (reach >= fp32).all()


def test_few_queries_and_long_lists_are_searched_in_fp32():
    queries, passages = random_vectors(4, 400)
    with scans_counted(HALF_FROM=5) as scanned:
        search.top_k(queries, passages, 3)
    with scans_counted() as long:
        search.top_k(queries, passages, 35)
    assert scanned[torch.bfloat16] == long[torch.bfloat16] == 0


# -- files, mistakes, runs ---------------------------------------------------------------------------------------


def test_reads_memory_mapped_passages_and_tells_of_every_query(tmp_path, recwarn):
    queries, passages = random_vectors(7, 30)
    np.save(tmp_path / "passages.npy", passages)
    progress = Progress(lambda share, note: None)
    rows, _ = search.top_k(queries, np.load(tmp_path / "passages.npy", mmap_mode="r"), 5, progress)
    assert rows.tolist() == brute_force(queries, passages, 5)[0].tolist()
    assert progress.done == 7
    assert not recwarn.list


def test_takes_reversed_strided_and_half_precision_vectors():
    queries, passages = random_vectors(4, 30, width=6)
    expected = brute_force(queries[::-1, ::2], passages[::3, ::2].astype(np.float16).astype(np.float32), 5)[0]
    found, _ = search.top_k(queries[::-1, ::2], passages[::3, ::2].astype(np.float16), 5)
    assert found.tolist() == expected.tolist()


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("side", [0, 1])
def test_values_that_are_no_numbers_are_an_error(half, side):
    vectors = random_vectors(40, 400)
    vectors[side][33, 2] = np.nan
    with forced(half=half), pytest.raises(StepwellError, match="no numbers"):
        search.top_k(*vectors, 5)


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
