"""Tables of every kind, with columns found by their names or named in the recipe."""

from __future__ import annotations

import csv
import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stepwell.collection import check_directory, open_collection
from stepwell.errors import StepwellError
from stepwell.recipe import CollectionSection

PASSAGES = [
    {"docid": "p 1", "title": "Money back", "text": 'Within "14" days,\nin full.', "lang": "en"},
    {"docid": "p 2", "title": "", "text": "Seven days abroad.", "lang": "fr"},
]
QUERIES = [{"qid": "1", "query": "how, and when"}, {"qid": "2", "query": "abroad"}]
QRELS = [{"qid": "1", "docid": "p 1", "relevance": 2}, {"qid": "2", "docid": "p 2", "relevance": 1}]


def write_table(path, rows):
    """Write rows as the ending of the file says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    ending = path.name.removesuffix(".gz").rpartition(".")[2]
    if ending == "parquet":
        return pq.write_table(pa.Table.from_pylist(rows), path)
    with gzip.open(path, "wt", newline="") if path.suffix == ".gz" else path.open("w", newline="") as file:
        if ending == "jsonl":
            file.writelines(json.dumps(row) + "\n" for row in rows)
        elif ending == "csv":
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
        else:
            lines = [rows[0].keys(), *(row.values() for row in rows)]
            file.writelines("\t".join(str(v).replace("\n", " ") for v in line) + "\n" for line in lines)
    return None


def tables(folder, ending, qrels="qrels.train"):
    write_table(folder / f"passages.{ending}", PASSAGES)
    write_table(folder / f"queries.{ending}", QUERIES)
    write_table(folder / f"{qrels}.{ending}", QRELS)
    return folder


@pytest.mark.parametrize("ending", ["jsonl", "jsonl.gz", "csv", "csv.gz", "tsv", "tsv.gz", "parquet"])
def test_columns_are_found_by_their_names_in_every_kind(tmp_path, ending):
    collection = open_collection(tables(tmp_path, ending))
    broken = "\n" if "tsv" not in ending else " "
    assert collection.passage_texts() == [f'Money back Within "14" days,{broken}in full.', "Seven days abroad."]
    assert list(collection.passage_ids) == ["p 1", "p 2"]
    assert collection.query_texts() == ["how, and when", "abroad"]
    assert collection.qrels("train").grades.tolist() == [2, 1]
    assert check_directory(tmp_path) == []


@pytest.mark.parametrize(
    ("name", "split"), [("qrels", "train"), ("qrels-dev", "dev"), ("qrels_test", "test"), ("qrels/dev", "dev")]
)
def test_splits_are_told_by_the_names_of_files(tmp_path, name, split):
    assert open_collection(tables(tmp_path, "csv", name)).splits == (split,)


def test_trec_qrels_stand_beside_tables(tmp_path):
    tables(tmp_path, "csv", "qrels-dev")
    (tmp_path / "passages.csv").write_text("id,text\np1,a\n")
    (tmp_path / "qrels-dev.csv").unlink()
    (tmp_path / "qrels.test.txt").write_text("1 0 p1 3\n2 0 p1 0\n")
    assert open_collection(tmp_path).qrels("test").grades.tolist() == [3, 0]


def test_the_same_content_has_the_same_fingerprint_in_every_kind_and_in_beir(tmp_path, tiny_path):
    records = [json.loads(line) for line in (tiny_path / "corpus.jsonl").read_text().splitlines()]
    queries = [json.loads(line) for line in (tiny_path / "queries.jsonl").read_text().splitlines()]
    for ending in ("csv", "parquet"):
        write_table(tmp_path / ending / f"corpus.{ending}", records)
        write_table(tmp_path / ending / f"queries.{ending}", queries)
        for file in (tiny_path / "qrels").iterdir():
            lines = [line.split("\t") for line in file.read_text().splitlines()[1:]]
            rows = [{"query-id": q, "corpus-id": p, "score": int(grade)} for q, p, grade in lines]
            write_table(tmp_path / ending / "qrels" / f"{file.stem}.{ending}", rows)
        assert open_collection(tmp_path / ending).fingerprint == open_collection(tiny_path).fingerprint


ODD = {"passage.id": "nr", "passage.text": "what", "query.id": "nr", "query.text": "ask", "qrels.query": "from"}


def odd(folder):
    write_table(folder / "docs.csv", [{"nr": 7, "what": "a well", "head": "H"}])
    write_table(folder / "topics.jsonl", [{"nr": 1, "ask": "water"}])
    write_table(folder / "qrels.csv", [{"from": 1, "pid": 7}])
    return folder


def test_columns_of_other_names_are_named_in_the_recipe(tmp_path):
    section = CollectionSection(path=str(odd(tmp_path)), columns=ODD, template="{head}: {text}")
    collection = open_collection(section)
    assert collection.passage_texts() == ["H: a well"]
    assert collection.qrels("train").grades.tolist() == [1]  # without a column of grades
    assert open_collection(collection.place).fingerprint == collection.fingerprint


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({}, r"docs.csv:2: has no column for passage.id \(there are nr, what, head; .*columns: \{passage.id: ...\}"),
        (ODD | {"passage.text": "whta"}, r"docs.csv:2: has no column 'whta', which the recipe's .* passage.text"),
    ],
)
def test_a_column_that_is_not_there_is_told_with_those_that_are(tmp_path, columns, message):
    with pytest.raises(StepwellError, match=message):
        open_collection(CollectionSection(path=str(odd(tmp_path)), columns=columns))


MISTAKES = {
    "a ragged row": ("queries.csv", "qid,query\n1,a\n2,b,c\n", "queries.csv:3: has 3 columns, and the header 2: qid"),
    "semicolons": ("queries.csv", "qid;query\n1;a\n", "queries.csv:1: has semicolons .*qid;query.* with commas"),
    "a quote left open": ("queries.csv", 'qid,query\n1,"a\n2,b\n', "queries.csv:2: .*quot"),
    "a bad record": ("queries.jsonl", '{"qid": 1, "query": "a"}\n{"qid"\n', "queries.jsonl:2: is not valid JSON"),
    "a number for a text": ("queries.jsonl", '{"qid": 1, "query": 5}\n', "queries.jsonl:1: the query's 'query' is 5"),
    "an id twice": ("queries.tsv", "qid\tquery\n1\ta\n1\tb\n", "queries.tsv:3: the id '1' was given"),
    "no Parquet": ("queries.parquet", "qid", "queries.parquet: can't be read as Parquet"),
    "a word for a grade": ("qrels.dev.csv", "qid,docid,score\n1,p 1,yes\n", "qrels.dev.csv:2: the grade 'yes'"),
}


@pytest.mark.parametrize(("name", "text", "message"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_told_with_file_and_line(tmp_path, name, text, message):
    tables(tmp_path, "csv")
    if name.startswith("queries"):
        (tmp_path / "queries.csv").unlink()
    (tmp_path / name).write_text(text)
    with pytest.raises(StepwellError, match=message):
        open_collection(tmp_path)


def test_missing_tables_are_named(tmp_path):
    write_table(tmp_path / "passages.csv", PASSAGES)
    found = [(problem.file, problem.code) for problem in check_directory(tmp_path)]
    assert ("queries (jsonl, tsv, csv, parquet)", "file-missing") in found and ("qrels", "file-missing") in found


def test_a_judgement_without_a_passage_is_a_mistake_and_no_unanswered_query(tmp_path):
    tables(tmp_path, "csv")
    write_table(tmp_path / "qrels.train.csv", [*QRELS, {"qid": "2", "docid": " ", "relevance": 1}])
    (problem,) = check_directory(tmp_path)
    assert (problem.severity, problem.file, problem.line, problem.code) == ("error", "qrels.train.csv", 4, "id")


def test_only_tables_in_the_folder_of_qrels_are_splits(tmp_path):
    tables(tmp_path, "csv", "qrels/train")
    for name in (".DS_Store", "README.md", "train.csv~", ".hidden.csv"):
        (tmp_path / "qrels" / name).write_text("notes\n")
    assert open_collection(tmp_path).splits == ("train",) and check_directory(tmp_path) == []


@pytest.mark.parametrize("other", ["qrels/train.tsv", "qrels.train.csv"])
def test_two_files_for_one_split_are_reported(tmp_path, other):
    tables(tmp_path, "csv", "qrels/train")
    write_table(tmp_path / other, QRELS)
    problems = check_directory(tmp_path)
    assert [problem.code for problem in problems] == ["file-twice"] and "the split train" in problems[0].message
