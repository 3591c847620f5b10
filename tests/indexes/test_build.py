"""An index directory: made, measured, searched anywhere, gone on with, never taken for something else."""

import json
import shutil

import pytest
from filelock import FileLock

from stepwell import api
from stepwell.display import Table
from stepwell.errors import StepwellError
from stepwell.files import cache
from stepwell.indexes.folder import choices, open_index
from stepwell.indexes.measure import report_table
from stepwell.indexes.settings import IndexSettings
from stepwell.systems.searcher import Searcher

QUERIES = ["the old river", "a bright violin", "comet"]


@pytest.fixture(scope="module")
def exact(tiny_run, tmp_path_factory):
    """An exact index in fp32 of the tiny run, and what was reported of it; not to be changed."""
    out = tmp_path_factory.mktemp("indexes") / "exact"
    return out, api.index(tiny_run, out)


def copy(exact, tmp_path):
    shutil.copytree(exact[0], tmp_path / "copy")
    return tmp_path / "copy"


def test_exact_fp32_is_measured_as_exact(exact):
    out, report = exact
    measured = report.measured
    assert (measured.recall_10, measured.recall_100, measured.delta, measured.low, measured.high) == (1, 1, 0, 0, 0)
    assert (measured.queries, measured.split) == (6, "dev")
    assert 0 <= measured.ndcg <= 1 and measured.per_second > 0
    assert (report.passages, report.search_bytes) == (60, 60 * 32 * 4 + 128)
    facts = json.loads((out / "index.json").read_text())
    assert facts["measured"]["recall_10"] == 1 and facts["collection"]["passages"] == 60
    assert sorted(path.name for path in out.iterdir()) == ["index.json", "model", "passages", "vectors"]
    assert not out.with_name("exact.part").exists()


@pytest.mark.parametrize("mode", ["student", "bm25", "fused"])
def test_an_index_finds_what_the_run_finds(mode, exact, tiny_run):
    of_run, of_index = Searcher.open(tiny_run, mode), Searcher.open(exact[0], mode)
    assert of_index.search_many(QUERIES, 7) == of_run.search_many(QUERIES, 7)


def test_moved_it_works_without_run_collection_and_cache(exact, tmp_path, monkeypatch):
    expected = Searcher.open(exact[0]).search_many(QUERIES, 5)
    moved = copy(exact, tmp_path)
    monkeypatch.setenv("STEPWELL_CACHE", str(tmp_path / "empty"))
    assert Searcher.open(moved).search_many(QUERIES, 5) == expected


def test_ids_are_found_in_an_index(exact, tiny_collection):
    collection, _, _ = open_index(exact[0])
    assert collection.passage_texts() == tiny_collection.passage_texts()
    for row in (0, 17, 59):
        assert collection.passage_row(tiny_collection.passage_ids[row]) == row
    assert (collection.n_queries, collection.splits, collection.fingerprint) == (0, (), tiny_collection.fingerprint)


def test_a_model_and_a_collection_make_an_index(tiny_model, tiny_path, tmp_path):
    settings = IndexSettings(precision="binary", dimension=16, rescore_with="fp16")
    report = api.index(tiny_model, tmp_path / "i", settings, str(tiny_path), "train")
    assert (report.measured.queries, report.measured.split) == (28, "train")
    assert 0 < report.measured.recall_10 <= 1 and report.measured.low <= report.measured.delta <= report.measured.high
    hits = Searcher.open(tmp_path / "i").search("the old river", 5)
    assert len(hits) == 5 and [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)


def test_the_same_index_again_is_left_as_it_is(exact, tiny_run):
    before = (exact[0] / "index.json").stat().st_mtime_ns
    assert api.index(tiny_run, exact[0]) == exact[1]
    assert (exact[0] / "index.json").stat().st_mtime_ns == before


def test_nothing_is_overwritten(exact, tiny_run, tmp_path):
    with pytest.raises(StepwellError, match="other settings"):
        api.index(tiny_run, exact[0], IndexSettings(precision="int8"))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(StepwellError, match="holds no index"):
        api.index(tiny_run, tmp_path / "mine")
    (tmp_path / "mine").rename(tmp_path / "next.part")
    with pytest.raises(StepwellError, match="no part of an index"):
        api.index(tiny_run, tmp_path / "next")
    assert [path.name for path in (tmp_path / "next.part").iterdir()] == ["thesis.txt"]
    (tmp_path / "file").write_text("years of work")
    with pytest.raises(StepwellError, match="holds no index"):
        api.index(tiny_run, tmp_path / "file")


