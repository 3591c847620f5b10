from __future__ import annotations

import gzip
import json

import pytest

from stepwell.collection import Problem, check_directory, open_collection, store
from stepwell.errors import StepwellError

P0 = {"_id": "p0", "text": "red apples"}
P1 = {"_id": "p1", "text": "green pears"}
Q0 = {"_id": "q0", "text": "apples"}
Q1 = {"_id": "q1", "text": "pears"}


def found(directory) -> list[tuple[str, str, int | None, str]]:
    return [(p.severity, p.file, p.line, p.code) for p in check_directory(directory)]


def test_a_sound_collection_has_no_problem(tiny_directory, tiny_path):
    assert check_directory(tiny_directory()) == []
    assert check_directory(tiny_path) == []


CORPUS, QUERIES, TRAIN = "corpus.jsonl", "queries.jsonl", "qrels/train.tsv"


def third(passage: object) -> dict[str, list[object]]:
    return {"corpus": [P0, P1, passage]}


def train(*rows: object) -> dict[str, tuple[object, ...]]:
    return {"train": rows}


ERRORS = {
    "bad JSON": ({"corpus": [P0, '{"_id": "p1", "text": ', P1]}, CORPUS, 2, "json"),
    "a list for an object": (third('["p2"]'), CORPUS, 3, "json"),
    "endless nesting": (third("[" * 100_000), CORPUS, 3, "json"),
    "no id": (third({"text": "x"}), CORPUS, 3, "field"),
    "an empty id": (third({"_id": " ", "text": "x"}), CORPUS, 3, "id"),
    "an id with a tab": (third({"_id": "a\tb", "text": "x"}), CORPUS, 3, "id"),
    "a text that is a number": (third({"_id": "p2", "text": 5}), CORPUS, 3, "field"),
    "a query without text": ({"queries": [Q0, Q1, {"_id": "q2"}]}, QUERIES, 3, "field"),
    "half a surrogate pair": (third('{"_id": "p2", "text": "\\ud800"}'), CORPUS, 3, "encoding"),
    "an empty query": ({"queries": [Q0, Q1, {"_id": "q2", "text": " "}]}, QUERIES, 3, "text-empty"),
    "an id given twice": ({"corpus": [P0, "", P1, {**P1, "_id": "p0"}]}, CORPUS, 4, "id-twice"),
    "no passage": ({"corpus": []}, CORPUS, None, "empty"),
    "an unknown query": (train(("q0", "p0", 1), ("q7", "p0", 1)), TRAIN, 3, "unknown-query"),
    "an unknown passage": (train(("q0", "p0", 1), ("q1", "p7", 1)), TRAIN, 3, "unknown-passage"),
    "no header": ({"header": False}, TRAIN, 1, "header"),
    "blanks for tabs": (train("q0 p0 1"), TRAIN, 2, "columns"),
    "TREC columns": (train("q0\t0\tp0\t1"), TRAIN, 2, "columns"),
    "a negative grade": (train(("q0", "p0", -1)), TRAIN, 2, "grade"),
    "a word for a grade": (train(("q0", "p0", "yes")), TRAIN, 2, "grade"),
    "half a grade": (train(("q0", "p0", 0.5)), TRAIN, 2, "grade"),
    "nan for a grade": (train(("q0", "p0", "nan")), TRAIN, 2, "grade"),
    "an endless grade": (train(("q0", "p0", "1e400")), TRAIN, 2, "grade"),
    "two grades for a pair": (train(("q0", "p0", 1), ("q0", "p0", 2)), TRAIN, 3, "judged-twice"),
}


@pytest.mark.parametrize(("made", "file", "line", "code"), ERRORS.values(), ids=ERRORS)
def test_an_error_is_found_with_file_and_line_and_a_run_refuses_it(tiny_directory, made, file, line, code):
    directory = tiny_directory(**made)
    assert ("error", file, line, code) in found(directory)
    with pytest.raises(StepwellError) as refusal:
        open_collection(directory)
    assert "\n" not in str(refusal.value) and "stepwell check" in str(refusal.value)
    assert "qrels/" in str(refusal.value) or f"{file}{'' if line is None else f':{line}'}: " in str(refusal.value)


BOTH = ("q0", "p0", 1), ("q1", "p1", 1)
WARNINGS = {
    "an empty passage": (third({"_id": "p2", "text": " "}), CORPUS, 3, "text-empty"),
    "a text given twice": (third({"_id": "p2", "text": "Red  apples"}), CORPUS, 3, "text-twice"),
    "a judgement given twice": (train(*BOTH, ("q0", "p0", 1)), TRAIN, 4, "judged-twice"),
    "no positive": (train(("q0", "p0", 1), ("q1", "p1", 0)), TRAIN, 3, "no-positive"),
    "a query in no split": (train(("q0", "p0", 1)), QUERIES, 2, "unjudged"),
    "a split without a line": (train(*BOTH) | {"dev": []}, "qrels/dev.tsv", None, "empty"),
    "leakage": (train(*BOTH) | {"dev": [("q1", "p0", 1)]}, "qrels/dev.tsv", 2, "leak"),
}


@pytest.mark.parametrize(("made", "file", "line", "code"), WARNINGS.values(), ids=WARNINGS)
def test_a_warning_is_found_with_file_and_line_and_stops_nothing(tiny_directory, made, file, line, code):
    directory = tiny_directory(**made)
    assert found(directory) == [("warning", file, line, code)]
    assert open_collection(directory).n_passages >= 2


