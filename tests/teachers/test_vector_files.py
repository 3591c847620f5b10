"""Vectors in files, matched with a collection: what is read, and what is refused with its file and row."""

import gzip
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stepwell.collection import open_collection
from stepwell.errors import StepwellError
from stepwell.recipe.teachers import VectorsTeacher
from stepwell.retrieval.vectors import Vectors
from stepwell.teachers.kinds import Making
from stepwell.teachers.opening import kind_of
from stepwell.teachers.vector_files import BLOCK

IDS = ("p2", "p0", "p1")
TABLE = np.float32([[3, 4, 0], [0, 0, 2], [1, 0, 0]])


@pytest.fixture
def collection(tiny_directory):
    return open_collection(tiny_directory())


def write(path, ids=IDS, table=TABLE):
    """Write a file of vectors in the format that its name says; return the section's keys for it."""
    rows = [list(map(float, row)) for row in table]
    match path.suffix:
        case ".parquet":
            pq.write_table(pa.table({"id": list(ids), "embedding": rows}), path)
        case ".jsonl":
            path.write_text("".join(json.dumps({"_id": i, "vector": r}) + "\n" for i, r in zip(ids, rows, strict=True)))
        case ".npy":
            np.save(path, np.asarray(table))
            path.with_suffix(".ids").write_text("".join(f"{i}\n" for i in ids))
            return {"passages": str(path), "passage_ids": str(path.with_suffix(".ids"))}
    return {"passages": str(path)}


def taken(collection, folder, rows=(), **section):
    """Read files into a stage's folder, and open what is there."""
    folder.mkdir(exist_ok=True)
    section = VectorsTeacher.model_validate({"kind": "vectors", **section})
    kind = kind_of("given", {"given": section})
    kind.make(Making(folder, collection, kind.settings(), np.int32(rows)))
    return Vectors.open(folder)


@pytest.mark.parametrize("name", ["v.parquet", "v.jsonl", "v.npy"])
def test_vectors_are_matched_by_id_and_normalised_for_cos(collection, tmp_path, name):
    files = write(tmp_path / name)
    found = taken(collection, tmp_path / "out", **files)
    assert np.allclose(found.passages, [[0, 0, 1], [1, 0, 0], [0.6, 0.8, 0]]) and found.scale == 20
    assert found.queries.shape == (0, 3) and len(found.query_rows) == 0
    plain = taken(collection, tmp_path / "dot", similarity="dot", **files)
    assert np.array_equal(plain.passages, TABLE[[1, 2, 0]]) and plain.scale == 1


@pytest.mark.parametrize("size", [1e25, 1e-30])
def test_vectors_that_are_very_long_or_short_have_a_direction_too(collection, tmp_path, size):
    found = taken(collection, tmp_path / "out", **write(tmp_path / "v.parquet", table=TABLE * np.float32(size)))
    assert np.allclose(found.passages, [[0, 0, 1], [1, 0, 0], [0.6, 0.8, 0]])


def test_fewer_dimensions_are_cut_first_and_normalised_then(collection, tmp_path):
    files = write(tmp_path / "v.parquet", table=np.float32([[3, 4, 9], [0, 2, 2], [1, 0, 5]]))
    found = taken(collection, tmp_path / "out", dimensions=2, **files)
    assert np.allclose(found.passages, [[0, 1], [1, 0], [0.6, 0.8]])
    with pytest.raises(StepwellError, match=r"v\.parquet has vectors with 3 numbers, and `dimensions: 4`"):
        taken(collection, tmp_path / "out", dimensions=4, **files)
    files = write(tmp_path / "w.parquet", table=np.float32([[3, 4, 9], [0, 0, 2], [1, 0, 5]]))
    with pytest.raises(StepwellError, match=r"w\.parquet, row 2: the vector is 0 in its first 2 numbers"):
        taken(collection, tmp_path / "out", dimensions=2, **files)


def test_queries_get_theirs_and_other_ids_are_counted(collection, tmp_path):
    files = write(tmp_path / "v.parquet", (*IDS, "elsewhere"), np.vstack([TABLE, [[1, 1, 1]]]))
    queries = write(tmp_path / "q.jsonl", ("q1", "q0"), TABLE[:2])["passages"]
    found = taken(collection, tmp_path / "out", (0, 1), queries=queries, **files)
    assert np.allclose(found.of_queries(np.int32([1, 0])), [[0.6, 0.8, 0], [0, 0, 1]])
    facts = json.loads((tmp_path / "out" / "taken.json").read_text())
    assert facts == {"vectors": 6, "unknown": 1}


def test_the_formats_in_use_are_read(collection, tmp_path):
    half = pa.array(TABLE.astype(np.float16).reshape(-1))
    fixed = pa.FixedSizeListArray.from_arrays(half, 3)
    pq.write_table(pa.table({"corpus-id": pa.array(IDS), "vector": fixed}), tmp_path / "v.parquet")
    want = [[0, 0, 1], [1, 0, 0], [0.6, 0.8, 0]]
    assert np.allclose(taken(collection, tmp_path / "a", passages=str(tmp_path / "v.parquet")).passages, want)
    write(tmp_path / "v.jsonl")
    with gzip.open(tmp_path / "w.jsonl.gz", "wb") as file:
        file.write((tmp_path / "v.jsonl").read_bytes())
    assert np.allclose(taken(collection, tmp_path / "b", passages=str(tmp_path / "w.jsonl.gz")).passages, want)
    tensors = pa.FixedShapeTensorArray.from_numpy_ndarray(TABLE)
    pq.write_table(pa.table({"id": pa.array(IDS), "vector": tensors}), tmp_path / "t.parquet")
    assert np.allclose(taken(collection, tmp_path / "c", passages=str(tmp_path / "t.parquet")).passages, want)


