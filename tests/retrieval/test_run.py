"""Runs go to Parquet and to TREC files and come back as they were."""

from __future__ import annotations

import gzip

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from stepwell.collection import open_collection
from stepwell.errors import StepwellError
from stepwell.retrieval.run import Run


def make_run(lists, queries=None):
    """Build a run from one {passage: score} a query, best first."""
    depth = max([1, *map(len, lists)])
    passages, scores = np.full((len(lists), depth), -1, np.int32), np.full((len(lists), depth), -np.inf, np.float32)
    for i, found in enumerate(lists):
        passages[i, : len(found)], scores[i, : len(found)] = list(found), list(found.values())
    return Run(
        np.arange(len(lists), dtype=np.int32) if queries is None else np.array(queries, np.int32), passages, scores
    )


def assert_same(one, other):
    for name in ("queries", "passages", "scores"):
        assert getattr(one, name).tolist() == getattr(other, name).tolist()
        assert getattr(one, name).dtype == getattr(other, name).dtype


@st.composite
def runs(draw):
    """Runs over the tiny collection, ties and empty lists included."""
    queries = draw(st.lists(st.integers(0, 39), unique=True, min_size=1, max_size=5))
    scores = st.sampled_from([-2.5, 0.0, 0.1, 1.0, 1e-30, 7e6]) | st.floats(-100, 100, width=32)
    lists = []
    for _ in queries:
        passages = draw(st.lists(st.integers(0, 59), unique=True, max_size=6))
        lists.append(dict(zip(passages, sorted((draw(scores) for _ in passages), reverse=True), strict=True)))
    return make_run(lists, queries)


@settings(max_examples=30)
@given(runs())
def test_parquet_gives_it_back_to_the_bit(tiny_collection, tmp_path_factory, run):
    path = tmp_path_factory.mktemp("run") / "run.parquet"
    run.save(path, tiny_collection)
    assert_same(Run.load(path, tiny_collection), run)


@settings(max_examples=30)
@given(runs())
def test_trec_gives_the_order_back_and_leaves_no_ties(tiny_collection, tmp_path_factory, run):
    path = tmp_path_factory.mktemp("run") / "run.trec"
    run.to_trec(path, tiny_collection)
    again = Run.from_trec(path, tiny_collection, run.queries)
    depth = again.depth
    assert again.passages.tolist() == run.passages[:, :depth].tolist()
    assert (run.passages[:, depth:] == -1).all()
    filled = again.passages >= 0
    assert again.scores[filled] == pytest.approx(run.scores[:, :depth][filled], rel=1e-5, abs=1e-30)
    for row in again.scores:
        there = row[np.isfinite(row)]
        assert (there[1:] < there[:-1]).all()


def test_a_trec_line_has_ids_rank_score_and_tag(tiny_collection, tmp_path):
    make_run([{4: 2.5, 0: 2.5}]).to_trec(tmp_path / "run", tiny_collection, "mine")
    first, second = (line.split() for line in (tmp_path / "run").read_text().splitlines())
    assert first == ["query:00", "Q0", "doc/004-harvest", "1", "2.5", "mine"]
    assert second[:4] == ["query:00", "Q0", "doc/000-river", "2"]
    assert 2.4999 < float(second[4]) < 2.5


SPACED = ["my notes.md#1", "50%25 of a b", "100%", "a%20c", "ü\u00a0b\u2028\x1c", " c", "plain", "%zz d"]
SPACED += ["a c", "a%2520c", "50% of a b"]
"""Ids with white space of all kinds, with signs that look encoded, and with both; some are what others become."""


@pytest.fixture
def spaced(tiny_directory):
    corpus = [{"_id": name, "text": f"text {i}"} for i, name in enumerate(SPACED)]
    queries = [{"_id": name, "text": f"query {i}"} for i, name in enumerate(SPACED)]
    return open_collection(tiny_directory(corpus, queries, train=[(SPACED[0], SPACED[0], 1)]))


def test_ids_with_white_space_are_one_field_and_come_back(spaced, tmp_path):
    each = len(SPACED)
    run = make_run([{(row + i) % each: float(each - i) for i in range(each)} for row in range(each)])
    run.to_trec(tmp_path / "run", spaced)
    lines = [line.split() for line in (tmp_path / "run").read_text(encoding="utf-8").split("\n")[:-1]]
    assert {len(fields) for fields in lines} == {6}
    assert lines[0][:3] == ["my%20notes.md#1", "Q0", "my%20notes.md#1"]
    assert {fields[0] for fields in lines} >= {"plain", "100%", "a%20c", "a%2520c"}  # as they stand
    assert len({fields[0] for fields in lines}) == each
    assert_same(Run.from_trec(tmp_path / "run", spaced, run.queries), run)


def test_an_id_that_a_collection_has_is_not_decoded(tiny_directory, tmp_path):
    texts = [{"_id": name, "text": name} for name in ("a b", "a%20b", "c d")]
    collection = open_collection(tiny_directory(texts, texts, train=[("a b", "a b", 1)]))
    (tmp_path / "run").write_text("a%20b Q0 a%20b 1 2 x\na%20b Q0 c%20d 2 1 x\nc%20d Q0 a%20b 1 1 x\n")
    run = Run.from_trec(tmp_path / "run", collection, np.arange(3, dtype=np.int32))
    assert run.passages.tolist() == [[-1, -1], [1, 2], [1, -1]]
    few = Run.from_trec(tmp_path / "run", collection, np.array([0], np.int32))
    assert few.passages.tolist() == [[-1]]  # the lines are another query's
    (tmp_path / "run").write_text("c%20d Q0 e%20f 1 2 x\n")
    with pytest.raises(StepwellError, match=r"run:1: .* the id 'e%20f'"):
        Run.from_trec(tmp_path / "run", collection, np.arange(3, dtype=np.int32))


