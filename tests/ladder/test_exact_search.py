"""Where a run embeds in bf16, its search ranks all the same as sentence-transformers does."""

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from conftest import write_recipe
from stepwell import api
from stepwell.ladder.build import stages_of
from stepwell.ladder.run import plan, prepare
from stepwell.models.engines import machine as engine
from stepwell.recipe.yaml_file import load_recipe
from stepwell.retrieval.vectors import Vectors
from stepwell.systems.folder import SEARCHED, RunFolder
from stepwell.systems.searcher import Searcher

RECIPE = """\
name: halves
collection: {path: COLLECTION}
tokens: {query: 24, passage: 32, pair: 56}
student: {from: MODEL, layers: 1}
teachers:
  de: {kind: dual-encoder, from: MODEL, train: {epochs: 1, lr: 1.0e-3, batch: 8}}
mining: {depth: 30, last: 20}
ladder:
  - {teacher: de, loss: embedding, epochs: 1, lr: 1.0e-3, batch: 16, force: true}
refine: {rounds: 0}
judging: {depth: 60, level: 0}
proof: none
"""


@pytest.fixture(scope="module")
def halves():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STEPWELL_PRECISION", "bf16")
        engine.precision.cache_clear()
        yield
    engine.precision.cache_clear()


@pytest.fixture(scope="module")
def run(halves, tiny_path, tiny_model, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STEPWELL_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setattr("stepwell.api._report_at_the_end", lambda folder: None)
        folder = tmp_path_factory.mktemp("halves") / "run"
        api.run(write_recipe(folder.with_name("recipe.yaml"), tiny_path, tiny_model, RECIPE), folder)
    return folder


def test_search_in_a_run_ranks_as_sentence_transformers_does(run):
    searcher, facts = Searcher.open(run), RunFolder(run).results.to_json()
    model = SentenceTransformer(str(run / "model"), device="cpu")
    collection = searcher.collection
    passages = model.encode_document(collection.passage_texts(), normalize_embeddings=True)
    texts = collection.query_texts()
    queries = model.encode_query(texts, normalize_embeddings=True)
    assert np.allclose(searcher.vectors.passages, passages, atol=1e-6)
    left = Vectors.open(run / facts["stages"][f"{facts['final']}.vectors"])
    assert not np.allclose(left.passages, passages, atol=1e-4)  # what the run itself works with
    for scores, hits in zip(queries @ passages.T, searcher.search_many(texts, 10), strict=True):
        found = [collection.passage_row(hit.passage_id) for hit in hits]
        assert np.allclose(scores[found], np.sort(scores)[::-1][:10], atol=1e-6)  # equal but for ties
        assert np.allclose([hit.score for hit in hits], scores[found], atol=1e-6)


def test_what_serves_takes_the_faster_way(run):
    searcher = Searcher.open(run)
    exact = searcher.search("the old river", 5)
    searcher.encoder.inference.settle()
    assert [hit.score for hit in searcher.search("the old river", 5)] != [hit.score for hit in exact]


def test_only_a_run_in_bf16_encodes_for_search(halves, tiny_recipe, tmp_path, monkeypatch):
    ctx = prepare(load_recipe(tiny_recipe))
    assert SEARCHED in {stage.name for stage in plan(ctx.recipe, tmp_path / "run").stages}
    assert SEARCHED not in {stage.name for stage in stages_of(ctx)}  # as for the variants of an ablation
    monkeypatch.setattr(engine, "searches_exactly", lambda: False)
    assert SEARCHED not in {stage.name for stage in plan(ctx.recipe, tmp_path / "run").stages}
