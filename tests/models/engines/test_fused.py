"""Fused layers are linear layers, and a model of them gives the same vectors."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from stepwell.models.build import build_cross_encoder, build_student
from stepwell.models.engines.cpu import FusedLinear, can_fuse, fuse

needs_bf16 = pytest.mark.skipif(
    not can_fuse(nn.Linear(2, 2).bfloat16()), reason="this torch, or this CPU, has no operators for bf16"
)


def test_what_is_not_in_bf16_is_left_alone():
    assert not can_fuse(nn.Linear(2, 2))


@needs_bf16
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(5, 48), (3, 7, 48)])
@torch.inference_mode()
def test_a_layer_with_and_without_an_activation(bias, shape):
    torch.manual_seed(3)
    linear, inputs = nn.Linear(48, 20, bias=bias).bfloat16(), torch.randn(shape).bfloat16()
    expected = linear(inputs)
    assert torch.allclose(FusedLinear(linear)(inputs).float(), expected.float(), atol=1e-2)
    activated = FusedLinear(linear, "gelu")(inputs)
    assert activated.shape == expected.shape
    assert torch.allclose(activated.float(), nn.functional.gelu(expected.float()), atol=2e-2)


@needs_bf16
@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert"])
@torch.inference_mode()
def test_a_fused_model_gives_the_same_vectors(tiny_models, family):
    model = build_student(str(tiny_models[family]), 2, "first", "mean", "cos", 1, 48).eval().bfloat16()
    fused = copy.deepcopy(model)
    fuse(fused)
    linear = [name for name, part in model.named_modules() if type(part) is nn.Linear]
    assert linear
    assert all(isinstance(fused.get_submodule(name), FusedLinear) for name in linear)
    features = model.preprocess(["the river was old and deep", "sail"])
    outs = [one(dict(features))["sentence_embedding"].float() for one in (model, fused)]
    assert nn.functional.cosine_similarity(*outs).min() > 0.999
    activations = [part.activation for part in fused.modules() if isinstance(part, FusedLinear)]
    assert activations.count("gelu") == (0 if family == "distilbert" else 2)


@needs_bf16
@torch.inference_mode()
def test_a_fused_cross_encoder_gives_the_same_scores(tiny_model):
    model = build_cross_encoder(str(tiny_model), 2, 64, 1).eval().bfloat16()
    fused = copy.deepcopy(model)
    fuse(fused)
    features = model.preprocess([("engine", "the river was old"), ("which river", "the river was old and deep")])
    scores = [one(dict(features))["scores"].float() for one in (model, fused)]
    assert torch.allclose(*scores, atol=3e-2)
