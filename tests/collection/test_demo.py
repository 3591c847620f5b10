from __future__ import annotations

import pytest

from stepwell.collection import check_directory, demo, open_collection
from stepwell.collection.docstrings import Pair


def pairs(count: int) -> list[Pair]:
    return [Pair(f"pack.thing{i}", f"Return the thing number {i}.", f"It is the {i}th of all.") for i in range(count)]


@pytest.fixture
def installed(monkeypatch):
    """Put 200 made pairs in the place of the installed packages; count how often they are read."""
    reads = []

    def read():
        reads.append(1)
        return iter(pairs(200))

    monkeypatch.setattr(demo, "read_installed", read)
    monkeypatch.setitem(demo.SIZES, "demo", demo.Size(passages=100, train=30, dev=5, test=9))
    return reads


def test_the_demo_opens_like_any_collection_and_is_built_once(installed, tmp_path):
    small, full = open_collection("demo", tmp_path), open_collection("demo-full", tmp_path)
    assert open_collection("demo", tmp_path).fingerprint == small.fingerprint
    assert len(installed) == 1
    assert (small.name, small.n_passages, full.n_passages, full.n_queries) == ("demo", 100, 200, 200)
    sizes = {split: len(small.qrels(split).query_rows) for split in small.splits}
    assert sizes == {"train": 30, "dev": 5, "test": 9}
    assert not [problem for problem in check_directory(small.path) if problem.severity == "error"]


def test_the_small_demo_is_part_of_the_full_one_split_by_split(installed, tmp_path):
    small, full = open_collection("demo", tmp_path), open_collection("demo-full", tmp_path)
    for split in small.splits:
        named = {small.query_ids[row] for row in small.qrels(split).query_rows}
        assert named <= {full.query_ids[row] for row in full.qrels(split).query_rows}


def test_every_query_is_answered_by_the_rest_of_its_own_docstring(installed, tmp_path):
    collection = open_collection("demo-full", tmp_path)
    for split in collection.splits:
        qrels = collection.qrels(split)
        for query in qrels.query_rows:
            (passage,) = qrels.positives(query)
            assert collection.query_ids[query] == f"q:{collection.passage_ids[passage]}"


def test_an_interrupted_build_leaves_nothing_that_looks_whole(installed, tmp_path, monkeypatch):
    def broken(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(demo, "distinct", broken)
        with pytest.raises(KeyboardInterrupt):
            open_collection("demo", tmp_path)
    assert open_collection("demo", tmp_path).n_passages == 100


def test_repeated_names_queries_and_passages_are_dropped():
    first = Pair("a", "Return a sorted copy.", "It keeps the order.")
    same = [
        first._replace(query="x", passage="y"),
        Pair("b", "return a  sorted copy.", "z"),
        Pair("c", "w", first.passage),
    ]
    other = Pair("d", "Return a copy.", "It keeps no order.")
    assert demo.distinct([first, *same, other]) == [first, other]


def test_a_directory_called_demo_can_be_opened_by_its_path(tiny_directory, monkeypatch):
    directory = tiny_directory()
    directory.rename(directory.with_name("demo"))
    monkeypatch.chdir(directory.parent)
    assert open_collection("./demo").n_passages == 3


def test_the_standard_library_alone_gives_real_pairs(monkeypatch):
    monkeypatch.setattr(demo, "PACKAGES", {"bm25s": (), "no_such_package": ()})
    monkeypatch.setattr(
        demo.sysconfig,
        "get_paths",
        lambda: {"stdlib": demo.importlib.util.find_spec("json").submodule_search_locations[0]},
    )
    found = {pair.name: pair for pair in demo.read_installed()}
    assert any(name.startswith("bm25s.") for name in found)
    assert found["decoder.JSONDecoder.raw_decode"].query.startswith("Decode a JSON document from")
