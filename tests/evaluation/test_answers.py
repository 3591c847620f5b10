"""The answer match is DPR's, case by case; measures by answers are hits."""

from __future__ import annotations

import unicodedata

import numpy as np
import pytest
import regex
from hypothesis import given, strategies as st

from stepwell.collection import Qrels
from stepwell.evaluation.answers import has_answer, holding, judge, tokens
from stepwell.evaluation.measures import evaluate
from stepwell.retrieval.run import Run

CASES = [
    # passage, answers, found, why
    ("The capital is Paris.", ["Paris"], True, "a word before a full stop"),
    ("The capital is PARIS.", ["paris"], True, "case"),
    ("the capital is paris", ["PARIS"], True, "case, the other way"),
    ("Parisian cafés", ["Paris"], False, "the beginning of a word"),
    ("a comparison", ["paris"], False, "the middle of a word"),
    ("Beyoncé Knowles", ["Beyoncé"], True, "an accent"),
    ("Beyonce\u0301 Knowles", ["Beyonc\u00e9"], True, "an accent in two ways of writing"),
    ("Beyonc\u00e9 Knowles", ["Beyonce\u0301"], True, "the same, the other way"),
    ("Beyonce Knowles", ["Beyoncé"], False, "an accent counts"),
    ("Beyoncé Knowles", ["Beyonce"], False, "so does its absence"),
    ("ÉCOLE NORMALE", ["école normale"], True, "case of an accented letter"),
    ("New York City", ["New York"], True, "two tokens"),
    ("York New City", ["New York"], False, "two tokens in the wrong order"),
    ("New old York", ["New York"], False, "two tokens with one between"),
    ("New\nYork", ["New York"], True, "a line break is a blank"),
    ("New\u00a0York", ["New  York"], True, "so is a fixed blank, and two blanks are one"),
    ("It ended 3-1 at home", ["3-1"], True, "a hyphen is a token on both sides"),
    ("It ended 3 - 1 at home", ["3-1"], True, "whatever blanks are around it"),
    ("It ended 3–1 at home", ["3-1"], False, "a dash is another token"),
    ("a well-known man", ["well known"], False, "a hyphen is not nothing"),
    ("the U.S. Army", ["U.S."], True, "full stops are tokens"),
    ("the US Army", ["U.S."], False, "and are needed"),
    ("the U.S. Army", ["US"], False, "and divide"),
    ("O'Connor won", ["O'Connor"], True, "an apostrophe"),
    ("O’Connor won", ["O'Connor"], False, "another apostrophe"),
    ("in 1969.", ["1969"], True, "a number"),
    ("in 19690", ["1969"], False, "part of a number"),
    ("1,000 people", ["1000"], False, "a comma divides"),
    ("1,000 people", ["1,000"], True, "on both sides"),
    ("about 20 km", ["20km"], False, "letters and digits are one token"),
    ("about 20km", ["20km"], True, "on both sides"),
    ("cost $5", ["$5"], True, "a sign"),
    ("cost $5", ["5"], True, "a number behind a sign"),
    ("東京タワー", ["東京"], False, "words without blanks are one token"),
    ("mañana", ["man"], False, "the letter before a mark"),
    ("one of two", ["three", "two"], True, "any of the answers"),
    ("one of two", ["three", "four"], False, "none of the answers"),
    ("Paris", ["Paris, France"], False, "an answer longer than the passage"),
    ("anything", [], False, "no answers"),
    ("", ["anything"], False, "an empty passage"),
    ("anything", [""], True, "an answer without tokens stands everywhere, by the rule"),
    ("", [" "], True, "even in an empty passage"),
    ("tail Paris", ["Paris"], True, "the end of a passage without a full stop"),
    ("fo\u200bo", ["foo"], False, "an invisible character divides"),
]


@pytest.mark.parametrize(("passage", "answers", "found", "why"), CASES, ids=[case[3] for case in CASES])
def test_an_answer_is_found_as_dpr_finds_it(passage, answers, found, why):
    assert has_answer(passage, answers) is found, why
    assert by_the_letter(passage, answers) is found, why


def by_the_letter(passage, answers):
    """Return what DPR's rule says, spelled out: compare the answer with every stretch of tokens."""
    letters = regex.compile(r"([\p{L}\p{N}\p{M}]+)|([^\p{Z}\p{C}])", regex.IGNORECASE | regex.MULTILINE)

    def words(text):
        return [match.group().lower() for match in letters.finditer(unicodedata.normalize("NFD", text))]

    row = words(passage)
    stretches = [words(answer) for answer in answers]
    return any(row[at : at + len(s)] == s for s in stretches for at in range(len(row) - len(s) + 1))


