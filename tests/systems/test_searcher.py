"""Searching with a finished run or a model: what is opened, what is refused, what is found."""

import json
import shutil
from itertools import pairwise

import numpy as np
import pytest

from stepwell.collection import open_collection
from stepwell.errors import StepwellError
from stepwell.models.encoder import Encoder
from stepwell.retrieval.bm25 import BM25Index
from stepwell.retrieval.search import retrieve
from stepwell.systems.folder import RunFolder
from stepwell.systems.opening import retrieve_with, vectors_of
from stepwell.systems.searcher import Searcher


@pytest.fixture(scope="module")
def place(tiny_path):
    return str(tiny_path)


def test_a_model_searches_any_collection(tiny_model, place, tiny_collection):
    hits = Searcher.open(tiny_model, collection=place).search("the old river", 7)
    assert [hit.rank for hit in hits] == list(range(1, 8))
    assert all(a.score >= b.score for a, b in pairwise(hits))
    rows = [tiny_collection.passage_row(hit.passage_id) for hit in hits]
    assert [hit.text for hit in hits] == tiny_collection.passage_texts(rows)
    assert hits[0].to_json() == {
        "rank": 1,
        "passage_id": hits[0].passage_id,
        "score": hits[0].score,
        "text": hits[0].text,
        "title": hits[0].title,
    }
    assert all(hit.text.startswith(f"{hit.title} the ") for hit in hits)


@pytest.mark.parametrize("mode", ["student", "bm25", "fused"])
def test_many_queries_find_what_each_finds_alone(mode, tiny_run):
    searcher, queries = Searcher.open(tiny_run, mode), ["the old river", "comet", "a bright violin"]
    assert searcher.search_many([], 5) == []
    for together, query in zip(searcher.search_many(queries, 5), queries, strict=True):
        alone = searcher.search(query, 5)
        assert [hit.passage_id for hit in together] == [hit.passage_id for hit in alone]
        assert [hit.score for hit in together] == pytest.approx([hit.score for hit in alone], abs=1e-5)
    with pytest.raises(StepwellError, match="empty"):
        searcher.search_many(["river", " "])


def test_a_passage_searched_by_its_own_text_is_found_first(tiny_model, place, tiny_collection):
    searcher = Searcher.open(tiny_model, collection=place)
    for row in (0, 17, 59):
        hit = searcher.search(tiny_collection.passage_texts([row])[0], 1)[0]
        assert hit.passage_id == tiny_collection.passage_ids[row] and hit.score == pytest.approx(1.0, abs=1e-5)


def test_no_more_passages_than_there_are(tiny_model, place):
    assert len(Searcher.open(tiny_model, collection=place).search("river", 1000)) == 60


def test_the_bm25_index_is_made_once(tiny_run, monkeypatch):
    Searcher.open(tiny_run, "bm25")
    monkeypatch.setattr(BM25Index, "build", None)
    for mode in ("bm25", "fused"):
        assert Searcher.open(tiny_run, mode).search("old river comet", 3)


def test_bm25_finds_only_what_shares_a_word_and_needs_no_model(tiny_run):
    searcher = Searcher.open(tiny_run, "bm25")
    assert searcher.encoder is None
    hits = searcher.search("comet", 60)
    assert len(hits) == 6 and all("comet" in hit.text for hit in hits)
    assert searcher.search("zzz", 5) == []


def test_fusion_counts_the_ranks_of_both_lists(tiny_run):
    apart = [Searcher.open(tiny_run, mode).search("old river comet", 60) for mode in ("student", "bm25")]
    ranks = [{hit.passage_id: hit.rank for hit in hits} for hits in apart]
    for hit in Searcher.open(tiny_run, "fused").search("old river comet", 5):
        expected = sum(1 / (60 + rank[hit.passage_id]) for rank in ranks if hit.passage_id in rank)
        assert hit.score == pytest.approx(expected)


@pytest.fixture
def encoded(monkeypatch):
    """Return the list of what is encoded from now on, as (side, texts)."""
    seen, encode = [], Encoder.encode

    def told(self, tokens, side, rows=None, **options):
        seen.append((side, len(tokens) if rows is None else len(rows)))
        return encode(self, tokens, side, rows, **options)

    monkeypatch.setattr(Encoder, "encode", told)
    return seen


