"""MS MARCO and TREC DL: slices in the published formats read as the collection that they were made from."""

from __future__ import annotations

import numpy as np
import pytest

import slices
from slices import Tiny, document_id, passage_id, query_id
from stepwell.collection import check_directory, open_collection, resolve_splits
from stepwell.errors import StepwellError
from stepwell.evaluation import evaluate
from stepwell.recipe import CollectionSection
from stepwell.retrieval.run import Run


def positives(collection, split):
    qrels = collection.qrels(split)
    return {
        collection.query_ids[query]: {collection.passage_ids[row] for row in qrels.positives(query)}
        for query in qrels.query_rows
    }


def wanted(tiny, name, *splits):
    found = {}
    for query, passage, grade in Tiny(tiny).of(*splits):
        if grade > 0:
            found.setdefault(str(query_id(query)), set()).add(str(name(passage)))
    return found


@pytest.mark.parametrize("packed", [False, True])
def test_passages_queries_and_judgements_are_those_that_were_written(tiny_path, tiny_collection, tmp_path, packed):
    collection = open_collection(slices.msmarco_passage(tiny_path, tmp_path / "marco", packed))
    assert collection.splits == ("dev.small", "dev", "train")
    assert collection.passage_texts() == tiny_collection.passage_texts()
    assert list(collection.passage_ids)[:3] == ["0", "7", "14"]
    assert collection.n_queries == 41  # dev.small is part of dev, and eval has one
    assert positives(collection, "train") == wanted(tiny_path, passage_id, "train")
    assert positives(collection, "dev") == wanted(tiny_path, passage_id, "dev", "test")
    assert positives(collection, "dev.small") == wanted(tiny_path, passage_id, "test")
    assert {problem.code for problem in check_directory(collection.path)} == {"leak", "unjudged"}


def test_dev_small_tests_and_the_rest_of_dev_steers(tiny_path, tmp_path):
    collection = open_collection(slices.msmarco_passage(tiny_path, tmp_path / "marco"))
    splits = resolve_splits(collection, CollectionSection(path="x", test="dev.small"))
    assert (len(splits.train.query_rows), len(splits.dev.query_rows), len(splits.test.query_rows)) == (28, 6, 6)


def test_a_document_is_url_title_and_body_cut_to_characters(tiny_path, tmp_path):
    collection = open_collection(slices.msmarco_document(tiny_path, tmp_path / "docs"))
    record = Tiny(tiny_path).passages[3]
    assert collection.passage_texts([3]) == [f"https://example.org/3 {record['title']} {record['text']}"]
    assert positives(collection, "train") == wanted(tiny_path, document_id, "train")
    assert positives(collection, "dev") == wanted(tiny_path, document_id, "dev", "test")

    section = CollectionSection(path=str(tmp_path / "docs"), template="{title}[SEP]{text}", characters=20)
    cut = open_collection(section)
    assert cut.passage_texts([3]) == [f"{record['title']}[SEP]{record['text']}"[:20]]
    assert cut.fingerprint != collection.fingerprint
    assert open_collection(cut.place).fingerprint == cut.fingerprint
    assert open_collection(collection.place).fingerprint == collection.fingerprint


def test_documents_are_cut_at_ten_thousand_characters_unless_told_otherwise(tmp_path):
    slices.write(tmp_path / "msmarco-docs.tsv", [f"D1\thttp://x.org\tT\t{'ab ' * 5000}"])
    slices.write(tmp_path / "msmarco-doctrain-queries.tsv", ["1\twhat"])
    slices.write(tmp_path / "msmarco-doctrain-qrels.tsv", ["1 0 D1 1"])
    assert len(open_collection(tmp_path).passage_texts([0])[0]) == 10_000
    whole = open_collection(CollectionSection(path=str(tmp_path), characters=99_999)).passage_texts([0])[0]
    assert whole == f"http://x.org T {'ab ' * 5000}".strip()


