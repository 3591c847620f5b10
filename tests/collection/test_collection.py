from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, strategies as st

from stepwell.collection.collection import IdIndex, Mapped, Strings, hash_text
from stepwell.errors import StepwellError


def strings(values: list[str], size: int) -> Strings:
    chunks = [pa.array(values[at : at + size], pa.string()) for at in range(0, len(values), size)]
    return Strings(pa.chunked_array(chunks, pa.string()))


@given(st.lists(st.text(max_size=5), min_size=1, max_size=30), st.integers(1, 7), st.data())
def test_strings_on_disk_behave_like_a_list(values, size, data):
    column = strings(values, size)
    rows = data.draw(st.lists(st.integers(0, len(values) - 1), max_size=20))
    assert column.take(rows) == [values[row] for row in rows]
    assert list(column) == values and len(column) == len(values)
    start, stop = data.draw(st.integers(0, 40)), data.draw(st.integers(0, 40))
    assert column[start:stop] == values[start:stop]
    assert column[-1] == values[-1]


@pytest.mark.parametrize("rows", [[-1], [0, 3]])
def test_a_row_outside_is_refused_also_the_padding(rows):
    with pytest.raises(IndexError, match="of 3"):
        strings(["a", "b", "c"], 2).take(rows)


def test_ids_with_the_same_hash_are_told_apart():
    ids = strings(["a", "b"], 2)
    same = np.full(2, hash_text("b"), dtype=np.uint64)
    index = IdIndex(ids, same, np.array([0, 1], dtype=np.int32))
    assert index.find("b") == 1
    assert index.find("c") == -1


def test_texts_come_by_row_with_the_title_in_front(tiny_collection):
    first = tiny_collection.passage_texts([1, 0])[1]
    assert first.startswith("river 0 the river was ")
    assert tiny_collection.passages_slice(0, 2) == tiny_collection.passage_texts([0, 1])
    assert tiny_collection.passages_slice(59, 99) == tiny_collection.passage_texts([59])
    assert len(tiny_collection.query_texts()) == tiny_collection.n_queries == 40
    assert tiny_collection.passage_texts(np.zeros(0, np.int32)) == []


def test_ids_and_rows_are_each_others_inverse(tiny_collection):
    for row, name in enumerate(tiny_collection.passage_ids):
        assert tiny_collection.passage_row(name) == row
    assert tiny_collection.query_row("query:07") == 7
    assert tiny_collection.query_ids[7] == "query:07"


def test_an_unknown_id_names_the_nearest(tiny_collection):
    with pytest.raises(StepwellError, match=r"no passage with the id 'doc/000-rivers'.*'doc/000-river'"):
        tiny_collection.passage_row("doc/000-rivers")
    with pytest.raises(StepwellError, match=r"no query with the id '\?'. Its ids look like 'query:00'"):
        tiny_collection.query_row("?")


def test_an_unknown_split_names_those_there_are(tiny_collection):
    assert tiny_collection.splits == ("dev", "test", "train")
    with pytest.raises(StepwellError, match=r"no split 'validation'.*dev, test, train"):
        tiny_collection.qrels("validation")


def test_pages_are_let_go_after_many_strings_and_are_read_again(tmp_path, monkeypatch):
    values = [f"text {row}" for row in range(50)]
    with pa.ipc.new_file(str(tmp_path / "a.arrow"), pa.schema({"text": pa.string()})) as writer:
        for at in range(0, 50, 10):
            writer.write_batch(pa.record_batch([values[at : at + 10]], names=["text"]))
    monkeypatch.setattr("stepwell.collection.collection._RELEASE_AFTER", 15)
    mapped, released = Mapped(tmp_path / "a.arrow"), []
    column = Strings(mapped.table["text"], lambda: (released.append(1), mapped.release()))
    assert list(column) == values and column.take([3, 40, 3]) == ["text 3", "text 40", "text 3"]
    assert len(released) == 2
    assert column[5:35] == values[5:35] and column.take(range(50)) == values
