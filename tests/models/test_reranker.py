"""The reranker gives the raw logits that sentence-transformers gives."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from sentence_transformers import CrossEncoder
from torch import nn
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from stepwell.models.build import build_cross_encoder
from stepwell.models.engines.inference import Opened
from stepwell.models.reranker import Reranker

QUERIES = ["which river is old", "engine", "a bright castle"]
PASSAGES = ["the river was old and deep", "sail", "the comet was thin and the market was warm and large " * 8]
ROWS = np.array([0, 0, 0, 1, 1, 2, 2]), np.array([0, 1, 2, 2, 0, 1, 2])


@pytest.fixture(params=["bert", "roberta", "distilbert"])
def family(request):
    return request.param


def scores_of(reranker):
    return reranker.score(reranker.tokenise(QUERIES), reranker.tokenise(PASSAGES), *ROWS)


def pairs():
    return [(QUERIES[query], PASSAGES[passage]) for query, passage in zip(*ROWS, strict=True)]


def test_agrees_with_the_predictions_of_a_pooled_cross_encoder(tiny_models, family):
    model = build_cross_encoder(str(tiny_models[family]), 2, 64, 1)
    expected = model.predict(pairs(), activation_fn=nn.Identity(), show_progress_bar=False)
    assert scores_of(Reranker(model)) == pytest.approx(expected, abs=1e-5)


def test_agrees_with_the_predictions_of_a_transformers_classifier(tiny_models, family, tmp_path):
    torch.manual_seed(2)
    AutoModelForSequenceClassification.from_pretrained(tiny_models[family], num_labels=1).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tiny_models[family]).save_pretrained(tmp_path)
    plain = CrossEncoder(str(tmp_path), device="cpu")  # with the sigmoid that it has by default
    expected = plain.predict(pairs(), activation_fn=nn.Identity(), show_progress_bar=False)
    ours = scores_of(Reranker.open(tmp_path))
    assert ours == pytest.approx(expected, abs=1e-5)
    assert plain.predict(pairs(), show_progress_bar=False) == pytest.approx(1 / (1 + np.exp(-ours)), abs=1e-5)


def test_the_fingerprint_knows_whatever_changes_a_score(tiny_model, tmp_path):
    def changed(file, **facts):
        path = folder / file
        path.write_text(json.dumps({**json.loads(path.read_text()), **facts}))
        return Reranker.open(folder)

    folder = tmp_path / "saved"
    plain = Reranker(build_cross_encoder(str(tiny_model), 2, 64, 1))
    plain.save(folder)
    assert Reranker.open(folder).fingerprint == plain.fingerprint
    pooling = next(path.name for path in folder.glob("*Pooling"))
    other = changed(f"{pooling}/config.json", pooling_mode="cls")
    assert not np.allclose(scores_of(other), scores_of(plain), atol=1e-3)
    cased = changed("tokenizer_config.json", do_lower_case=False)
    assert len({plain.fingerprint, other.fingerprint, cased.fingerprint, Reranker.open(folder, 32).fingerprint}) == 4


def test_a_batch_gives_what_single_pairs_give(tiny_model):
    reranker = Reranker(build_cross_encoder(str(tiny_model), 2, 64, 1))
    queries, passages = reranker.tokenise(QUERIES), reranker.tokenise(PASSAGES)
    reranker.model.eval()
    together = reranker.logits(queries, passages, *ROWS).detach().numpy()
    alone = [
        reranker.logits(queries, passages, ROWS[0][i : i + 1], ROWS[1][i : i + 1]).item() for i in range(len(ROWS[0]))
    ]
    assert together == pytest.approx(np.array(alone), abs=1e-5)
    assert together == pytest.approx(scores_of(reranker), abs=1e-5)


@pytest.mark.parametrize("limit", [64, 20, 9])
def test_lengths_are_those_of_the_padded_pairs(tiny_models, family, limit, monkeypatch):
    monkeypatch.setattr("stepwell.models.preparation.LONG", ())  # cutting them to a few tokens takes seconds
    reranker = Reranker(build_cross_encoder(str(tiny_models[family]), 1, limit, 1))
    queries, passages = reranker.tokenise(QUERIES), reranker.tokenise(PASSAGES)
    features = reranker.preparation.pairs(queries, passages, *ROWS)
    assert reranker.lengths(queries, passages, *ROWS).tolist() == features["attention_mask"].sum(1).tolist()
    assert features["input_ids"].shape[1] <= limit


def test_a_limit_beyond_the_positions_is_cut_to_them(tiny_models, family):
    reranker = Reranker(build_cross_encoder(str(tiny_models[family]), 1, 500, 1), 500)
    assert reranker.limit == 64
    assert np.isfinite(scores_of(reranker)).all()


def test_saved_and_opened_it_is_the_same_to_the_bit(tiny_model, tmp_path):
    reranker = Reranker(build_cross_encoder(str(tiny_model), 2, 40, 1))
    reranker.save(tmp_path / "teacher")
    again = Reranker.open(tmp_path / "teacher")
    assert (again.fingerprint, again.limit) == (reranker.fingerprint, 40)
    assert np.array_equal(scores_of(again), scores_of(reranker))
    assert Reranker.open(tmp_path / "teacher", 30).fingerprint != again.fingerprint


def test_batches_have_rounded_lengths(tiny_model, monkeypatch):
    reranker = Reranker(build_cross_encoder(str(tiny_model), 2, 64, 1))
    expected, widths = scores_of(reranker), set()
    runner = reranker.inference.open(1).runner

    def run(features):
        widths.add(features["input_ids"].shape[1])
        return runner(features)

    monkeypatch.setattr(reranker.inference, "open", lambda tokens: Opened(replace(runner, run=run), 64))
    assert scores_of(reranker) == pytest.approx(expected, abs=1e-5)
    assert len(widths) > 1
    assert not any(width % 8 for width in widths)
