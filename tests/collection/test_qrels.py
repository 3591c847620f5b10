from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, strategies as st

from stepwell.collection import Qrels

GRADES = st.dictionaries(st.tuples(st.integers(0, 9), st.integers(0, 9)), st.integers(0, 3), max_size=30)


def made(grades: dict[tuple[int, int], int]) -> Qrels:
    pairs = np.array(list(grades), dtype=np.int32).reshape(-1, 2)
    return Qrels(pairs[:, 0], pairs[:, 1], np.array(list(grades.values()), dtype=np.int32))


@given(GRADES)
def test_it_says_what_a_dictionary_of_grades_says(grades):
    qrels = made(grades)
    assert len(qrels) == len(grades)
    assert qrels.query_rows.tolist() == sorted({q for (q, _), grade in grades.items() if grade > 0})
    for query in range(10):
        mine = {p: grade for (q, p), grade in grades.items() if q == query}
        assert qrels.passages[qrels.queries == query].tolist() == sorted(mine)
        positives = sorted((p for p, grade in mine.items() if grade > 0), key=lambda p: (-mine[p], p))
        assert qrels.positives(query).tolist() == positives
    queries, passages = np.mgrid[-1:10, -1:10]
    expected = np.vectorize(lambda q, p: grades.get((q, p), 0) > 0)(queries, passages)
    assert (qrels.is_positive(queries, passages) == expected).all()


@given(GRADES, st.sets(st.integers(0, 9)))
def test_restricting_keeps_the_judgements_of_the_given_queries(grades, kept):
    left = made(grades).restrict(np.array(sorted(kept), dtype=np.int32))
    assert len(left) == sum(query in kept for query, _ in grades)
    assert set(left.query_rows.tolist()) <= kept


def test_is_positive_broadcasts_a_batch_of_queries_against_a_batch_of_passages():
    qrels = Qrels([0, 1, 1], [3, 4, 5], [1, 2, 0])
    known = qrels.is_positive(np.array([[0], [1]]), np.array([3, 4, 5, -1]))
    assert known.tolist() == [[True, False, False, False], [False, True, False, False]]


def test_arrays_are_sorted_typed_and_read_only():
    qrels = Qrels([1, 0], [2, 3], [1, 1])
    assert qrels.queries.tolist() == [0, 1] and qrels.queries.dtype == np.int32
    with pytest.raises(ValueError, match="read-only"):
        qrels.grades[0] = 5


def test_a_pair_judged_twice_and_unequal_lengths_are_refused():
    with pytest.raises(ValueError, match="twice"):
        Qrels([0, 0], [1, 1], [1, 2])
    with pytest.raises(ValueError, match="differ in shape"):
        Qrels([0], [1, 2], [1, 1])


def test_queries_that_are_asked_count_without_a_positive_and_follow_a_restriction():
    qrels = Qrels([3, 5], [0, 0], [1, 0], asked=[4, 7], relevant_from=2)
    assert qrels.query_rows.tolist() == [3, 4, 7] and qrels.query_rows.dtype == np.int32
    part = qrels.restrict([3, 7])
    assert (part.query_rows.tolist(), part.asked.tolist(), part.relevant_from) == ([3, 7], [7], 2)
    assert not len(qrels.positives(4)) and not len(qrels.positives(7))
