"""All kinds of indexes through one search: what they find, scored again, cut, opened again."""

import numpy as np
import pytest
from hypothesis import given, settings as hypothesis_settings, strategies as st

from common import unit_vectors
from stepwell.display import SILENT, Progress
from stepwell.indexes.codes import Codes, narrow
from stepwell.indexes.settings import IndexSettings
from stepwell.indexes.vector_index import VectorIndex, make, read, sizes
from stepwell.retrieval.search import top_k

WIDTH, COUNT = 24, 400


PASSAGES, QUERIES = unit_vectors(COUNT, 0, WIDTH, 0.1), unit_vectors(20, 1, WIDTH, 0.1)
BEST = top_k(QUERIES, PASSAGES, 10)[0]

KINDS = [
    IndexSettings(),
    IndexSettings(precision="fp16"),
    IndexSettings(precision="int8"),
    IndexSettings(precision="binary", rescore=20),
    IndexSettings(dimension=20),
    IndexSettings("usearch"),
    IndexSettings("usearch", "fp16"),
    IndexSettings("usearch", "int8"),
    IndexSettings("usearch", "binary", rescore=20, effort=400),
    IndexSettings("usearch", dimension=20),
    IndexSettings(faiss="HNSW16,Flat"),
    IndexSettings(faiss="HNSW16,SQ8"),
    IndexSettings(faiss="HNSW16,SQfp16", dimension=20),
    IndexSettings(faiss="IVF8,PQ3x8np"),
    IndexSettings(faiss="OPQ6_24,IVF8_HNSW8,PQ6x4fs,RFlat"),
]


def name(settings):
    return "-".join(
        str(part) for part in (settings.faiss or settings.kind, settings.precision, settings.dimension) if part
    )


def recall(rows, best=BEST):
    return np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(rows.tolist(), best.tolist(), strict=True)])


def made(settings, folder, passages=PASSAGES, progress=SILENT):
    if settings.kind != "exact":
        pytest.importorskip(settings.kind)
    return make(settings.resolve(passages.shape[1]), passages, True, folder, "test", progress)


@pytest.mark.parametrize("settings", KINDS, ids=name)
def test_every_kind_finds_most_of_the_best_and_opens_as_it_was(settings, tmp_path):
    progress = Progress(lambda share, note: None)
    index = made(settings, tmp_path / "v", progress=progress)
    rows, scores = index.search(QUERIES, 10)
    assert progress.done == COUNT
    assert (rows.shape, rows.dtype, scores.dtype) == ((20, 10), np.int32, np.float32)
    assert (np.diff(scores, axis=1) <= 0).all()
    assert recall(rows) > (0.6 if settings.dimension or settings.precision == "binary" else 0.85)
    opened = read(index.settings, True, tmp_path / "v", "test", COUNT)
    for ours, theirs in zip(opened.search(QUERIES, 10), (rows, scores), strict=True):
        assert np.array_equal(ours, theirs)
    search, again = sizes(index.settings, tmp_path / "v", COUNT)
    assert search > 0 and (again > 0) == bool(index.settings.rescore)
    assert not (tmp_path / "v" / "cut").exists()


def test_exact_fp32_has_a_recall_of_1_and_the_scores_of_exact_search(tmp_path):
    rows, scores = made(IndexSettings(), tmp_path).search(QUERIES, 10)
    assert recall(rows) == 1
    assert np.array_equal(scores, top_k(QUERIES, PASSAGES, 10)[1])


def test_bytes_a_passage_are_those_of_the_precision(tmp_path):
    per_passage = {"fp32": 4 * WIDTH, "fp16": 2 * WIDTH, "int8": WIDTH, "binary": WIDTH // 8}
    for precision, expected in per_passage.items():
        settings = IndexSettings(precision=precision, rescore=0)
        index = made(settings, tmp_path / precision)
        header = 128 + (128 + 8 * WIDTH if precision == "int8" else 0)
        assert sizes(index.settings, tmp_path / precision, COUNT) == (COUNT * expected + header, 0)


def test_a_cut_index_is_exact_search_among_the_cut_vectors(tmp_path):
    rows, scores = made(IndexSettings(dimension=7), tmp_path).search(QUERIES, 10)
    exact = top_k(narrow(QUERIES, 7, True), narrow(PASSAGES, 7, True), 10)
    assert np.array_equal(rows, exact[0]) and np.array_equal(scores, exact[1])


@pytest.fixture(scope="module")
def coded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("coded")
    for precision in ("fp32", "int8"):
        made(IndexSettings(precision=precision), folder / precision)
    bits = made(IndexSettings(precision="binary", rescore=0), folder / "binary")
    return bits.first, {p: Codes.open(folder / p, p, WIDTH) for p in ("fp32", "int8")}


@hypothesis_settings(max_examples=25)
@given(st.integers(0, 999), st.integers(1, 12), st.integers(1, 12), st.integers(1, 12))
def test_scoring_more_again_never_lowers_recall(coded, seed, k, fewer, more):
    bits, codes = coded
    queries = unit_vectors(3, seed, WIDTH, 0.1)
    best = top_k(queries, PASSAGES, k)[0]

    def found(rescore):
        settings = IndexSettings(precision="binary", rescore=rescore, rescore_with="fp32").resolve(WIDTH)
        return recall(VectorIndex(settings, True, bits, codes["fp32"]).search(queries, k)[0], best)

    assert found(min(fewer, more)) <= found(max(fewer, more))
    assert found(COUNT) == 1


def test_no_more_than_there_are(tmp_path):
    for number, settings in enumerate((IndexSettings(), IndexSettings(precision="binary"))):
        rows, scores = made(settings, tmp_path / str(number), PASSAGES[:3]).search(QUERIES, 10)
        assert sorted(rows[0][rows[0] >= 0]) == [0, 1, 2]
        assert (scores[rows < 0] == -np.inf).all()


def test_another_number_of_vectors_is_damage(tmp_path):
    index = made(IndexSettings(precision="binary"), tmp_path)
    with pytest.raises(ValueError, match="holds 400 vectors, not 399"):
        read(index.settings, True, tmp_path, "test", 399)


def test_usearch_binary_scores_are_those_of_the_signs(tmp_path):
    settings = IndexSettings("usearch", "binary", rescore=0, effort=400)
    rows, scores = made(settings, tmp_path).search(QUERIES, 10)
    signs = np.where(QUERIES > 0, 1, -1) @ np.where(PASSAGES > 0, 1, -1).T
    assert np.array_equal(scores, np.take_along_axis(signs, rows, axis=1))
