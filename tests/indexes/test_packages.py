"""The indexes of usearch and FAISS find nearly what exact search finds, and are files that can be opened again."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from common import unit_vectors
from stepwell.errors import StepwellError
from stepwell.indexes.packages import Settings, make, read

IVFPQ = Settings("faiss-ivfpq", lists=8, effort=8, code=4)
ALL = [
    *(Settings("usearch", storage) for storage in ("f32", "bf16", "f16", "i8")),
    *(Settings("faiss-hnsw", storage) for storage in ("f32", "bf16", "f16", "i8")),
    IVFPQ,
]


PASSAGES, QUERIES = unit_vectors(600, 0, 16), unit_vectors(30, 1, 16)


def need(settings):
    pytest.importorskip(settings.kind.partition("-")[0])


@pytest.fixture(params=ALL, ids=lambda settings: f"{settings.kind}-{settings.storage}")
def settings(request):
    need(request.param)
    return request.param


def made(settings, folder, passages=PASSAGES):
    """Make an index in two parts, write it, open the file."""
    index, half = make(settings, passages), len(passages) // 2
    index.add(0, passages[:half])
    index.add(half, passages[half:])
    index.save(folder / "index.bin")
    return read(settings, folder / "index.bin")


def test_most_of_the_best_are_found(settings, tmp_path):
    rows, _ = made(settings, tmp_path).search(QUERIES, 10)
    best = np.argsort(-QUERIES @ PASSAGES.T, axis=1)[:, :10]
    shares = [len(set(found) & set(true)) / 10 for found, true in zip(rows.tolist(), best.tolist(), strict=True)]
    assert np.mean(shares) > (0.3 if settings is IVFPQ else 0.9)


def test_scores_are_about_the_inner_products_best_first(settings, tmp_path):
    rows, scores = made(settings, tmp_path).search(QUERIES, 5)
    assert (rows.dtype, scores.dtype, rows.shape) == (np.int32, np.float32, (30, 5))
    assert (np.diff(scores, axis=1) <= 0).all()
    exact = np.take_along_axis(QUERIES @ PASSAGES.T, rows, axis=1)
    assert np.abs(scores - exact).max() < (0.5 if settings is IVFPQ else 0.03)


def test_lists_are_padded_where_there_are_too_few_passages(settings, tmp_path):
    few = PASSAGES[:300] if settings is IVFPQ else PASSAGES[:3]
    index = made(settings, tmp_path, few)
    for queries in (QUERIES, QUERIES[:1]):
        rows, scores = index.search(queries, len(few) + 2)
        assert rows.shape == (len(queries), len(few) + 2)
        assert (rows[:, -2:] == -1).all()
        assert (scores[:, -2:] == -np.inf).all()
        assert sorted(rows[0, :-2]) == list(range(len(few)))


@pytest.mark.parametrize(("settings", "extra"), [(Settings(), "usearch"), (Settings("faiss-hnsw"), "faiss")])
def test_a_missing_package_is_named_with_its_extra(settings, extra, monkeypatch):
    monkeypatch.setitem(sys.modules, extra, None)
    monkeypatch.setitem(sys.modules, "usearch.index", None)
    with pytest.raises(StepwellError, match=rf"pip install 'stepwell\[{extra}\]'"):
        make(settings, PASSAGES)


def test_nothing_is_imported_before_it_is_asked_for():
    optional = "{'faiss', 'usearch', 'pymilvus', 'milvus_lite'}"
    code = f"import sys, stepwell.api; assert not {optional} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_mistakes_are_told():
    with pytest.raises(StepwellError, match=r"lengths from 2 to 2 .*--precision fp16"):
        make(Settings(storage="i8"), PASSAGES * 2)


def test_settings_that_do_not_fit_the_vectors_are_told():
    need(IVFPQ)
    with pytest.raises(StepwellError, match=r"255 passages are too few.*exact search is faster"):
        make(Settings("faiss-ivfpq", code=4), PASSAGES[:255])
