"""Natural Questions as DPR publishes them: quoted passages, questions with answers, one big JSON array."""

from __future__ import annotations

import json

import numpy as np
import pytest

import slices
from slices import Tiny, passage_id, query_id
from stepwell.collection import check_directory, open_collection, resolve_splits
from stepwell.collection.readers import lines
from stepwell.errors import StepwellError
from stepwell.evaluation import evaluate
from stepwell.recipe import CollectionSection
from stepwell.retrieval.run import Run


@pytest.fixture(scope="module")
def directory(tiny_path, tmp_path_factory):
    return slices.dpr(tiny_path, tmp_path_factory.mktemp("dpr") / "nq")


def by_text(collection, split):
    qrels = collection.qrels(split)
    return {
        collection.query_texts([query])[0]: [collection.passage_ids[row] for row in qrels.positives(query)]
        for query in qrels.query_rows
    }


@pytest.mark.parametrize("packed", [False, True])
def test_passages_questions_and_positives_are_those_that_were_written(tiny_path, tiny_collection, tmp_path, packed):
    collection = open_collection(slices.dpr(tiny_path, tmp_path / "nq", packed))
    assert collection.passage_texts() == tiny_collection.passage_texts()
    assert collection.splits == ("train", "dev", "test")
    made = Tiny(tiny_path)
    texts = dict(made.asked("train", "dev", "test"))
    for split in ("train", "dev"):
        expected: dict[str, list[str]] = {}
        for query, passage, grade in sorted(made.of(split), key=lambda judged: -judged[2]):
            if grade > 0:
                expected.setdefault(texts[query_id(query)], []).append(str(passage_id(passage)))
        assert by_text(collection, split) == expected  # what a person chose comes first
    assert collection.n_queries == 40
    assert not [problem for problem in check_directory(collection.path) if problem.severity == "error"]


def test_test_questions_have_answers_and_no_judgements_and_are_measured_by_answer(directory):
    collection = open_collection(directory)
    splits = resolve_splits(collection, CollectionSection(path="x"))
    assert len(splits.test) == 0 and len(splits.test.query_rows) == 6
    assert "dev, test: a passage counts as relevant when it holds an answer" in splits.notes
    query = int(splits.test.query_rows[0])
    (answer,) = collection.qrels("test").answers.answers(query)
    right = next(row for row, text in enumerate(collection.passage_texts()) if answer in text)
    wrong = (right + 1) % collection.n_passages
    run = Run(np.array([query], np.int32), np.array([[wrong, right]], np.int32), np.array([[2, 1]], np.float32))
    found = evaluate(run, splits.test, ["R@1", "R@5", "RR@10"])
    assert len(found.queries) == 6
    assert [found.of(measure)[0] for measure in ("R@1", "R@5", "RR@10")] == [0, 1, 0.5]
    assert found.of("R@5")[1:].tolist() == [0] * 5


def small(tmp_path, **changed):
    """Write three passages and one question for each split; keywords replace whole files."""
    record = {"question": "who", "answers": ["red"], "positive_ctxs": [{"passage_id": "1"}], "hard_negative_ctxs": []}
    files = {
        "psgs_w100.tsv": 'id\ttext\ttitle\n1\t"a ""red"" one"\tRed\n2\tgreen one\tRed\n3\tblue one\tBlue\n',
        "nq-test.qa.csv": "where\t['blue']\n",
        "biencoder-nq-train.json": json.dumps([record]),
    }
    for name, text in (files | {name.replace("__", "."): text for name, text in changed.items()}).items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


def test_an_answer_in_the_title_alone_is_none(tmp_path):
    collection = open_collection(small(tmp_path, **{"nq-test.qa.csv": "which\t['Red']\n"}))
    assert collection.passage_texts() == ['Red a "red" one', "Red green one", "Blue blue one"]
    known = collection.qrels("test").answers
    assert known.bodies([1, 0]) == ["green one", 'a "red" one']
    templated = CollectionSection(path=str(tmp_path), template="{title} [SEP] {text}")
    assert open_collection(templated).qrels("test").answers.bodies([1, 0]) == ["green one", 'a "red" one']
    query = collection.query_row(collection.query_ids[0])
    run = Run(np.array([query], np.int32), np.array([[1, 2, 0]], np.int32), -np.arange(3, dtype=np.float32)[None])
    assert evaluate(run, collection.qrels("test"), ["RR@10"]).mean("RR@10") == pytest.approx(1 / 3)


def test_answers_are_read_as_a_list_and_never_run(tmp_path):
    quoted = 'where\t[\'blue\', "o\'neil", \'l\\xe9on\']\n"a ""b"""\t"[""Wilhelm\'s""]"\n'
    collection = open_collection(small(tmp_path, **{"nq-test.qa.csv": quoted}))
    known = collection.qrels("test").answers
    answers = {collection.query_texts([row])[0]: known.answers(row) for row in range(2)}
    assert answers == {"where": ["blue", "o'neil", "léon"], 'a "b"': ["Wilhelm's"]}
    small(tmp_path, **{"nq-test.qa.csv": "where\t[__import__('os').getcwd()]\n"})
    with pytest.raises(StepwellError, match=r"nq-test.qa.csv:1: the answers .* no Python list of strings"):
        open_collection(tmp_path)


