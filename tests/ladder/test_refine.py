"""Refine: which queries are selected, from the ranks of their first positive, and what a round did to them."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, strategies as st
from hypothesis.extra.numpy import arrays

from stepwell.collection import Qrels
from stepwell.distil.candidates import Candidates
from stepwell.distil.refine import MISSING, can_be_selected, first_answer_ranks, first_positive_ranks, funnel, selected
from stepwell.evaluation.answers import has_answer
from stepwell.files import read_json
from stepwell.ladder import refine
from stepwell.ladder.stage import Job, Settings
from stepwell.recipe import Mining
from stepwell.retrieval.run import Run
from stepwell.systems.records import Selection


def ints(*values):
    return np.array(values, dtype=np.int32)


QRELS = Qrels(ints(0, 0, 1, 2, 2, 3), ints(5, 7, 6, 4, 9, 8), ints(1, 2, 1, 0, 1, 1))


def run_of(lists):
    passages = np.array(lists, dtype=np.int32)
    falling = np.broadcast_to(-np.arange(passages.shape[1], dtype=np.float32), passages.shape)
    return Run(np.arange(len(lists), dtype=np.int32), passages, np.where(passages >= 0, falling, -np.inf))


def test_the_rank_is_that_of_the_best_placed_positive():
    run = run_of([[1, 7, 5], [6, 1, 2], [4, 3, 9], [1, 2, -1]])
    # query 0: the second of its positives comes first; query 2: grade 0 is no positive; query 3: not in the list
    assert first_positive_ranks(run, QRELS).tolist() == [2, 1, 3, MISSING]


class Known:
    """Answers to queries; passage n is "number n", and query 4 has none."""

    def __init__(self):
        self.read = set()

    def answers(self, query):
        return [["number 7", "Number 5"], ["NUMBER 1"], ["9"], ["number 30"], []][query]

    def bodies(self, rows):
        self.read |= set(np.asarray(rows).tolist())
        return [f"number {row}" for row in rows]


def test_by_answers_the_rank_is_that_of_the_first_passage_that_holds_one():
    run = run_of([[1, 7, 5], [6, 1, 2], [4, 3, 9], [1, 2, -1], [2, 8, 1]])
    qrels = Qrels(ints(0, 1, 2, 3, 4), ints(1, 6, 4, 2, 8), ints(1, 1, 1, 1, 1), answers=Known())
    assert first_positive_ranks(run, qrels).tolist() == [1, 1, 1, 2, 2]
    # query 3: 30 is not in the list, and its positive does not count; query 4 has no answers, so its positive does
    assert first_answer_ranks(run, qrels).tolist() == [2, 2, 3, MISSING, 2]


@given(st.lists(st.permutations(range(40)), min_size=5, max_size=5))
def test_ranks_by_answers_are_those_of_the_answers_judged_one_by_one(lists):
    run, known = run_of(lists), Known()
    qrels = Qrels(ints(*range(5)), ints(*range(5)), ints(1, 1, 1, 1, 1), answers=known)
    right = [[bool(has_answer(f"number {row}", known.answers(query))) for row in lists[query]] for query in range(4)]
    expected = [row.index(True) + 1 for row in right] + [lists[4].index(4) + 1]
    assert first_answer_ranks(run, qrels).tolist() == expected


def test_below_the_first_answers_hardly_anything_is_read():
    known = Known()
    qrels = Qrels(ints(0, 1), ints(0, 0), ints(1, 1), answers=known)
    run = run_of([[7, *range(100, 199)], [*range(50, 60), 1, *range(200, 289)]])
    assert first_answer_ranks(run, qrels).tolist() == [1, 11]
    assert known.read == {7, *range(100, 107), *range(50, 60), 1, *range(200, 229)}  # 8 of both, 32 more of the second


RANKS = {  # (teacher, student): selected by `top`, by `better`, with worst = 15
    (1, 1): (False, False),
    (1, 2): (True, True),
    (1, 15): (True, True),
    (1, 16): (False, True),
    (2, 3): (False, True),
    (3, 2): (False, False),
    (2, 2): (False, False),
    (15, 16): (False, True),
    (16, 17): (False, False),
    (1, MISSING): (False, True),
    (MISSING, 2): (False, False),
    (MISSING, MISSING): (False, False),
}


@pytest.mark.parametrize("teacher, student", RANKS)
def test_the_papers_two_rules(teacher, student):
    pair = np.array([teacher]), np.array([student])
    got = tuple(bool(selected(*pair, rule, 15)[0]) for rule in ("top", "better"))
    assert got == RANKS[teacher, student]


ranks = arrays(np.int64, st.shared(st.integers(1, 20), key="n"), elements=st.integers(1, 30))


@given(ranks, ranks, st.sampled_from(["top", "better"]), st.integers(1, 25), st.integers(1, 25))
def test_no_query_is_selected_that_was_not_worth_asking_about(teacher, student, rule, worst, depth):
    # A teacher that reranks the first `depth` passages leaves a positive that is in them in them, and others behind.
    teacher = np.where(student <= depth, np.minimum(teacher, depth), student)
    chosen = selected(teacher, student, rule, worst)
    assert not (chosen & ~can_be_selected(student, rule, worst, depth)).any()


def test_the_funnel_counts_every_query_once():
    student = np.array([1, 2, 3, 4, 8, 16, MISSING, 3])
    teacher = np.array([-1, 1, 1, 7, 15, -1, -1, 1])
    rows = {(row["student"], row["teacher"]): row["queries"] for row in funnel(student, teacher)}
    assert rows == {
        ("1", "-"): 1,
        ("2-3", "1"): 3,
        ("4-7", "4-7"): 1,
        ("8-15", "8-15"): 1,
        ("16+", "-"): 1,
        ("missing", "-"): 1,
    }
    table = Selection(True, "top", 8, 5, 3, [], funnel(student, teacher)).table().text()
    assert "3 of 8 queries selected" in table and "teacher not asked" in table


@given(ranks, ranks)
def test_the_funnel_loses_nobody(student, teacher):
    assert sum(row["queries"] for row in funnel(student, teacher)) == len(student)


@pytest.fixture
def world(tiny_collection, tmp_path, monkeypatch):
    """Four training queries: student ranks 1, 2, 3, missing; the teacher puts the passage with the lowest row first."""
    asked = []

    def reranked(job, run, depth):
        asked.extend(run.queries.tolist())
        head = run.top(depth)
        return Run(run.queries, np.sort(head.passages, axis=1), head.scores), np.ones(len(run.queries), dtype=np.bool_)

    monkeypatch.setattr(refine, "reranked", reranked)
    lists = [[10, 1, 2, 3], [41, 20, 42, 43], [5, 3, 30, 4], [50, 51, 52, 53]]
    qrels = Qrels(ints(0, 1, 2, 3), ints(10, 20, 30, 40), ints(1, 1, 1, 1))
    source, folder = tmp_path / "source", tmp_path / "select"
    source.mkdir()
    folder.mkdir()
    run_of(lists).save(source / "train.parquet", tiny_collection)
    splits = SimpleNamespace(train=qrels, synthetic={})
    around = SimpleNamespace(collection=tiny_collection, splits=splits, seed=1)

    def job(mining=(), **settings):
        mined = Mining(**{"near_duplicate": None, "first": 2, "pool": 9, **dict(mining)})  # refine has its own
        own = {"rule": "top", "worst": 15, "depth": 4, "candidates": 3, "mining": mined.model_dump(), **settings}
        return Job("select-1", Settings("select-1", own), {"run": source}, folder, around)

    return SimpleNamespace(around=around, job=job, folder=folder, asked=asked, lists=lists)


def test_select_asks_only_about_open_queries_and_mines_the_chosen_hardest_first(world):
    refine.select(world.job())
    decision = read_json(world.folder / "decision.json")
    assert world.asked == [1, 2]  # query 0 is right already, the positive of query 3 is not in its list
    assert decision["selected_queries"] == [1]  # of query 2 the teacher makes rank 4
    assert decision["go"] and (decision["queries"], decision["asked"], decision["selected"]) == (4, 2, 1)
    found = Candidates.load(world.folder / "candidates.parquet", world.around.collection)
    assert found.queries.tolist() == [1]
    assert found.passages.tolist() == [[20, 41, 42]]  # the positive, then by rank


def test_with_denoise_the_teacher_says_what_is_no_negative_and_that_is_said(world, monkeypatch):
    def score(queries, passages, progress):
        return np.where(passages == 41, 9.0, 1.0)  # 41 looks better to it than the positive

    monkeypatch.setattr(Job, "teacher", lambda self: SimpleNamespace(score=score))
    refine.select(world.job(mining={"denoise": 0.0}))
    found = Candidates.load(world.folder / "candidates.parquet", world.around.collection)
    assert found.passages.tolist() == [[20, 42, 43]]
    said = " ".join(str(line) for line in refine.say_selection(world.folder, world.around))
    assert "scored like a positive by the teacher 1" in said
    assert "The teacher was asked only about" in said


def test_select_by_answers_takes_the_first_passage_with_an_answer_for_the_first_positive(world):
    texts = {41: "Paris", 42: "in paris", 30: "Oslo", 3: "Oslo again"}
    answers = SimpleNamespace(
        answers=lambda query: [["Paris"], ["Paris"], ["Oslo"], ["Rome"]][query],
        bodies=lambda rows: [texts.get(int(row), "nothing") for row in rows],
    )
    world.around.splits.train = replace(world.around.splits.train, answers=answers)
    # Query 1 is right already: 41 holds an answer, and its positive does not. Query 2: the student has 3 at rank 2, the
    # teacher puts it first; by the qrels its positive, 30, would be at 3 and then at 4.
    refine.select(world.job(ranks="answers", rule="better"))
    chosen = Selection.load(world.folder)
    assert world.asked == [2] and chosen.selected_queries == [2] and chosen.ranks == "answers"
    assert {(row["student"], row["teacher"]): row["queries"] for row in chosen.funnel} == {
        ("1", "-"): 1,
        ("2-3", "1"): 1,
        ("missing", "-"): 2,
    }
    assert chosen.table().title == "Rank of the first passage with an answer"
    found = Candidates.load(world.folder / "candidates.parquet", world.around.collection)
    assert found.passages.tolist() == [[30, 5, 4]]  # 3 holds an answer: it is no negative


def test_when_nothing_is_selected_the_round_does_not_go(world):
    refine.select(world.job(worst=1))
    decision = read_json(world.folder / "decision.json")
    assert decision["go"] is False and world.asked == []
    assert decision["funnel"] and decision["selected"] == 0


def test_the_outcome_counts_fixed_and_broken(world, tmp_path):
    before, after, gate = (tmp_path / name for name in ("before", "after", "gate"))
    for folder in (before, after, gate):
        folder.mkdir()
    run_of(world.lists).save(before / "train.parquet", world.around.collection)
    # query 0 was right and is broken, 1 is fixed, 2 comes nearer, 3 was missing and is found
    run_of([[1, 10, 2, 3], [20, 41, 42, 43], [5, 30, 3, 4], [50, 51, 40, 53]]).save(
        after / "train.parquet", world.around.collection
    )
    Selection(True, selected_queries=[1, 2]).save(gate)
    inputs = {"before": before, "after": after, "selection": gate}
    refine.count_outcome(replace(world.job(), inputs=inputs))
    assert read_json(world.folder / "outcome.json") == {
        "selected": 2,
        "fixed": 1,
        "nearer": 2,
        "farther": 0,
        "broken": 1,
        "right_before": 1,
        "right_after": 1,
    }


def test_the_outcome_by_answers_counts_passages_that_hold_one(world, tmp_path):
    before, after, gate = (tmp_path / name for name in ("before", "after", "gate"))
    for folder in (before, after, gate):
        folder.mkdir()
    answers = SimpleNamespace(
        answers=lambda query: ["Paris"], bodies=lambda rows: ["Paris" if row in (1, 41, 5, 99) else "" for row in rows]
    )
    world.around.splits.train = replace(world.around.splits.train, answers=answers)
    # the first answer of query 0 goes from rank 2 to 1, of 1 from 1 to 2, of 2 from 1 to none; 3 has none
    run_of([[10, 1, 2], [41, 20, 42], [5, 3, 30], [50, 51, 52]]).save(before / "train.parquet", world.around.collection)
    run_of([[1, 10, 2], [20, 41, 42], [3, 30, 4], [50, 51, 40]]).save(after / "train.parquet", world.around.collection)
    Selection(True, selected_queries=[0, 1]).save(gate)
    inputs = {"before": before, "after": after, "selection": gate}
    refine.count_outcome(replace(world.job(ranks="answers"), inputs=inputs))
    counted = read_json(world.folder / "outcome.json")
    assert counted["fixed"] == 1 and counted["nearer"] == 1 and counted["farther"] == 1
    assert (counted["broken"], counted["right_before"], counted["right_after"]) == (2, 2, 1)
