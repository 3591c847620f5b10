"""Vectors in fewer bytes: as sentence-transformers makes them, searched and scored as what they stand for."""

import numpy as np
import pytest
from sentence_transformers.util.quantization import quantize_embeddings

from common import unit_vectors
from stepwell.indexes import codes as module
from stepwell.indexes.codes import Codes, narrow, ranges_of, write_codes
from stepwell.retrieval.search import top_k

WIDTH = 20


PASSAGES, QUERIES = unit_vectors(300, 0, WIDTH, 0.2), unit_vectors(12, 1, WIDTH, 0.2)


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    monkeypatch.setattr(module, "BLOCK", 70)


def write(folder, precision, dimension=WIDTH, passages=PASSAGES):
    return write_codes(passages, folder, precision, dimension, normalise=True)


def decoded(codes):
    """The numbers that are stored, one by one."""
    if codes.precision == "binary":
        return np.unpackbits(codes.values, axis=1, count=codes.dimension) * 2.0 - 1
    if codes.precision == "int8":
        low, high = codes.ranges
        return low + (codes.values.astype(np.float64) + 128.5) * (high - low) / 255
    return codes.values.astype(np.float64)


def test_int8_and_bits_are_those_of_sentence_transformers(tmp_path):
    int8, bits = write(tmp_path, "int8"), write(tmp_path, "binary")
    assert np.array_equal(int8.values, quantize_embeddings(PASSAGES, "int8", calibration_embeddings=PASSAGES))
    assert np.array_equal(int8.ranges, [PASSAGES.min(axis=0), PASSAGES.max(axis=0)])
    assert np.array_equal(bits.values, quantize_embeddings(PASSAGES, "ubinary"))
    assert (int8.values.nbytes, bits.values.nbytes) == (300 * 20, 300 * 3)


def test_int8_is_off_by_half_a_step_at_most(tmp_path):
    codes = write(tmp_path, "int8")
    step = (codes.ranges[1] - codes.ranges[0]) / 255
    assert (np.abs(decoded(codes) - PASSAGES) <= step * 0.5 + 1e-6).all()


def test_a_dimension_that_never_changes_is_kept_exactly(tmp_path):
    passages = PASSAGES.copy()
    passages[:, 3] = 0.25
    codes = write(tmp_path, "int8", passages=passages)
    assert decoded(codes)[:, 3] == pytest.approx(0.25)
    rows = np.arange(12, dtype=np.int32)[:, None]
    assert codes.scores(QUERIES, rows)[:, 0] == pytest.approx((QUERIES * passages[:12]).sum(axis=1), abs=0.03)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8", "binary"])
def test_scores_are_inner_products_of_the_query_in_fp32_with_what_is_stored(precision, tmp_path):
    codes = write(tmp_path, precision)
    rows = np.random.default_rng(2).integers(0, 300, (12, 9)).astype(np.int32)
    rows[3:5, 2:6] = -1
    expected = np.take_along_axis(QUERIES @ decoded(codes).T, np.maximum(rows, 0), axis=1)
    scores = codes.scores(QUERIES, rows)
    assert scores[rows >= 0] == pytest.approx(expected[rows >= 0], abs=1e-5)
    assert (scores[rows < 0] == -np.inf).all()


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_search_is_exact_among_the_stored_numbers(precision, tmp_path):
    codes = write(tmp_path, precision)
    rows, scores = codes.search(QUERIES, 7)
    best = np.sort(QUERIES @ decoded(codes).T, axis=1)[:, ::-1][:, :7]
    assert scores == pytest.approx(best, abs=1e-5)
    assert codes.scores(QUERIES, rows) == pytest.approx(scores, abs=1e-5)


def test_bits_are_searched_by_the_signs_of_the_query_too(tmp_path):
    codes = write(tmp_path, "binary")
    rows, scores = codes.search(QUERIES, 7)
    signs = np.where(QUERIES > 0, 1, -1) @ decoded(codes).T
    assert np.array_equal(rows, np.argsort(-signs, axis=1, kind="stable")[:, :7])
    assert np.array_equal(scores, np.take_along_axis(signs, rows, axis=1))


def test_cut_vectors_have_the_length_1_again_only_where_the_similarity_is_cosine(tmp_path):
    cut = write(tmp_path, "fp32", 8)
    assert np.linalg.norm(cut.values, axis=1) == pytest.approx(1)
    assert np.array_equal(cut.values, narrow(PASSAGES, 8, True))
    assert np.array_equal(write_codes(PASSAGES, tmp_path, "fp32", 8, normalise=False).values, PASSAGES[:, :8])
    assert narrow(np.zeros((1, 4), np.float32), 2, True).tolist() == [[0, 0]]


def test_fp32_is_exact_search(tmp_path):
    for ours, exact in zip(write(tmp_path, "fp32").search(QUERIES, 9), top_k(QUERIES, PASSAGES, 9), strict=True):
        assert np.array_equal(ours, exact)


def test_ranges_of_blocks_are_those_of_all():
    assert np.array_equal(ranges_of(iter([PASSAGES[:9], PASSAGES[9:]])), [PASSAGES.min(axis=0), PASSAGES.max(axis=0)])


def test_files_of_another_form_are_not_opened(tmp_path):
    write(tmp_path, "int8")
    np.save(tmp_path / "binary.npy", np.zeros((300, 20), np.uint8))
    (tmp_path / "fp32.npy").write_bytes((tmp_path / "int8.npy").read_bytes()[:200])
    for precision, dimension in (("int8", 8), ("binary", WIDTH), ("fp32", WIDTH)):
        with pytest.raises((ValueError, OSError)):
            Codes.open(tmp_path, precision, dimension)
