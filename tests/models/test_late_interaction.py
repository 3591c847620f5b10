"""Late interaction gives the scores that sentence-transformers gives, and MaxSim worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sentence_transformers import MultiVectorEncoder

from stepwell.errors import StepwellError
from stepwell.models.build import build_multi_vector
from stepwell.models.files import is_multi_vector
from stepwell.models.late_interaction import LateInteraction

QUERIES = ["which river is old", "engine", "a bright castle"]
PASSAGES = ["the river was old and deep", "sail", "the comet was thin and the market was warm and large " * 8]
ROWS = np.array([0, 0, 0, 1, 1, 2, 2]), np.array([0, 1, 2, 2, 0, 1, 2])
LIMITS = 16, 40
EXPANSIONS = {
    "none": None,
    "fixed": {"strategy": "fixed", "attend": False, "length": 12, "token": "[MASK]"},
    "at least": {"strategy": "min", "attend": True, "length": 6},
}


def scores_of(late):
    tokens = late.tokenise(QUERIES, "query"), late.tokenise(PASSAGES, "document")
    return late.score(*tokens, *ROWS), late.logits(*tokens, *ROWS)


def expected(model):
    queries, passages = model.encode_query(QUERIES), model.encode_document(PASSAGES)
    return model.similarity(queries, passages).numpy()[ROWS]


@pytest.fixture(params=EXPANSIONS)
def model(request, tiny_model):
    model = build_multi_vector(str(tiny_model), 2, 8, *LIMITS, seed=1)
    model[0].query_length = None if request.param == "fixed" else LIMITS[0]
    model[0].query_expansion = EXPANSIONS[request.param]
    return model.eval()


def test_agrees_with_the_similarity_of_sentence_transformers(model):
    scored, with_gradient = scores_of(LateInteraction(model, *LIMITS))
    assert scored == pytest.approx(expected(model), abs=1e-4)
    assert with_gradient.detach().numpy() == pytest.approx(scored, abs=1e-4)
    assert with_gradient.requires_grad


@pytest.mark.parametrize("family", ["roberta", "distilbert"])
def test_of_every_family_and_with_the_mean_over_query_tokens(tiny_models, family):
    model = build_multi_vector(str(tiny_models[family]), 1, None, *LIMITS, seed=1).eval()
    model.similarity_fn_name = "meanmaxsim"
    scored, _ = scores_of(LateInteraction(model, *LIMITS))
    assert scored == pytest.approx(expected(model), abs=1e-4)
    assert scored.max() <= 1 + 1e-5  # a mean of cosines


def test_a_score_is_the_sum_of_each_query_tokens_best_product(tiny_model):
    late = LateInteraction(build_multi_vector(str(tiny_model), 1, None, *LIMITS, seed=1), *LIMITS)
    vectors = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [9.0, 9.0]]]), torch.tensor([[True, True, False]])
    passage = torch.tensor([[[0.6, 0.8], [0.0, 0.5], [7.0, 7.0]]]), torch.tensor([[True, True, False]])
    one = np.array([0])
    assert late._maxsim(vectors, passage, one, one).tolist() == [pytest.approx(0.6 + 0.8)]


def test_texts_are_cut_where_the_recipe_says(tiny_model):
    model = build_multi_vector(str(tiny_model), 1, None, 60, 60, seed=1).eval()
    short, long = LateInteraction(model, 4, 6), LateInteraction(model, 60, 60)
    assert short.limits == {"query": 4, "document": 6}
    vectors, mask = short.embed(short.tokenise(PASSAGES, "document"), np.arange(3), "document")
    assert mask.sum(dim=1).tolist() == [6, 3, 6] and vectors.shape == (3, 6, 32)
    assert torch.linalg.vector_norm(vectors[0], dim=1).tolist() == pytest.approx([1.0] * 6)
    assert short.fingerprint != long.fingerprint


def test_saved_and_opened_it_is_the_same_to_the_bit(model, tmp_path):
    late = LateInteraction(model, *LIMITS)
    late.save(tmp_path / "teacher")
    again = LateInteraction.open(tmp_path / "teacher", *LIMITS)
    assert again.fingerprint == late.fingerprint
    assert np.array_equal(scores_of(again)[0], scores_of(late)[0])
    assert MultiVectorEncoder(str(tmp_path / "teacher"), device="cpu").get_embedding_dimension() == 8
    built = build_multi_vector(str(tmp_path / "teacher"), 1, None, *LIMITS, seed=1)  # further trained, fewer layers
    assert len(built[0].auto_model.encoder.layer) == 1
    with pytest.raises(StepwellError, match="projection of its own"):
        build_multi_vector(str(tmp_path / "teacher"), 1, 4, *LIMITS, seed=1)


def test_an_encoder_is_not_taken_for_late_interaction(tiny_model):
    assert not is_multi_vector(str(tiny_model))
    with pytest.raises(StepwellError, match="give the teacher `train`"):
        LateInteraction.open(tiny_model, *LIMITS)
    with pytest.raises(StepwellError, match=r"no model directory|can't open"):
        LateInteraction.open(tiny_model.parent / "nowhere", *LIMITS)