@pytest.mark.parametrize(
    ("column", "type_"),
    [
        (["[1, 2, 3]"] * 3, "string"),
        ([TABLE[0].tobytes()] * 3, "binary"),
        ([1.0, 2.0, 3.0], "double"),
        ([None] * 3, "null"),
        ([{"values": [1.0]}] * 3, "struct"),
    ],
)
def test_a_column_that_holds_no_lists_is_refused_by_its_type(collection, tmp_path, column, type_):
    pq.write_table(pa.table({"id": pa.array(IDS), "vector": pa.array(column)}), tmp_path / "v.parquet")
    with pytest.raises(StepwellError, match=rf"v\.parquet has vectors of the type {type_}.*as `list<float>`"):
        taken(collection, tmp_path / "out", passages=str(tmp_path / "v.parquet"))


@pytest.mark.parametrize("name", ["v.parquet", "v.jsonl", "v.npy"])
@pytest.mark.parametrize(
    ("ids", "table", "says"),
    [
        (IDS, [[1, 2, 3], [1, float("nan"), 3], [1, 2, 3]], r"2: the vector \('p0'\) holds NaN or infinity"),
        (IDS, [[1, 2, 3], [1, 2, 3], [0, 0, 0]], r"3: the vector \('p1'\) is all 0"),
        (("p0", "p1", "p0"), TABLE, r"3: the vector is the second of 'p0': the first is in row 1"),
        (("p0", "p1"), TABLE[:2], r"lacks the vectors of 1 of the 3 passages.*'p2'\. Add them"),
        (("a", "b"), TABLE[:2], r"lacks the vectors of 3 of the 3.*The ids in the file look like 'a'"),
    ],
)
def test_what_is_wrong_is_named_by_file_and_row(collection, tmp_path, name, ids, table, says):
    files = write(tmp_path / name, ids, np.float32(table))
    with pytest.raises(StepwellError, match=says) as error:
        taken(collection, tmp_path / "out", **files)
    assert str(tmp_path / name) in str(error.value)


def test_a_vector_of_another_width_is_refused(collection, tmp_path):
    pq.write_table(pa.table({"id": list(IDS), "vector": [[1.0, 2.0], [1.0], [1.0, 3.0]]}), tmp_path / "v.parquet")
    with pytest.raises(StepwellError, match=r"v\.parquet, row 2: the vector has 1 numbers, and those before have 2"):
        taken(collection, tmp_path / "out", passages=str(tmp_path / "v.parquet"))
    (tmp_path / "v.jsonl").write_text('{"id": "p0", "vector": [1, 2]}\n\n{"id": "p1", "vector": [1, 2, 3]}\n')
    with pytest.raises(StepwellError, match=r"v\.jsonl:3: the vector has 3 numbers, and those before have 2"):
        taken(collection, tmp_path / "out", passages=str(tmp_path / "v.jsonl"))
    files, queries = write(tmp_path / "p.parquet"), write(tmp_path / "q.jsonl", ("q0", "q1"), np.ones((2, 2)))
    with pytest.raises(StepwellError, match=r"q\.jsonl has vectors with 2 numbers, and .*p\.parquet with 3"):
        taken(collection, tmp_path / "out", (0, 1), queries=queries["passages"], **files)


def test_what_is_no_file_of_vectors_is_refused(collection, tmp_path):
    (tmp_path / "v.jsonl").write_text('{"id": "p0", "text": "no"}\n')
    pq.write_table(pa.table({"id": list(IDS), "text": list(IDS)}), tmp_path / "v.parquet")
    (tmp_path / "w.parquet").write_bytes(b"PAR1 no")
    np.save(tmp_path / "v.npy", np.arange(3))
    (tmp_path / "ids").write_text("p0\np1\n")
    np.save(tmp_path / "w.npy", TABLE)
    with (tmp_path / "z.npy").open("wb") as file:
        np.savez(file, TABLE)
    for name, says in {
        "v.jsonl": r"v\.jsonl:1: no line of vectors",
        "v.parquet": "has the columns id, text, and vectors need an id and a vector",
        "w.parquet": "can't be read as a Parquet file of vectors",
        "v.npy": r"array of int64 with the shape \(3,\)",
        "z.npy": r"z\.npy is an archive of several arrays",
        "w.npy": r"w\.npy has 3 rows and .*ids has 2 ids",
        "none.parquet": "can't be read",
    }.items():
        ids = {"passage_ids": str(tmp_path / "ids")} if name.endswith(".npy") else {}
        with pytest.raises(StepwellError, match=says):
            taken(collection, tmp_path / "out", passages=str(tmp_path / name), **ids)


def test_a_block_more_changes_nothing(collection, tmp_path):
    others = [f"x{n}" for n in range(BLOCK)]
    files = write(tmp_path / "v.npy", (*others, *IDS), np.vstack([np.ones((BLOCK, 3), np.float32), TABLE]))
    found = taken(collection, tmp_path / "out", **files)
    assert np.allclose(found.passages, [[0, 0, 1], [1, 0, 0], [0.6, 0.8, 0]])


def test_the_ids_of_an_array_are_asked_for(tmp_path):
    with pytest.raises(ValueError, match="name the file with the id of each row in `passage_ids`"):
        VectorsTeacher(kind="vectors", passages="v.npy")
    with pytest.raises(ValueError, match=r"`query_ids` is for the rows of a `\.npy` file"):
        VectorsTeacher(kind="vectors", passages="v.parquet", queries="q.parquet", query_ids="ids")
