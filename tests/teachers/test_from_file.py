"""Scores from a file: what is read, what is refused, and what happens to pairs that it lacks."""

from __future__ import annotations

import gzip

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stepwell.collection import open_collection
from stepwell.errors import StepwellError
from stepwell.teachers.from_file import FileTeacher, content_fingerprint, import_scores
from stepwell.teachers.store import ScoreStore

LINES = [(0, 3, 2.5), (0, 5, -1.0), (1, 3, 0.25)]


@pytest.fixture
def read(tiny_collection, tmp_path):
    def read(path):
        store = ScoreStore.open(tmp_path / "store", content_fingerprint(path), tiny_collection.texts_fingerprint)
        return store, *import_scores(path, store, tiny_collection)

    return read


def ids(collection):
    return [(collection.query_ids[q], collection.passage_ids[p], score) for q, p, score in LINES]


def write(path, lines, kind):
    if kind == "parquet":
        columns = zip(*lines, strict=True)
        pq.write_table(pa.table(dict(zip(("query_id", "corpus-id", "score"), map(list, columns), strict=True))), path)
        return
    texts = {
        "tsv": ["query-id\tcorpus-id\tscore", *(f"{q}\t{p}\t{s}" for q, p, s in lines)],
        "trec": [f"{q} Q0 {p} {rank} {s} teacher" for rank, (q, p, s) in enumerate(lines, start=1)],
    }
    data = "".join(f"{line}\n" for line in texts[kind.removesuffix(".gz")]).encode()
    path.write_bytes(gzip.compress(data) if kind.endswith(".gz") else data)


@pytest.mark.parametrize("kind", ["parquet", "tsv", "trec", "trec.gz"])
def test_every_format_gives_the_same_scores(read, tiny_collection, tmp_path, kind):
    write(tmp_path / f"scores.{kind}", [*ids(tiny_collection), ("another-query", "passage", 1.0)], kind)
    store, floors, counts = read(tmp_path / f"scores.{kind}")
    assert counts == {"pairs": 4, "unknown": 1} and len(store) == 3
    assert store.lookup([0, 0, 1], [3, 5, 3]).tolist() == [2.5, -1.0, 0.25]
    assert floors[:2].tolist() == [-1.0, 0.25] and np.isnan(floors[2:]).all()


def test_a_run_may_name_ids_with_blanks_encoded(tiny_directory, tmp_path):
    names = ["my notes.md#1", "a%20b"]
    texts = [{"_id": name, "text": name} for name in names]
    collection = open_collection(tiny_directory(texts, texts, train=[(name, name, 1) for name in names]))
    path = tmp_path / "scores.trec"
    path.write_text("my%20notes.md#1 Q0 a%20b 1 2.5 x\na%20b Q0 my%20notes.md#1 1 0.5 x\nno%20one Q0 a%20b 1 9 x\n")
    store = ScoreStore.open(tmp_path / "store", content_fingerprint(path), collection.texts_fingerprint)
    assert import_scores(path, store, collection)[1] == {"pairs": 3, "unknown": 1}
    assert store.lookup([0, 1], [1, 0]).tolist() == [2.5, 0.5]


def test_a_pair_without_a_score_is_unknown_or_gets_the_querys_lowest(read, tiny_collection, tmp_path):
    write(tmp_path / "scores.tsv", ids(tiny_collection), "tsv")
    store, floors, _ = read(tmp_path / "scores.tsv")
    queries, passages = np.int32([0, 1, 2]), np.int32([[3, 7, -1], [3, 5, 6], [3, 5, -1]])
    bare, filled = FileTeacher(store), FileTeacher(store, floors)
    nan = np.nan
    assert bare.score(queries, passages) == pytest.approx(
        np.array([[2.5, nan, 0], [0.25, nan, nan], [nan, nan, 0]]), nan_ok=True
    )
    assert filled.score(queries, passages) == pytest.approx(
        np.array([[2.5, -1, 0], [0.25, 0.25, 0.25], [nan, nan, 0]]), nan_ok=True
    )


@pytest.mark.parametrize(
    "text, told",
    [
        ("query-id\tcorpus-id\tscore\nQ\tP\thigh\n", r"scores.tsv:2: neither"),
        ("Q\tP\n", r"scores.tsv:1: neither"),
        ("Q\tP\t1\nQ\tP\tnan\n", r"scores.tsv:2: the score is nan"),
        ("", r"none of a pair"),
        ("17\t4\t1.5\n", r"none of a pair of the collection tiny: its ids are others.*'query:00'"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(read, tiny_collection, tmp_path, text, told):
    query, passage = tiny_collection.query_ids[0], tiny_collection.passage_ids[0]
    (tmp_path / "scores.tsv").write_text(text.replace("Q", query).replace("P", passage))
    with pytest.raises(StepwellError, match=told):
        read(tmp_path / "scores.tsv")


def test_a_parquet_file_without_the_columns_or_broken_or_missing_is_refused(read, tmp_path):
    pq.write_table(pa.table({"query-id": ["a"], "text": ["b"]}), tmp_path / "scores.parquet")
    with pytest.raises(StepwellError, match="has the columns query-id, text"):
        read(tmp_path / "scores.parquet")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1")
    with pytest.raises(StepwellError, match="can't be read as a Parquet file"):
        read(tmp_path / "bad.parquet")
    with pytest.raises(StepwellError, match="give the right path in `file`"):
        content_fingerprint(tmp_path / "nowhere.tsv")


def test_a_score_on_a_line_behind_a_blank_one_is_named_by_its_own_line(read, tiny_collection, tmp_path):
    query, passage = tiny_collection.query_ids[0], tiny_collection.passage_ids[0]
    (tmp_path / "scores.tsv").write_text(f"{query}\t{passage}\t1\n\n{query}\t{passage}\tinf\n")
    with pytest.raises(StepwellError, match=r"scores.tsv:3: the score is inf"):
        read(tmp_path / "scores.tsv")
