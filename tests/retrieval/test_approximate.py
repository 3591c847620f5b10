"""Approximate indexes find nearly what exact search finds, say how nearly, and are files that can be opened again."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict

import numpy as np
import pytest

from stepwell.errors import StepwellError
from stepwell.retrieval import approximate
from stepwell.retrieval.approximate import ApproximateIndex, Settings, build, measure, open_index
from stepwell.retrieval.search import top_k

IVFPQ = Settings("faiss-ivfpq", lists=8, effort=8, code=4)
ALL = [
    *(Settings("usearch", storage) for storage in ("f32", "bf16", "f16", "i8")),
    *(Settings("faiss-hnsw", storage) for storage in ("f32", "bf16", "f16", "i8")),
    IVFPQ,
]


def unit_vectors(n, seed, width=16):
    vectors = np.random.default_rng(seed).standard_normal((n, width)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


PASSAGES, QUERIES = unit_vectors(600, 0), unit_vectors(30, 1)


def need(settings):
    pytest.importorskip(settings.kind.partition("-")[0])


@pytest.fixture(params=ALL, ids=lambda settings: f"{settings.kind}-{settings.storage}")
def settings(request):
    need(request.param)
    return request.param


def test_an_index_is_measured_when_it_is_made_and_opens_as_it_was(settings, tmp_path, monkeypatch):
    monkeypatch.setattr(approximate, "BLOCK", 250)
    told = []
    made = build(PASSAGES, tmp_path / "index", settings, QUERIES, 10, told.append)
    assert told == [250, 250, 100]
    stored = json.loads((tmp_path / "index" / "index.json").read_text())
    assert stored["measured"] == asdict(made.measured)
    assert (made.measured.k, made.measured.queries) == (10, 30)
    assert made.measured.recall > (0.5 if settings is IVFPQ else 0.9)
    opened = open_index(tmp_path / "index", PASSAGES)
    assert (opened.settings, opened.measured) == (settings, made.measured)
    for ours, theirs in zip(opened.search(QUERIES, 5), made.search(QUERIES, 5), strict=True):
        assert np.array_equal(ours, theirs)


def test_scores_are_about_the_inner_products_best_first(settings, tmp_path):
    rows, scores = build(PASSAGES, tmp_path, settings, QUERIES).search(QUERIES, 5)
    assert (rows.dtype, scores.dtype, rows.shape) == (np.int32, np.float32, (30, 5))
    assert (np.diff(scores, axis=1) <= 0).all()
    exact = np.take_along_axis(QUERIES @ PASSAGES.T, rows, axis=1)
    assert np.abs(scores - exact).max() < (0.5 if settings is IVFPQ else 0.03)


def test_passages_scored_again_have_exact_scores_and_a_higher_recall(tmp_path):
    need(IVFPQ)
    plain = build(PASSAGES, tmp_path / "plain", IVFPQ, QUERIES)
    again = build(PASSAGES, tmp_path / "again", Settings(**{**asdict(IVFPQ), "rescore": 20}), QUERIES)
    assert again.measured.recall > plain.measured.recall
    assert again.measured.recall > 0.95
    rows, scores = again.search(QUERIES, 4)
    assert scores == pytest.approx(np.take_along_axis(QUERIES @ PASSAGES.T, rows, axis=1), abs=1e-6)


def test_lists_are_padded_where_there_are_too_few_passages(settings, tmp_path):
    few = PASSAGES[:300] if settings is IVFPQ else PASSAGES[:3]
    index = build(few, tmp_path, settings, QUERIES)
    for queries in (QUERIES, QUERIES[:1]):
        rows, scores = index.search(queries, len(few) + 2)
        assert rows.shape == (len(queries), len(few) + 2)
        assert (rows[:, -2:] == -1).all()
        assert (scores[:, -2:] == -np.inf).all()
        assert sorted(rows[0, :-2]) == list(range(len(few)))


class Fixed:
    """An index that always finds the same rows."""

    def __init__(self, rows):
        self.rows = np.array(rows, np.int32)

    def search(self, queries, k):
        return np.tile(self.rows[:k], (len(queries), 1)), np.tile(-np.arange(k, dtype=np.float32), (len(queries), 1))


@pytest.mark.parametrize(
    ("found", "recall"),
    [
        ([0, 1, 2, 3], 1.0),
        ([0, 1, 2, 4], 1.0),  # 3 and 4 score the same: either is right
        ([0, 1, 8, 9], 0.5),
        ([0, -1, -1, -1], 0.25),
    ],
)
def test_recall_is_the_share_of_the_best_found(found, recall):
    passages = np.array([[9], [8], [7], [5], [5], [4], [3], [2], [1], [0]], np.float32)
    measured = measure(ApproximateIndex(Fixed(found), Settings(), None, passages), passages, np.ones((2, 1)), 4)
    assert measured.recall == recall
    assert (measured.k, measured.queries) == (4, 2)
    assert min(measured.faster_alone, measured.faster_together) > 0


def test_measuring_takes_a_sample_spread_over_the_queries(monkeypatch):
    monkeypatch.setattr(approximate, "SAMPLE", 3)
    seen = []

    class Exact:
        def search(self, queries, k):
            seen.extend(queries[:, 0].tolist())
            return top_k(queries, passages, k)

    passages = np.arange(10, dtype=np.float32)[:, None]
    queries = np.arange(1, 12, dtype=np.float32)[:, None]
    measured = measure(ApproximateIndex(Exact(), Settings(), None, passages), passages, queries, 2)
    assert (measured.queries, measured.recall) == (3, 1)
    assert set(seen) == {1, 6, 11}


@pytest.mark.parametrize(("settings", "extra"), [(Settings(), "usearch"), (Settings("faiss-hnsw"), "faiss")])
def test_a_missing_package_is_named_with_its_extra(settings, extra, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, extra, None)
    monkeypatch.setitem(sys.modules, "usearch.index", None)
    with pytest.raises(StepwellError, match=rf"pip install 'stepwell\[{extra}\]'"):
        build(PASSAGES, tmp_path / "index", settings, QUERIES)
    assert not (tmp_path / "index").exists()


def test_nothing_is_imported_before_it_is_asked_for():
    optional = "{'faiss', 'usearch', 'pymilvus', 'milvus_lite'}"
    code = f"import sys, stepwell.retrieval.approximate, stepwell.api; assert not {optional} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_mistakes_are_told(tmp_path):
    with pytest.raises(StepwellError, match="no kind 'annoy': it is one of usearch, faiss-hnsw"):
        Settings("annoy")
    with pytest.raises(StepwellError, match="no storage 'int4'"):
        Settings(storage="int4")
    with pytest.raises(StepwellError, match="queries to measure its recall"):
        build(PASSAGES, tmp_path, Settings(), QUERIES[:0])
    with pytest.raises(StepwellError, match="lengths from 2 to 2"):
        build(PASSAGES * 2, tmp_path, Settings(storage="i8"), QUERIES)
    with pytest.raises(StepwellError, match="missing or damaged"):
        open_index(tmp_path, PASSAGES)


def test_settings_that_do_not_fit_the_vectors_are_told(tmp_path):
    need(IVFPQ)
    for passages, code in ((PASSAGES, 5), (PASSAGES[:255], 4)):
        with pytest.raises(StepwellError, match="exact search is faster"):
            build(passages, tmp_path, Settings("faiss-ivfpq", code=code), QUERIES)


def test_an_index_of_other_vectors_or_with_a_damaged_file_is_not_opened(settings, tmp_path):
    build(PASSAGES, tmp_path, settings, QUERIES)
    for others in (PASSAGES[::-1], PASSAGES[:-1]):
        with pytest.raises(StepwellError, match="of other vectors"):
            open_index(tmp_path, others)
    (tmp_path / "index.bin").write_bytes(b"not an index")
    with pytest.raises(StepwellError, match="missing or damaged"):
        open_index(tmp_path, PASSAGES)