def test_the_same_question_in_two_files_is_one_query_with_the_answers_of_the_test(tmp_path):
    collection = open_collection(small(tmp_path, **{"nq-test.qa.csv": "who\t['blue']\n"}))
    assert collection.n_queries == 1
    assert collection.qrels("test").answers.answers(0) == ["blue"]


def test_hard_negatives_become_a_run_in_their_order(directory):
    collection = open_collection(directory)
    run = Run.given(collection, "train")
    assert run.queries.tolist() == collection.qrels("train").query_rows.tolist()
    for query, passages in zip(run.queries, run.passages.tolist(), strict=True):
        positive = collection.qrels("train").positives(query).tolist()
        assert [row for row in passages if row >= 0] == [row for row in (11, 7, 30) if row not in positive]
    assert run.scores[0].tolist() == [3, 2, 1]
    with pytest.raises(StepwellError, match="No negatives came with the split 'test'"):
        Run.given(collection, "test")


def test_an_answer_without_a_visible_character_is_left_out_with_a_warning(tmp_path):
    collection = open_collection(small(tmp_path, **{"nq-test.qa.csv": "where\t['', '\\u200b', 'blue']\n"}))
    assert collection.qrels("test").answers.answers(0) == ["blue"]
    assert ("warning", "nq-test.qa.csv", 1, "answer-empty") in [
        (p.severity, p.file, p.line, p.code) for p in check_directory(tmp_path)
    ]


RECORD = '{"question": "who", "answers": ["red"], "positive_ctxs": [{"passage_id": "1"}]}'
MISTAKES = {
    "a quote left open": ({"psgs_w100.tsv": 'id\ttext\ttitle\n1\t"a\tRed\n2\tb\tGreen\n'}, r"psgs_w100.tsv:2: .*quot"),
    "a missing title": ({"psgs_w100.tsv": "id\ttext\ttitle\n1\ta\n"}, "psgs_w100.tsv:2: has 2 columns, not id, text"),
    "no answers": ({"nq-test.qa.csv": "where\n"}, "nq-test.qa.csv:1: has 1 columns, not a question"),
    "answers in words": (
        {"nq-test.qa.csv": "a\t['b']\nwhere\tblue\n"},
        "nq-test.qa.csv:2: .*no Python list of strings",
    ),
    "numbers for answers": ({"nq-test.qa.csv": "where\t[5]\n"}, "nq-test.qa.csv:1: the answers .* no list of strings"),
    "no array": ({"biencoder-nq-train.json": RECORD}, "biencoder-nq-train.json:1: .*does not begin with `\\[`"),
    "a cut array": ({"biencoder-nq-train.json": f"[\n{RECORD},\n"}, "biencoder-nq-train.json:3: can't be read"),
    "a bad record": ({"biencoder-nq-train.json": f"[\n{RECORD},\n{{'x'}}]"}, "biencoder-nq-train.json:3: can't be"),
    "no question": ({"biencoder-nq-train.json": '[\n\n{"answers": []}]'}, "biencoder-nq-train.json:3: .*`question`"),
    "no id": (
        {"biencoder-nq-train.json": '[{"question": "q", "positive_ctxs": [{"title": ""}]}]'},
        "biencoder-nq-train.json:1: a passage has no `passage_id`",
    ),
    "an unknown passage": (
        {"biencoder-nq-train.json": "[" + RECORD.replace('"1"', '"17"') + "]"},
        "biencoder-nq-train.json:1: names the passage '17', which is not in psgs_w100.tsv",
    ),
    "two files for a split": (
        {"biencoder-nq-adv-hn-train.json": "[]"},
        "biencoder-nq-train.json: is for the split train",
    ),
}


@pytest.mark.parametrize(("changed", "message"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_told_with_file_and_line_and_listed_once(tmp_path, changed, message):
    small(tmp_path, **changed)
    with pytest.raises(StepwellError, match=message):
        open_collection(tmp_path)
    errors = [str(problem) for problem in check_directory(tmp_path) if problem.severity == "error"]
    assert errors and len(errors) == len(set(errors))


def test_missing_files_are_named(tmp_path):
    (tmp_path / "psgs_w100.tsv").write_text("id\ttext\ttitle\n1\ta\tb\n")
    assert ("biencoder-nq-train.json", "file-missing") in [(p.file, p.code) for p in check_directory(tmp_path)]


@pytest.mark.parametrize("chunk", [1, 2, 7, 64, 1 << 20])
def test_an_array_is_read_record_by_record_wherever_the_pieces_end(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(lines, "_CHUNK", chunk)
    records = [{"a": "é\n]", "b": [1, {"c": None}]}, {}, {"d": "x" * 30}]
    (tmp_path / "a.json").write_text(json.dumps(records, indent=2, ensure_ascii=False), encoding="utf-8")
    problems = []
    found = list(lines.read_array(tmp_path / "a.json", "a.json", problems.append))
    assert [record for _, record in found] == records and not problems
    assert [line for line, _ in found] == [2, 11, 12]