TEXT = st.text(alphabet="aAbé\u0301'-. 12\u00a0\0\nΣσς", max_size=12)


@given(TEXT, st.lists(TEXT, max_size=3))
def test_it_agrees_with_the_rule_spelled_out(passage, answers):
    assert has_answer(passage, answers) == by_the_letter(passage, answers)


class Written:
    """Answers and passages that are given, and which passages were read."""

    def __init__(self, answers, texts):
        self.all, self.texts, self.read = answers, texts, []

    def answers(self, query):
        return self.all[query]

    def bodies(self, rows):
        self.read.append([int(row) for row in rows])
        return [self.texts[row] for row in rows]


@given(st.lists(TEXT, min_size=1, max_size=4), st.lists(st.lists(TEXT, max_size=3), min_size=1, max_size=3))
def test_many_pairs_at_once_are_judged_as_each_alone(passages, asked):
    queries, rows = np.divmod(np.arange(len(asked) * len(passages), dtype=np.int32), np.int32(len(passages)))
    found = holding(Written(asked, passages), queries, rows)
    assert found.tolist() == [by_the_letter(passages[row], asked[q]) for q, row in zip(queries, rows, strict=True)]


def test_a_passage_is_read_once_however_many_ask_for_it_and_few_at_a_time(monkeypatch):
    monkeypatch.setattr("stepwell.evaluation.answers.AT_ONCE", 2)
    known = Written([["red"], ["blue"], []], ["a red one", "red and blue", "green", "blue", "never asked for"])
    queries, passages = np.array([0, 1, 2, 0, 1, 0, 1, 2]), np.array([3, 3, 1, 0, 0, 1, 1, 2])
    assert holding(known, queries, passages).tolist() == [False, True, False, True, False, True, True, False]
    assert known.read == [[0, 1], [2, 3]]
    assert holding(known, queries[:0], passages[:0]).tolist() == []


def test_tokens_are_runs_of_letters_digits_and_marks_and_single_signs():
    assert tokens("L'Été: 3½ €5!") == ["l", "'", "e\u0301te\u0301", ":", "3½", "€", "5", "!"]


class Known:
    """Three queries and five passages, of which 2 and 4 hold the answer of query 7, and 3 that of query 8."""

    def answers(self, query):
        return {7: ["Rome", "Roma"], 8: ["1969"], 9: []}[query]

    def bodies(self, rows):
        texts = ["Berlin", "Romeo", "Roma", "in 1969", "to ROME!"]
        return [texts[row] for row in rows]


def run(**lists):
    queries = np.array([int(name[1:]) for name in lists], np.int32)
    passages = np.array(list(lists.values()), np.int32)
    return Run(queries, passages, np.where(passages >= 0, -np.arange(passages.shape[1]), -np.inf).astype("f4"))


QRELS = Qrels([7], [0], [1], asked=[8, 9], answers=Known())


def test_the_passages_of_a_run_that_hold_an_answer_are_relevant_and_no_others():
    judged = judge(run(q7=[0, 4, 1, 2], q8=[3, 0, -1, -1], q5=[1, 2, 3, 4]), QRELS)
    assert list(zip(judged.queries, judged.passages, judged.grades, strict=True)) == [(7, 2, 1), (7, 4, 1), (8, 3, 1)]
    assert judged.query_rows.tolist() == [7, 8, 9]


def test_recall_by_answers_is_whether_one_of_the_first_k_has_one():
    found = evaluate(run(q7=[0, 4, 1, 2], q8=[0, 1, 4, 3]), QRELS, ["R@1", "R@2", "R@4", "RR@10", "Success@2", "P@4"])
    assert found.queries.tolist() == [7, 8, 9]
    assert found.of("R@1").tolist() == [0, 0, 0]
    assert found.of("R@2").tolist() == found.of("Success@2").tolist() == [1, 0, 0]
    assert found.of("R@4").tolist() == [1, 1, 0]
    assert found.of("RR@10").tolist() == [0.5, 0.25, 0]
    assert found.of("P@4").tolist() == [0.5, 0.25, 0]
    assert found.mean("R@4") == pytest.approx(2 / 3)


def test_a_run_that_finds_no_answer_at_all_counts_zero():
    assert evaluate(run(q7=[0, 1]), QRELS, ["R@5"]).of("R@5").tolist() == [0, 0, 0]


def test_a_part_of_the_queries_is_still_judged_by_answers():
    part = QRELS.restrict(np.array([8], np.int32))
    assert evaluate(run(q7=[4, 2], q8=[3, 2]), part, ["R@1"]).of("R@1").tolist() == [1]


def test_only_splits_with_answers_can_be_judged_by_them():
    with pytest.raises(ValueError, match="no answers"):
        judge(run(q7=[0]), Qrels([7], [0], [1]))
