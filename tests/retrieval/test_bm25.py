"""BM25: the formula, the words, the fillers, and an index that survives a disk."""

import math

import numpy as np
import pytest
from hypothesis import given, strategies as st
from hypothesis.extra.numpy import arrays

from stepwell.collection import open_collection
from stepwell.errors import StepwellError
from stepwell.retrieval.bm25 import K1, B, BM25Index, _top

PASSAGES = [
    "A stepwell is a staircase down to the water.",
    "Water boils at 100 degrees; cold water does not.",
    "The teacher scores passages, and the student learns.",
    "The student answers queries.",
    "Zwölf Boxkämpfer jagen Viktor.",
]
QUERIES = ["cold water", "student's passage", "zwölf 12", "of the", "xylophone"]


@pytest.fixture
def make(tiny_directory):
    """Return a factory of collections from texts of passages and queries; passage 0 answers query 0."""

    def make(passages, queries=QUERIES):
        corpus = [{"_id": f"p{i}", "text": text} for i, text in enumerate(passages)]
        asked = [{"_id": f"q{i}", "text": text} for i, text in enumerate(queries)]
        return open_collection(tiny_directory(corpus=corpus, queries=asked, test=[("q0", "p0", 1)]))

    return make


@pytest.fixture
def collection(make):
    return make(PASSAGES)


def test_scores_are_those_of_the_formula(collection):
    # Passage 1 is [water boil 100 degree cold water]; all five have 3, 6, 5, 3 and 4 words.
    length = 1 - B + B * 6 / 4.2
    idf = {n: math.log(1 + (5 - n + 0.5) / (n + 0.5)) for n in (1, 2)}  # by the passages that have the word
    expected = idf[1] / (1 + K1 * length) + idf[2] * 2 / (2 + K1 * length)  # cold once, water twice
    rows, scores = BM25Index.build(collection).search(["cold water"], depth=1)
    assert rows[0, 0] == 1
    assert scores[0, 0] == pytest.approx(expected)


def test_plurals_case_and_punctuation_do_not_matter(collection):
    run = BM25Index.build(collection).run(collection, np.array([1, 2], np.int32), depth=2)
    assert run.passages[0].tolist() in ([2, 3], [3, 2])
    assert run.passages[1].tolist() == [4, -1]


def test_passages_without_a_word_of_the_query_are_left_out(collection):
    run = BM25Index.build(collection).run(collection, np.array([3, 4, 0], np.int32), depth=3)
    assert run.queries.tolist() == [3, 4, 0]
    assert run.passages.tolist() == [[-1, -1, -1], [-1, -1, -1], [1, 0, -1]]
    assert (run.scores[:2] == -np.inf).all()


def test_lists_are_no_longer_than_the_collection(collection):
    assert BM25Index.build(collection).run(collection, np.array([0], np.int32), depth=1_000).depth == len(PASSAGES)


def test_a_saved_index_gives_the_same_lists(collection, tmp_path):
    index = BM25Index.build(collection)
    index.save(tmp_path / "bm25")
    again = BM25Index.load(tmp_path / "bm25")
    for ours, theirs in zip(index.search(QUERIES, 5), again.search(QUERIES, 5), strict=True):
        assert np.array_equal(ours, theirs)


@pytest.mark.parametrize("damage", ["missing", "cut", "empty"])
def test_a_damaged_index_says_what_to_do(collection, tmp_path, damage):
    BM25Index.build(collection).save(tmp_path)
    victim = next(tmp_path.glob("vocab.*" if damage == "cut" else "data.*"))
    if damage == "missing":
        victim.unlink()
    elif damage == "empty":
        victim.write_bytes(b"")
    else:
        victim.write_text(victim.read_text()[:20])
    with pytest.raises(StepwellError, match="no whole BM25 index"):
        BM25Index.load(tmp_path)


def test_a_collection_without_words_is_refused(make):
    collection = make(["?!", "... of the ..."])
    with pytest.raises(StepwellError, match="has a word in it"):
        BM25Index.build(collection).run(collection, np.array([0], np.int32), depth=5)


def test_a_passage_of_function_words_alone_is_no_obstacle(make):
    collection = make(["of the", "cold water"])
    assert BM25Index.build(collection).run(collection, np.array([0], np.int32), depth=5).passages.tolist() == [[1, -1]]


def test_names_in_code_fall_apart_into_words(make):
    collection = make(["Call read_csv first.", "Nothing else."], ["how to read a CSV"])
    assert BM25Index.build(collection).run(collection, np.array([0], np.int32), depth=1).passages.tolist() == [[0]]


def test_nothing_is_printed(collection, capfd):
    BM25Index.build(collection).run(collection, np.array([0, 1], np.int32), depth=2)
    assert capfd.readouterr() == ("", "")


@given(arrays(np.float32, st.integers(1, 40), elements=st.integers(0, 4).map(float)), st.integers(1, 45))
def test_the_best_are_found_in_order_and_equal_ones_by_row(scores, k):
    expected = [row for row in np.lexsort((np.arange(len(scores)), -scores)) if scores[row] > 0][:k]
    rows, found = _top(scores, k)
    assert rows.tolist() == expected
    assert found.tolist() == scores[expected].tolist()