def test_reading_trec_sorts_and_ignores_other_queries(tiny_collection, tmp_path):
    (tmp_path / "run").write_text(
        "query:01 Q0 doc/001-engine 1 0.5 x\nquery:07 Q0 doc/002-violin 1 9 x\nquery:01 Q0 doc/003-glacier 2 1e1 x\n"
    )
    run = Run.from_trec(tmp_path / "run", tiny_collection, np.array([1, 2], np.int32))
    assert_same(run, make_run([{3: 10.0, 1: 0.5}, {}], [1, 2]))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("query:01 Q0 doc/001-engine 1 0.5", r"run:2: .*six fields .* this one 5"),
        ("query:01 Q0 doc/001-engine 1 high x", r"run:2: the score 'high' is no number"),
        ("query:01 Q0 nowhere 1 0.5 x", r"run:2: .*nowhere"),
        ("query:01\tdoc/001-engine\tfirst", r"run:2: the rank 'first' is no number"),
    ],
)
def test_a_bad_trec_line_is_named(tiny_collection, tmp_path, line, message):
    (tmp_path / "run").write_text(f"query:01 Q0 doc/000-river 1 0.5 x\n{line}\n")
    with pytest.raises(StepwellError, match=message):
        Run.from_trec(tmp_path / "run", tiny_collection, np.array([1], np.int32))


def test_a_run_over_another_collection_is_refused(tiny_collection, tiny_directory, tmp_path):
    make_run([{0: 1.0}]).save(tmp_path / "run.parquet", tiny_collection)
    with pytest.raises(StepwellError, match="another collection"):
        Run.load(tmp_path / "run.parquet", open_collection(tiny_directory()))


def test_top_cuts_every_list():
    run = make_run([{4: 3.0, 2: 2.0, 1: 1.0}, {5: 1.0}]).top(2)
    assert run.depth == 2
    assert run.passages.tolist() == [[4, 2], [5, -1]]


def test_select_takes_lists_in_the_order_asked_for():
    run = make_run([{4: 3.0}, {5: 1.0}, {6: 2.0}], [10, 20, 30])
    assert_same(run.select(np.array([30, 10], np.int32)), make_run([{6: 2.0}, {4: 3.0}], [30, 10]))
    with pytest.raises(KeyError):
        run.select(np.array([11], np.int32))


def test_arrays_that_do_not_belong_together_are_refused():
    with pytest.raises(ValueError, match="do not belong together"):
        Run(np.zeros(2, np.int32), np.zeros((2, 3), np.int32), np.zeros((2, 4), np.float32))
    with pytest.raises(ValueError, match="do not belong together"):
        Run(np.zeros(1, np.int32), np.zeros((2, 3), np.int32), np.zeros((2, 3), np.float32))


def test_lines_of_three_kinds_and_packed_files_are_read(tiny_collection, tmp_path):
    trec = "query:01 Q0 doc/001-engine 7 0.5 x\n\nquery:01\tQ0\tdoc/003-glacier\t1\t0.75\tx\n"
    marco = "query:01\tdoc/001-engine\t2\nquery:01 doc/003-glacier 1\n"
    top = "query:01\tdoc/003-glacier\twhich one\ta text\nquery:01\tdoc/001-engine\twhich one\tb text\n"
    for name, text in {"trec": trec, "marco": marco, "top1000": top}.items():
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(text.encode()))
        run = Run.from_trec(tmp_path / f"{name}.gz", tiny_collection, np.array([1, 9], np.int32))
        assert run.passages.tolist() == [[3, 1], [-1, -1]] and run.queries.tolist() == [1, 9]


def test_equal_scores_of_a_file_are_ordered_by_row(tiny_collection, tmp_path):
    (tmp_path / "run").write_text(
        "".join(f"query:01 Q0 {name} 1 2.5 x\n" for name in ("doc/003-glacier", "doc/001-engine"))
    )
    assert Run.from_trec(tmp_path / "run", tiny_collection, np.array([1], np.int32)).passages.tolist() == [[1, 3]]


def test_a_damaged_packed_run_is_told(tiny_collection, tmp_path):
    (tmp_path / "run.gz").write_bytes(gzip.compress(b"query:01 Q0 doc/001-engine 1 0.5 x\n" * 999)[:-20])
    with pytest.raises(StepwellError, match="cut off or damaged after line"):
        Run.from_trec(tmp_path / "run.gz", tiny_collection, np.array([1], np.int32))


@pytest.mark.parametrize(
    ("score", "said"), [("nan", "2: the score is nan"), ("0.1", "'doc/001-engine' twice for the query 'query:00'")]
)
def test_a_run_with_a_rank_that_means_nothing_is_refused(tiny_collection, tmp_path, score, said):
    (tmp_path / "run").write_text(f"query:00 Q0 doc/001-engine 1 0.5 x\nquery:00 Q0 doc/001-engine 2 {score} x\n")
    with pytest.raises(StepwellError, match=said):
        Run.from_trec(tmp_path / "run", tiny_collection, np.array([0], np.int32))


def test_a_byte_order_mark_costs_no_line(tiny_collection, tmp_path):
    lines = "\ufeffquery:00 Q0 doc/001-engine 1 0.5 x\nquery:00 Q0 doc/002-violin 2 0.4 x\n"
    (tmp_path / "run").write_text(lines, encoding="utf-8")
    assert Run.from_trec(tmp_path / "run", tiny_collection, np.array([0], np.int32)).passages.tolist() == [[1, 2]]
