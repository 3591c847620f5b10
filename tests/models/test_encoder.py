"""The encoder gives what sentence-transformers gives, whatever the batch."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling

from stepwell.display import Progress
from stepwell.models.build import build_student
from stepwell.models.encoder import FEW, Encoder
from stepwell.models.engines.backends import open_way
from stepwell.models.engines.inference import LEAST, Opened
from stepwell.models.opening import open_sentence_transformer, save_model

TEXTS = [
    "the river was old and deep , with a slow side to it",
    "sail",
    "",
    "which engine is broken",
    "the market was large and quiet and the harvest was early and the comet was bright " * 6,  # longer than the model
]


def build(base, **changes):
    settings = {"layers": 2, "pick": "first", "pooling": None, "similarity": None, "towers": 1, "max_tokens": 48}
    return build_student(str(base), **(settings | changes))


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert"])
@pytest.mark.parametrize("similarity", ["cos", "dot"])
@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_agrees_with_sentence_transformers(tiny_models, family, similarity, pooling):
    model = build(tiny_models[family], similarity=similarity, pooling=pooling)
    encoder = Encoder(model)
    ours = encoder.encode(encoder.tokenise(TEXTS, "document"), "document")
    assert ours == pytest.approx(model.encode_document(TEXTS), abs=1e-5)
    assert (encoder.cosine, encoder.scale) == ((True, 20.0) if similarity == "cos" else (False, 1.0))


def test_each_side_goes_through_its_tower_after_its_prompt(tiny_model, tmp_path):
    base = open_sentence_transformer(str(tiny_model))
    base.prompts = {"query": "which: ", "passage": "the "}
    save_model(base, tmp_path / "base")
    model = build(tmp_path / "base", towers=2)
    with torch.no_grad():
        for parameter in model[0].sub_modules["query"].parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    encoder = Encoder(model)
    assert (encoder.prompt("query"), encoder.prompt("document")) == ("which: ", "the ")
    sides = {side: encoder.encode(encoder.tokenise(TEXTS, side), side) for side in ("query", "document")}
    assert sides["query"] == pytest.approx(model.encode_query(TEXTS), abs=1e-5)
    assert sides["document"] == pytest.approx(model.encode_document(TEXTS), abs=1e-5)
    assert not np.allclose(sides["query"], sides["document"], atol=1e-2)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_a_prompt_that_the_model_does_not_pool_is_left_out_of_training_and_of_encoding(tiny_model, tmp_path, pooling):
    base = open_sentence_transformer(str(tiny_model))
    base[1] = Pooling(32, pooling, include_prompt=False)
    base.prompts, base.similarity_fn_name = {"query": "which: ", "document": "the old "}, "dot"
    save_model(base, tmp_path / "base")
    encoder, whole = Encoder.open(tmp_path / "base"), Encoder.open(tiny_model)
    plain = {"query": base.encode_query(TEXTS), "document": base.encode(TEXTS, prompt="the old ")}
    for side, expected in plain.items():
        tokens = encoder.tokenise(TEXTS, side)
        assert encoder.encode(tokens, side) == pytest.approx(expected, abs=1e-4)
        assert encoder.embed(tokens, np.arange(5), side).detach().numpy() == pytest.approx(expected, abs=1e-4)
        for way in ("torch-fp32", "torch-bf16-weights"):
            opened = Opened(open_way(replace(encoder.inference.net, task=side), way), 512)
            assert encoder.encode_by(opened, tokens) == pytest.approx(expected, abs=1e-4 if "32" in way else 0.3)
    assert encoder.inference.open(LEAST - 1, "query").runner.net.task == "query"
    base.set_pooling_include_prompt(True)
    save_model(base, tmp_path / "other")
    assert Encoder.open(tmp_path / "other").fingerprint != encoder.fingerprint
    assert whole.inference.open(LEAST - 1, "query").runner.net.task is None


def test_vectors_of_an_encoder_without_normalize_are_normalised_for_cosine(tiny_model):
    encoder = Encoder.open(tiny_model)
    vectors = encoder.encode(encoder.tokenise(TEXTS, "document"), "document")
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(np.ones(5), abs=1e-5)


def test_saved_and_opened_it_is_the_same_to_the_bit(tiny_model, tmp_path):
    encoder = Encoder(build(tiny_model, similarity="dot"))
    encoder.save(tmp_path / "student")
    again = Encoder.open(tmp_path / "student")
    assert again.fingerprint == encoder.fingerprint
    assert (again.limit, again.cosine, again.dimension) == (48, False, 32)
    vectors = [e.encode(e.tokenise(TEXTS, "query"), "query") for e in (encoder, again)]
    assert np.array_equal(*vectors)
    plain = SentenceTransformer(str(tmp_path / "student"), device="cpu")
    assert vectors[0] == pytest.approx(plain.encode_query(TEXTS), abs=1e-4)


def test_a_batch_gives_what_single_texts_give(tiny_model):
    encoder = Encoder.open(tiny_model)
    tokens = encoder.tokenise(TEXTS, "query")
    encoder.model.eval()
    together = encoder.embed(tokens, np.arange(5), "query").detach().numpy()
    alone = [encoder.embed(tokens, np.array([row]), "query").detach().numpy()[0] for row in range(5)]
    assert together == pytest.approx(np.array(alone), abs=1e-5)
    assert together == pytest.approx(encoder.encode(tokens, "query"), abs=1e-5)


def test_rows_come_back_in_the_order_asked_for(tiny_model):
    encoder = Encoder.open(tiny_model)
    tokens = encoder.tokenise(TEXTS, "query")
    encoder.model.eval()
    all_rows, some = (encoder.embed(tokens, np.array(rows), "query") for rows in (range(5), [4, 0, 4, 2]))
    assert torch.allclose(some, all_rows[[4, 0, 4, 2]], atol=1e-5)


def test_texts_of_both_sides_are_cut_at_the_models_limit(tiny_model):
    encoder = Encoder(build(tiny_model))
    assert [encoder.tokenise(TEXTS, side).lengths.max() for side in ("query", "document")] == [encoder.limit - 2] * 2


def test_progress_counts_every_text_once(tiny_model):
    encoder, count = Encoder.open(tiny_model), Progress(lambda share, note: None)
    encoder.encode(encoder.tokenise(TEXTS, "query"), "query", progress=count)
    assert count.done == 5


def test_no_texts_are_no_vectors(tiny_model):
    encoder = Encoder.open(tiny_model)
    assert encoder.encode(encoder.tokenise([], "query"), "query").shape == (0, 32)


def test_the_fingerprint_knows_the_scale(tiny_model):
    assert Encoder.open(tiny_model).fingerprint != Encoder.open(tiny_model, scale=30).fingerprint


def test_a_long_job_has_few_shapes_and_the_same_vectors(tiny_model):
    encoder = Encoder(build(tiny_model))
    texts = [" ".join(["river"] * (1 + n % 19)) for n in range(FEW + 1)]
    tokens = encoder.tokenise(texts, "document")
    opened = encoder.inference.open(1, "document")
    shapes = []

    def run(features):
        shapes.append(tuple(features["input_ids"].shape))
        return opened.runner(features)

    spy = Opened(replace(opened.runner, run=run), opened.token_budget)
    few, many = np.arange(FEW), np.arange(FEW + 1)
    vectors = encoder.encode_by(spy, tokens, few)
    assert any(width % 8 for _, width in shapes)
    shapes.clear()
    assert encoder.encode_by(spy, tokens, many)[:FEW] == pytest.approx(vectors, abs=1e-5)
    assert {width for _, width in shapes} == {8, 16, 24}


def test_where_shapes_cost_a_step_has_few_of_them_and_the_same_vectors(tiny_model, monkeypatch):
    encoder = Encoder(build(tiny_model))
    encoder.model.eval()
    tokens = encoder.tokenise([" ".join(["river"] * n) for n in range(1, 20)], "document")
    rows, shapes, transformer = np.arange(19), [], encoder.model[0]
    expected = encoder.embed(tokens, rows, "document")
    forward = transformer.forward

    def spy(features, **options):
        shapes.append(tuple(features["input_ids"].shape))
        return forward(features, **options)

    monkeypatch.setattr(transformer, "forward", spy)
    for module in ("engines.forward", "encoder"):
        monkeypatch.setattr(f"stepwell.models.{module}.few_shapes", lambda: True)
    assert torch.allclose(encoder.embed(tokens, rows, "document"), expected, atol=1e-5)
    assert sum(rows for rows, _ in shapes) == 19
    assert not any(width % 8 for _, width in shapes)