def run_of(collection, queries, ranked):
    rows = np.array([[collection.passage_row(name) for name in ranked]] * len(queries), np.int32)
    scores = np.tile(-np.arange(len(ranked), dtype=np.float32), (len(queries), 1))
    return Run(np.array([collection.query_row(name) for name in queries], np.int32), rows, scores)


GRADED = [("1", "10", 1), ("1", "20", 3), ("1", "30", 2), ("1", "40", 0), ("2", "10", 1)]


@pytest.mark.parametrize(("task", "reciprocal", "recall"), [("passage", 1 / 3, 1 / 2), ("document", 1 / 2, 2 / 3)])
def test_trec_dl_measures_judged_topics_with_grades_and_its_own_level(tmp_path, task, reciprocal, recall):
    documents = task == "document"
    if documents:
        slices.write(tmp_path / "msmarco-docs.tsv", [f"D{n}\thttp://x.org\tT{n}\ttext {n}" for n in (10, 20, 30, 40)])
        slices.write(tmp_path / "msmarco-doctrain-queries.tsv", ["9\twhat"])
        slices.write(tmp_path / "msmarco-doctrain-qrels.tsv", ["9 0 D10 1"])
    else:
        slices.write(tmp_path / "collection.tsv", [f"{n}\ttext {n}" for n in (10, 20, 30, 40)])
        slices.write(tmp_path / "queries.train.tsv", ["9\twhat"])
        slices.write(tmp_path / "qrels.train.tsv", ["9\t0\t10\t1"])
    slices.write(tmp_path / "msmarco-test2019-queries.tsv", ["1\tone", "2\ttwo", "3\tnever judged"])
    letter = "D" if documents else ""
    lines = [f"{query} Q0 {letter}{passage} {grade}" for query, passage, grade in GRADED]
    slices.write(tmp_path / f"2019qrels-{'docs' if documents else 'pass'}.txt", lines)

    collection = open_collection(tmp_path)
    assert set(collection.splits) == {"train", "trec-dl-2019"}
    run = run_of(collection, ["1", "3"], [f"{letter}40", f"{letter}10", f"{letter}30"])
    found = evaluate(run, collection.qrels("trec-dl-2019"), ["RR@10", "R@5", "nDCG@10", "AP"])
    assert [collection.query_ids[row] for row in found.queries] == ["1", "2"]
    gain = 1 / np.log2(3) + 2 / np.log2(4)
    ideal = 3 + 2 / np.log2(3) + 1 / np.log2(4)
    assert found.of("nDCG@10").tolist() == pytest.approx([gain / ideal, 0])
    assert found.of("RR@10").tolist() == pytest.approx([reciprocal, 0])
    assert found.of("R@5").tolist() == pytest.approx([recall, 0])
    assert found.of("AP")[0] == pytest.approx(1 / 3 / 2 if task == "passage" else (1 / 2 + 2 / 3) / 3)


def test_the_level_of_a_recipe_is_that_of_its_test_alone(tiny_path, tmp_path):
    slices.trec_dl(tiny_path, slices.msmarco_passage(tiny_path, tmp_path / "marco"), documents=False)
    section = CollectionSection(path=str(tmp_path / "marco"), test="trec-dl-2019", relevant_from=3)
    collection = open_collection(section)
    splits = resolve_splits(collection, section)
    assert (splits.train.relevant_from, splits.dev.relevant_from, splits.test.relevant_from) == (1, 1, 3)
    assert collection.qrels("trec-dl-2019").relevant_from == 2
    assert any("grades from 3" in note for note in splits.notes)


