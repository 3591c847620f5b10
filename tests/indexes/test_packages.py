"""The indexes of usearch and FAISS find nearly what exact search finds, and are files that can be opened again."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from common import unit_vectors
from stepwell.errors import StepwellError
from stepwell.indexes import codes
from stepwell.indexes.settings import IndexSettings
from stepwell.indexes.vector_index import make

PQ = "IVF8,PQ4x8np"
ALL = [
    *(IndexSettings("usearch", precision) for precision in ("fp32", "fp16", "int8")),
    *(IndexSettings(faiss=f"HNSW16,{stored}") for stored in ("Flat", "SQbf16", "SQfp16", "SQ8")),
    IndexSettings(faiss=PQ, rescore=0, effort=8),
]


PASSAGES, QUERIES = unit_vectors(600, 0, 16), unit_vectors(30, 1, 16)


@pytest.fixture(params=ALL, ids=lambda settings: settings.faiss or f"usearch-{settings.precision}")
def settings(request, monkeypatch):
    pytest.importorskip(request.param.kind)
    monkeypatch.setattr(codes, "BLOCK", 300)  # they are added in two parts
    return request.param


def made(settings, folder, passages=PASSAGES):
    """Make an index, write it, open the file."""
    return make(settings.resolve(16), passages, True, folder, "test")


def test_most_of_the_best_are_found(settings, tmp_path):
    rows, _ = made(settings, tmp_path).search(QUERIES, 10)
    best = np.argsort(-QUERIES @ PASSAGES.T, axis=1)[:, :10]
    shares = [len(set(found) & set(true)) / 10 for found, true in zip(rows.tolist(), best.tolist(), strict=True)]
    assert np.mean(shares) > (0.3 if settings.faiss == PQ else 0.9)


def test_scores_are_about_the_inner_products_best_first(settings, tmp_path):
    rows, scores = made(settings, tmp_path).search(QUERIES, 5)
    assert (rows.dtype, scores.dtype, rows.shape) == (np.int32, np.float32, (30, 5))
    assert (np.diff(scores, axis=1) <= 0).all()
    exact = np.take_along_axis(QUERIES @ PASSAGES.T, rows, axis=1)
    assert np.abs(scores - exact).max() < (0.5 if settings.faiss == PQ else 0.03)


def test_lists_are_padded_where_there_are_too_few_passages(settings, tmp_path):
    few = PASSAGES[:300] if settings.faiss == PQ else PASSAGES[:3]
    index = made(settings, tmp_path, few)
    for queries in (QUERIES, QUERIES[:1]):
        rows, scores = index.search(queries, len(few) + 2)
        assert rows.shape == (len(queries), len(few) + 2)
        assert (rows[:, -2:] == -1).all()
        assert (scores[:, -2:] == -np.inf).all()
        assert sorted(rows[0, :-2]) == list(range(len(few)))


def test_effort_is_how_many_lists_are_read_and_how_many_candidates_a_graph_looks_at(tmp_path):
    pytest.importorskip("faiss")
    best = np.argmax(QUERIES @ PASSAGES.T, axis=1)
    for number, string in enumerate(("IVF60,Flat", "HNSW4,Flat")):
        shares = []
        for effort in (1, 60):
            index = made(IndexSettings(faiss=string, effort=effort), tmp_path / f"{number}-{effort}")
            shares.append(float((index.search(QUERIES, 1)[0][:, 0] == best).mean()))
        assert shares[0] < shares[1] and shares[1] > 0.9


@pytest.mark.parametrize(
    ("settings", "extra"), [(IndexSettings("usearch"), "usearch"), (IndexSettings(faiss="Flat"), "faiss")]
)
def test_a_missing_package_is_named_with_its_extra(settings, extra, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, extra, None)
    monkeypatch.setitem(sys.modules, "usearch.index", None)
    with pytest.raises(StepwellError, match=rf"pip install 'stepwell\[{extra}\]'"):
        made(settings, tmp_path)


def test_nothing_is_imported_before_it_is_asked_for():
    optional = "{'faiss', 'usearch', 'pymilvus', 'milvus_lite'}"
    code = f"import sys, stepwell.api; assert not {optional} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_int8_of_usearch_is_for_vectors_of_length_1(tmp_path):
    with pytest.raises(StepwellError, match=r"lengths from 2 to 2 .*--precision fp16"):
        made(IndexSettings("usearch", "int8"), tmp_path, PASSAGES * 2)


def test_too_few_passages_are_told(tmp_path):
    pytest.importorskip("faiss")
    with pytest.raises(StepwellError, match=r"IVF8,PQ4x8np.* 255 passages.*exact search is faster"):
        made(IndexSettings(faiss=PQ), tmp_path, PASSAGES[:255])
