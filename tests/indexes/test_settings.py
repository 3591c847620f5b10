"""What can't be is said at once; what is left open is filled in."""

import pytest

from stepwell.errors import StepwellError
from stepwell.indexes.settings import IndexSettings, of_manifest, quantised


@pytest.mark.parametrize(
    ("given", "precision", "rescore", "again"),
    [
        ({}, "fp32", 0, None),
        ({"precision": "binary"}, "binary", 4, "int8"),
        ({"precision": "binary", "rescore": 0}, "binary", 0, None),
        ({"precision": "binary", "rescore_with": "binary"}, "binary", 4, "binary"),
        ({"faiss": "IVF8,PQ4"}, None, 10, "int8"),
        ({"faiss": "HNSW16,SQfp16"}, None, 0, None),
        ({"faiss": "HNSW16,SQ8", "rescore_with": "fp16"}, None, 4, "fp16"),
        ({"rescore_with": "fp16", "precision": "int8"}, "int8", 4, "fp16"),
        ({"precision": "int8", "rescore": 3}, "int8", 0, None),  # int8 again would change nothing
        ({"kind": "usearch", "precision": "int8", "rescore": 3}, "int8", 3, "int8"),  # its own has no calibration
    ],
)
def test_what_is_left_open_is_filled_in(given, precision, rescore, again):
    settings = IndexSettings(**given).resolve(32)
    assert (settings.precision, settings.rescore, settings.rescore_with) == (precision, rescore, again)
    assert settings.dimension == 32
    assert settings.resolve(32) == settings


@pytest.mark.parametrize(("width", "code"), [(384, 48), (768, 96), (32, 4), (30, 3), (7, 1)])
def test_codes_of_ivfpq_divide_the_width(width, code):
    assert quantised(1_000, width) == f"IVF25,PQ{code}x8np"


def test_a_string_of_faiss_is_of_the_kind_faiss():
    assert IndexSettings(faiss="Flat").kind == "faiss"
    assert IndexSettings("faiss", faiss="Flat") == IndexSettings(faiss="Flat")


@pytest.mark.parametrize(
    ("older", "string"),
    [
        ({"kind": "faiss-hnsw", "precision": "fp32", "rescore": 0}, "HNSW16,Flat"),
        ({"kind": "faiss-hnsw", "precision": "fp16", "rescore": 0}, "HNSW16,SQfp16"),
        ({"kind": "faiss-hnsw", "precision": "int8", "rescore": 4, "rescore_with": "fp16"}, "HNSW16,SQ8"),
        ({"kind": "faiss-ivfpq", "precision": "pq", "rescore": 10, "rescore_with": "int8"}, "IVF25,PQ4x8np"),
    ],
)
def test_the_kinds_of_older_indexes_are_read_as_strings(older, string):
    settings = of_manifest({"dimension": 32, "effort": 7, "uri": None} | older, 1_000)
    assert (settings.kind, settings.faiss, settings.effort) == ("faiss", string, 7)
    assert settings.resolve(32) == settings


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"kind": "annoy"}, "no kind 'annoy'"),
        ({"precision": "int4"}, "precision with the kind exact 'int4'"),
        ({"kind": "faiss-hnsw"}, "one of exact, usearch, faiss"),
        ({"kind": "faiss"}, "--faiss HNSW16,SQfp16"),
        ({"kind": "usearch", "faiss": "Flat"}, "not for the kind usearch"),
        ({"kind": "milvus", "precision": "int8"}, "fp32, fp16"),
        ({"faiss": "IVF8,PQ4", "precision": "int8"}, "codes of its own"),
        ({"rescore_with": "pq"}, "score again with 'pq'"),
        ({"dimension": 0}, "start at 1"),
        ({"rescore": -1}, "rescore at 0"),
        ({"effort": 0}, "effort"),
        ({"uri": "http://db:19530"}, "not for exact"),
        ({"kind": "milvus", "uri": "db:19530"}, "http://HOST:PORT"),
        ({"kind": "milvus", "uri": "https://me:secret@db:19530"}, "STEPWELL_MILVUS_TOKEN"),
    ],
)
def test_what_cannot_be_is_told(given, words):
    with pytest.raises(StepwellError, match=words):
        IndexSettings(**given)


def test_more_dimensions_than_there_are():
    with pytest.raises(StepwellError, match="32 dimensions"):
        IndexSettings(dimension=64).resolve(32)