def test_candidates_and_runs_as_published_become_runs(tiny_path, tmp_path):
    collection = open_collection(slices.msmarco_passage(tiny_path, tmp_path / "marco", packed=True))
    rows = collection.qrels("dev.small").query_rows
    top = Run.from_trec(tmp_path / "marco" / "top1000.dev.gz", collection, rows)
    assert top.passages.tolist() == [[5, 3, 8]] * len(rows)
    assert (top.scores[:, 1:] < top.scores[:, :-1]).all()
    first = collection.query_ids[rows[0]]
    slices.write(tmp_path / "run.tsv", [f"{first}\t{passage_id(9)}\t2", f"{first}\t{passage_id(4)}\t1"])
    assert Run.from_trec(tmp_path / "run.tsv", collection, rows[:1]).passages.tolist() == [[4, 9]]

    documents = open_collection(slices.msmarco_document(tiny_path, tmp_path / "docs"))
    rows = documents.qrels("dev").query_rows
    best = Run.from_trec(tmp_path / "docs" / "msmarco-docdev-top100.gz", documents, rows)
    assert best.passages.tolist() == [[5, 3]] * len(rows)


@pytest.mark.parametrize("line", ["9\t0\t10\t1", "9 0 10 1", "9\t10\t1", "9\t10", "9 Q0 10 1"])
def test_judgements_of_two_to_four_columns_are_read(tmp_path, line):
    slices.write(tmp_path / "collection.tsv", ["10\ttext"])
    slices.write(tmp_path / "queries.train.tsv", ["9\twhat"])
    slices.write(tmp_path / "qrels.train.tsv", [line])
    assert positives(open_collection(tmp_path), "train") == {"9": {"10"}}


MISTAKES = {
    "two tabs": ({"collection.tsv": ["1\ta", "2\tb\tc"]}, "collection.tsv:2: has 3 columns, not pid, passage"),
    "no text": ({"queries.train.tsv": ["9\t"]}, "queries.train.tsv:1: the query '9' has no text"),
    "an id twice": ({"collection.tsv": ["1\ta", "2\tb", "1\tc"]}, "collection.tsv:3: the id '1' was given .* line 1"),
    "an id of two queries": (
        {"queries.dev.tsv": ["8\tx", "9\tother"]},
        "queries.train.tsv:1: the id '9' was given to another query in line 2 of queries.dev.tsv",
    ),
    "an unknown passage": (
        {"qrels.train.tsv": ["9 0 1 1", "9 0 77 1"]},
        "qrels.train.tsv:2: names .* not in collection",
    ),
    "an unknown query": (
        {"qrels.train.tsv": ["7 0 1 1"]},
        "qrels.train.tsv:1: .*'7', which is not in queries.train.tsv",
    ),
    "too many columns": ({"qrels.train.tsv": ["9 0 1 1 x"]}, "qrels.train.tsv:1: .* not a line of qrels"),
    "a word for a grade": ({"qrels.train.tsv": ["9 0 1 yes"]}, "qrels.train.tsv:1: the grade 'yes' is not a number"),
    "no queries": ({"queries.train.tsv": None}, r"queries.train.tsv: there is no queries.train.tsv \(nor"),
    "no judgements": ({"qrels.train.tsv": None}, r"qrels.train.tsv: there is no"),
}


@pytest.mark.parametrize(("changed", "message"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_told_with_file_and_line_and_found_by_check(tmp_path, changed, message):
    files = {"collection.tsv": ["1\ta", "2\tb"], "queries.train.tsv": ["9\twhat"], "qrels.train.tsv": ["9 0 1 1"]}
    for name, lines in (files | changed).items():
        if lines is not None:
            slices.write(tmp_path / name, lines)
    with pytest.raises(StepwellError, match=message):
        open_collection(tmp_path)
    assert any(problem.severity == "error" for problem in check_directory(tmp_path))


def test_negative_grades_of_trec_count_as_not_relevant(tmp_path):
    slices.write(tmp_path / "collection.tsv", ["1\ta", "2\tb"])
    slices.write(tmp_path / "queries.train.tsv", ["9\twhat"])
    slices.write(tmp_path / "qrels.train.tsv", ["9 0 1 -2", "9 0 2 1"])
    assert open_collection(tmp_path).qrels("train").grades.tolist() == [0, 1]