def test_leakage_is_seen_through_another_id(tiny_directory):
    queries = [Q0, Q1, {"_id": "q2", "text": "APPLES "}]
    directory = tiny_directory(queries=queries, train=[("q0", "p0", 1), ("q1", "p1", 1)], test=[("q2", "p0", 1)])
    leak = [problem for problem in check_directory(directory) if problem.code == "leak"]
    assert [str(problem) for problem in leak] == [
        "qrels/test.tsv:2: the query 'q2' is in train too (there it is 'q0'): what is trained on it is not "
        "proved by "
        "it. A run leaves it out of train."
    ]


def test_every_problem_is_listed_and_repeats_are_counted(tiny_directory):
    bad = [("q0", f"x{i}", 1) for i in range(30)]
    problems = check_directory(tiny_directory(corpus=[P0, P1, "{"], train=[("q0", "p0", 1), ("q1", "p1", -2), *bad]))
    assert [problem.code for problem in problems].count("unknown-passage") == 21
    assert str(problems[-2]) == "qrels/train.tsv: and 10 more of this kind."
    assert {problem.code for problem in problems} == {"json", "grade", "unknown-passage", "unjudged"}


def test_missing_files_and_directories_are_named(tmp_path):
    (tmp_path / "qrels").mkdir()
    assert [(p.file, p.code) for p in check_directory(tmp_path)] == [
        ("corpus.jsonl", "file-missing"),
        ("queries.jsonl", "file-missing"),
        ("qrels", "file-missing"),
    ]
    nowhere = tmp_path / "nowhere"
    assert check_directory(nowhere)[0].code == "directory-missing"
    with pytest.raises(StepwellError, match="nowhere is not a directory"):
        open_collection(nowhere)


def test_bytes_that_are_not_utf8_are_an_error_with_the_line(tiny_directory):
    directory = tiny_directory()
    with (directory / "queries.jsonl").open("ab") as file:
        file.write('{"_id": "q9", "text": "café"}\n'.encode("latin-1"))
    assert ("error", "queries.jsonl", 3, "encoding") in found(directory)
    assert "byte 27 of the line is 0xe9" in str(check_directory(directory)[0])


@pytest.mark.parametrize("damage", ["cut", "other"])
def test_a_damaged_gzip_file_is_an_error(tiny_directory, damage):
    directory = tiny_directory()
    plain = directory / "corpus.jsonl"
    packed = gzip.compress(plain.read_bytes() + b"\n" * 100)
    (directory / "corpus.jsonl.gz").write_bytes(packed[:-30] if damage == "cut" else b"no gzip at all")
    assert ("warning", "corpus.jsonl", None, "file-twice") in found(directory)
    plain.unlink()
    assert "unreadable" in {code for _, file, _, code in found(directory) if file == "corpus.jsonl.gz"}


def test_packed_qrels_are_a_split_whose_problems_are_found(tiny_directory):
    directory = tiny_directory(train=[("q0", "p0", 1)], test=[("q1", "p1", 1), ("q1", "p7", 1)])
    plain = directory / "qrels" / "test.tsv"
    packed = directory / "qrels" / "test.tsv.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    assert ("warning", "qrels/test.tsv", None, "file-twice") in found(directory)
    plain.unlink()
    assert found(directory) == [("error", "qrels/test.tsv.gz", 3, "unknown-passage")]
    packed.write_bytes(gzip.compress(gzip.decompress(packed.read_bytes()).replace(b"q1\tp7\t1\n", b"")))
    collection = open_collection(directory)
    assert collection.splits == ("test", "train") and collection.qrels("test").positives(1).tolist() == [1]


def test_the_plain_one_of_two_files_of_a_split_is_read(tiny_directory):
    directory = tiny_directory()
    other = gzip.compress(b"query-id\tcorpus-id\tscore\nq0\tp2\t1\n")
    (directory / "qrels" / "train.tsv.gz").write_bytes(other)
    assert open_collection(directory).qrels("train").positives(0).tolist() == [0]


def test_what_other_tools_write_is_read(tiny_directory):
    """A byte-order mark, Windows line ends, numbers as ids, blank lines, other header words, 1.0 for 1."""
    directory = tiny_directory()
    lines = [json.dumps({"_id": 1, "text": "é"}), "", json.dumps({"_id": "p/2 b", "title": None, "text": "y"})]
    (directory / "corpus.jsonl").write_text("\r\n".join(lines), encoding="utf-8-sig")
    (directory / "qrels" / "train.tsv").write_text(
        "qid\tpid\trelevance\r\nq0\t1\t1.0\r\nq1\tp/2 b\t2\r\n", encoding="utf-8-sig"
    )
    assert check_directory(directory) == []
    collection = open_collection(directory)
    assert list(collection.passage_ids) == ["1", "p/2 b"]
    assert collection.qrels("train").grades.tolist() == [1, 2]


def test_a_problem_reads_as_file_line_and_message():
    assert str(Problem("error", "qrels/dev.tsv", 3, "grade", "is bad.")) == "qrels/dev.tsv:3: is bad."
    assert str(Problem("error", "qrels", None, "file-missing", "is not there.")) == "qrels: is not there."


def test_no_room_to_check_is_explained(tiny_path, monkeypatch):
    def fails(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store, "scan", fails)
    with pytest.raises(StepwellError, match=r"No space left on device.*TMPDIR names another place"):
        check_directory(tiny_path)