@pytest.mark.parametrize("step", ["write_passages", "make", "files_of"])
@pytest.mark.parametrize("change", [False, True], ids=["same settings", "other settings"])
def test_a_build_that_died_is_done_again(step, change, exact, tiny_run, tmp_path, monkeypatch):
    def die(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(f"stepwell.indexes.folder.{step}", die)
        api.index(tiny_run, tmp_path / "i", IndexSettings(precision="fp16") if change else None)
    assert not (tmp_path / "i").exists() and (tmp_path / "i.part").is_dir()
    (tmp_path / "i").mkdir()  # empty: fine
    report = api.index(tiny_run, tmp_path / "i")
    assert report.measured.recall_10 == 1
    files = [json.loads((folder / "index.json").read_text())["files"] for folder in (tmp_path / "i", exact[0])]
    assert files[0] == files[1]
    assert not (tmp_path / "i.part").exists()


def test_two_builds_at_once_are_told(tiny_run, tmp_path):
    (tmp_path / "i.part").mkdir()
    with FileLock(tmp_path / "i.part" / ".lock"), pytest.raises(StepwellError, match="at work"):
        api.index(tiny_run, tmp_path / "i")


@pytest.mark.parametrize("string", ["IVF10x,PQ7", "IVF8,PQ5", "IDMap,Flat", "LSH", "HNSW16_PQ4", "IVF0,Flat", ""])
def test_a_bad_string_of_faiss_is_refused_before_anything_is_encoded(string, tiny_model, tiny_path, tmp_path):
    pytest.importorskip("faiss")
    place = tmp_path / "cache"
    with pytest.MonkeyPatch.context() as patch, pytest.raises(StepwellError, match=r"--faiss.*HNSW16,SQfp16"):
        patch.setenv("STEPWELL_CACHE", str(place))
        api.index(tiny_model, tmp_path / "i", IndexSettings(faiss=string), str(tiny_path))
    assert not (place / "vectors").exists() and not (tmp_path / "i.part").exists()


@pytest.mark.parametrize(
    ("string", "older"),
    [
        ("HNSW16,SQfp16", {"kind": "faiss-hnsw", "precision": "fp16"}),
        ("IVF1,PQ4x4", {"kind": "faiss-ivfpq", "precision": "pq"}),
    ],
)
def test_an_index_of_faiss_is_searched_also_one_of_an_older_stepwell(string, older, tiny_run, exact, tmp_path):
    pytest.importorskip("faiss")
    report = api.index(tiny_run, tmp_path / "i", IndexSettings(faiss=string))
    assert report.measured.recall_10 > 0.9 and string in report_table("t", [report]).text()
    expected = Searcher.open(tmp_path / "i").search_many(QUERIES, 5)
    facts = json.loads((tmp_path / "i" / "index.json").read_text())
    del facts["settings"]["faiss"]
    (tmp_path / "i" / "index.json").write_text(json.dumps(facts | {"settings": facts["settings"] | older}))
    assert Searcher.open(tmp_path / "i").search_many(QUERIES, 5) == expected


def test_a_milvus_index_is_built_and_searched(tiny_run, exact, tmp_path):
    pytest.importorskip("pymilvus")
    pytest.importorskip("milvus_lite")
    report = api.index(tiny_run, tmp_path / "i", IndexSettings("milvus"))
    assert report.measured.recall_10 == 1
    searcher, expected = Searcher.open(tmp_path / "i"), Searcher.open(exact[0]).search_many(QUERIES, 5)
    for ours, theirs in zip(searcher.search_many(QUERIES, 5), expected, strict=True):
        assert [hit.passage_id for hit in ours] == [hit.passage_id for hit in theirs]
    searcher.close()


MANIFESTS = {
    "empty": "",
    "no JSON": "{",
    "a list": "[]",
    "a number": "3",
    "something else": '{"format": "faiss"}',
    "no settings": '{"format": "stepwell-index", "version": 1}',
    "deep": "[" * 100_000,
}


@pytest.mark.parametrize("content", MANIFESTS.values(), ids=MANIFESTS)
def test_a_manifest_that_is_none_is_told(content, tmp_path):
    (tmp_path / "index.json").write_text(content)
    with pytest.raises(StepwellError, match="no whole index"):
        Searcher.open(tmp_path)


CHANGES = {
    "kind": ({"settings": {"kind": "annoy"}}, "no whole index|no kind"),
    "open settings": ({"settings": {"kind": "exact"}}, "not complete"),
    "unknown setting": ({"settings": {"speed": 11}}, "no whole index"),
    "settings are text": ({"settings": "exact"}, "settings can't be read"),
    "count": ({"collection": {"name": "x", "fingerprint": "y", "passages": 10**12}}, "60 passages, not"),
    "count is text": ({"collection": {"name": "x", "fingerprint": "y", "passages": "many"}}, "no whole index"),
    "version": ({"version": 99}, "later stepwell"),
    "version is text": ({"version": "new"}, "no whole index"),
    "files": ({"files": {"../../x": 1}}, "no whole index"),
    "sizes": ({"files": {"vectors/fp32.npy": 7}}, "another size"),
    "model": ({"model": {"fingerprint": "0", "scale": 20.0, "dimension": 32}}, "another one"),
}


@pytest.mark.parametrize(("change", "words"), CHANGES.values(), ids=CHANGES)
def test_a_manifest_with_wrong_facts_is_told(change, words, exact, tmp_path):
    folder = copy(exact, tmp_path)
    facts = json.loads((folder / "index.json").read_text())
    (folder / "index.json").write_text(json.dumps(facts | change))
    with pytest.raises(StepwellError, match=words):
        Searcher.open(folder)


@pytest.mark.parametrize("name", ["vectors/fp32.npy", "passages/passage.arrow", "model/model.safetensors"])
@pytest.mark.parametrize("how", ["missing", "cut", "scrambled"])
def test_damaged_files_are_told(name, how, exact, tmp_path):
    file = copy(exact, tmp_path) / name
    content = file.read_bytes()
    if how == "missing":
        file.unlink()
    elif how == "cut":
        file.write_bytes(content[: len(content) // 2])
    else:
        file.write_bytes(bytes(len(content)))
    with pytest.raises(StepwellError):
        Searcher.open(tmp_path / "copy")


def test_an_index_is_searched_with_its_own_passages_and_no_source_of_another(exact, tiny_path, tmp_path):
    with pytest.raises(StepwellError, match="--collection"):
        Searcher.open(exact[0], collection=str(tiny_path))
    with pytest.raises(StepwellError, match="asymmetric"):
        Searcher.open(exact[0], "asymmetric")
    with pytest.raises(StepwellError, match="index already"):
        api.index(exact[0], tmp_path / "i")


def test_without_dev_there_is_recall_only(tiny_model, tiny_directory, tmp_path):
    report = api.index(tiny_model, tmp_path / "i", None, str(tiny_directory()))
    assert report.measured.recall_10 == 1 and report.measured.ndcg is None
    assert "--split" in report_table("t", [report]).text()


def test_without_queries_nothing_is_measured(tiny_model, tiny_directory, tmp_path):
    collection = tiny_directory(train=[("q0", "p0", 1)], dev=[])
    report = api.index(tiny_model, tmp_path / "i", None, str(collection))
    assert report.measured is None
    assert "nothing was measured" in report_table("t", [report]).text()
    assert api.index(tiny_model, tmp_path / "i", None, str(collection)) == report


def test_a_kind_that_needs_more_passages_than_there_are_is_not_compared(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: True)
    strings = [{choice.faiss for choice in choices(passages, 32)} for passages in (255, 256)]
    assert strings[1] - strings[0] == {"IVF6,PQ4x8np"}


def test_comparing_keeps_nothing(tiny_run):
    reports = api.compare_indexes(tiny_run)
    assert [report.settings.precision for report in reports[:3]] == ["fp32", "fp16", "int8"]
    assert reports[0].measured.recall_10 == 1
    sizes = [report.search_bytes for report in reports]
    assert sizes[0] > sizes[1] > sizes[2] > sizes[3]
    table = report_table("t", reports)
    assert isinstance(table, Table) and len(table.rows) == len(reports) == len(choices(60, 32))
    assert not list((cache() / "indexes").iterdir())
    with pytest.raises(StepwellError, match="keeps nothing"):
        api.compare_indexes(tiny_run, [IndexSettings("milvus", uri="http://db:19530")])