def test_passages_are_encoded_once_whatever_the_queries(tiny_model, place, encoded, tmp_path, monkeypatch):
    monkeypatch.setenv("STEPWELL_CACHE", str(tmp_path / "cache"))
    encoder, collection = Encoder.open(tiny_model), open_collection(place)
    first = vectors_of(encoder, collection, [3, 1, 3])
    assert first.query_rows.tolist() == [1, 3] and encoded == [("document", collection.n_passages), ("query", 2)]
    again = vectors_of(encoder, collection, [1, 3])
    assert len(encoded) == 2 and np.array_equal(again.queries, first.queries)
    assert np.array_equal(vectors_of(encoder, collection, [1, 4]).of_queries(np.array([1])), first.queries[:1])
    assert len(vectors_of(encoder, collection).query_rows) == 0
    assert encoded[2:] == [("query", 2)]
    whole = encoder.encode(encoder.tokenise(collection.query_texts([1, 3]), "query"), "query")
    assert np.allclose(first.queries, whole, atol=1e-6)


def test_a_damaged_file_of_queries_is_made_again(tiny_model, place, tmp_path, monkeypatch):
    monkeypatch.setenv("STEPWELL_CACHE", str(tmp_path / "cache"))
    encoder, collection = Encoder.open(tiny_model), open_collection(place)
    first = np.array(vectors_of(encoder, collection, [1, 3]).queries)
    (file,) = (tmp_path / "cache").rglob("queries-*.npy")
    file.write_bytes(file.read_bytes()[:-5])
    assert np.array_equal(vectors_of(encoder, collection, [1, 3]).queries, first)


def test_a_run_is_judged_by_the_vectors_that_it_left(tiny_run, tiny_path, encoded, tmp_path, monkeypatch):
    monkeypatch.setenv("STEPWELL_CACHE", str(tmp_path / "cache"))
    collection = open_collection(tiny_path)
    for split in collection.splits:
        retrieve_with(str(tiny_run), collection, collection.qrels(split), 5)
    assert encoded == []
    left = vectors_of(Encoder.open(tiny_run / "model"), collection, collection.qrels("dev").query_rows)
    run = retrieve_with(str(tiny_run), collection, collection.qrels("dev"), 5)
    assert np.array_equal(retrieve(left, run.queries, 5).passages, run.passages)


def test_a_run_whose_stages_were_deleted_is_encoded_again(tiny_run, tiny_path, tmp_path):
    shutil.copytree(tiny_run, tmp_path / "run", ignore=shutil.ignore_patterns("stages"))
    collection = open_collection(tiny_path)
    dev = collection.qrels("dev")
    whole, cut = (retrieve_with(str(run), collection, dev, 5) for run in (tiny_run, tmp_path / "run"))
    assert np.array_equal(whole.passages, cut.passages)


@pytest.mark.parametrize("query", ["", "  \n"])
def test_an_empty_query_is_refused(tiny_model, place, query):
    with pytest.raises(StepwellError, match="empty"):
        Searcher.open(tiny_model, collection=place).search(query)


def test_what_is_no_finished_run_is_refused(tiny_model, tmp_path):
    with pytest.raises(StepwellError, match="--collection"):
        Searcher.open(tiny_model)
    (tmp_path / "stages").mkdir()
    with pytest.raises(StepwellError, match="not finished"):
        Searcher.open(tmp_path)


def test_a_model_has_no_asymmetric_mode(tiny_model, place):
    with pytest.raises(StepwellError, match="finished run"):
        Searcher.open(tiny_model, "asymmetric", place)


def test_a_collection_that_changed_since_the_run_is_refused(tiny_run, tiny_path, tmp_path):
    changed = tmp_path / "changed"
    shutil.copytree(tiny_path, changed)
    with (changed / "corpus.jsonl").open("a") as file:
        file.write('{"_id": "new", "text": "one more"}\n')
    with pytest.raises(StepwellError, match="content has changed"):
        Searcher.open(tiny_run, collection=str(changed))
    shutil.copytree(tiny_path, tmp_path / "moved")  # the same content elsewhere is fine
    assert Searcher.open(tiny_run, collection=str(tmp_path / "moved")).search("river", 1)


@pytest.mark.parametrize("content", ["", "{", "[]", "3", '{"final": "rung-1"}'])
def test_damaged_results_are_refused(tmp_path, content):
    (tmp_path / "results.json").write_text(content)
    with pytest.raises(StepwellError, match=r"results\.json.*run"):
        RunFolder.finished(tmp_path, "search")


def test_damaged_vectors_are_refused(tiny_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    facts = json.loads((run / "results.json").read_text())
    file = run / facts["stages"][f"{facts['final']}.vectors"] / "passages.npy"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(StepwellError, match="damaged"):
        Searcher.open(run)
