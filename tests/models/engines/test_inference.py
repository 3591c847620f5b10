"""Jobs are run in the chosen way, with the weights that the model has now."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from nets import encoder_net
from stepwell.models.build import build_student
from stepwell.models.encoder import Encoder
from stepwell.models.engines import inference, race
from stepwell.models.engines.backends import missing, open_way
from stepwell.models.engines.inference import LEAST, Inference
from stepwell.models.engines.parity import distance
from stepwell.models.engines.probe import Choice


@pytest.fixture
def encoder(tiny_model):
    return Encoder.open(tiny_model)


@pytest.fixture
def chosen(monkeypatch):
    """Return a function that fixes the choice."""

    def fix(way, budget=77):
        monkeypatch.setattr(inference, "choose", lambda net, kind: Choice(way, budget))

    return fix


def train(encoder):
    """Take one step of fused AdamW."""
    optimiser = torch.optim.AdamW(encoder.model.parameters(), lr=0.05, fused=True)
    encoder.model.train()
    tokens = encoder.tokenise(["old river", "sail"], "query")
    encoder.embed(tokens, np.arange(2), "query").sum().backward()
    optimiser.step()


def test_a_small_job_goes_through_torch_at_once(encoder, monkeypatch):
    monkeypatch.setattr(inference, "choose", lambda net, kind: pytest.fail("it probes"))
    opened = Inference(encoder_net(encoder), "embedding").open(LEAST - 1)
    assert (opened.runner.way, opened.token_budget) == ("torch-fp32", 1024)


def test_a_small_job_of_a_settled_model_goes_through_a_kept_copy_in_bf16(encoder, monkeypatch):
    monkeypatch.setattr(inference, "choose", lambda net, kind: pytest.fail("it probes"))
    monkeypatch.setattr(inference.machine, "precision", lambda: torch.bfloat16)
    engine = Inference(encoder_net(encoder), "embedding")
    assert engine.open(10).runner.way == "torch-bf16-autocast"  # its weights may change before the next
    engine.settle()
    opened = engine.open(10)
    assert opened.runner.way == "torch-bf16-weights" and engine.open(20) is opened


def test_in_fp32_a_settled_model_takes_no_copy(encoder):
    engine = Inference(encoder_net(encoder), "embedding")
    engine.settle()
    assert engine.open(10).runner.way == "torch-fp32"


def test_a_large_job_takes_the_chosen_way(encoder, chosen):
    chosen("torch-bf16-weights")
    engine = Inference(encoder_net(encoder), "embedding")
    opened = engine.open(LEAST)
    assert (opened.runner.way, opened.token_budget) == ("torch-bf16-weights", 77)
    assert engine.open(LEAST) is opened


@pytest.mark.parametrize("way", ["torch-fp32", "torch-bf16-weights"])
def test_a_model_that_was_trained_on_is_opened_again(encoder, chosen, way):
    chosen(way)
    engine = Inference(encoder_net(encoder), "embedding")
    old = engine.open(LEAST).runner
    before = old(old.net.samples[0])
    train(encoder)
    new = engine.open(LEAST).runner
    after = new(new.net.samples[0])
    assert new is not old
    assert distance(after, open_way(encoder_net(encoder), "torch-fp32")(new.net.samples[0])) < 2e-3
    assert distance(after, before) > 1e-3


def test_a_way_that_differs_is_told_and_not_taken(encoder, chosen, monkeypatch):
    warnings = []
    monkeypatch.setattr(inference.display, "warn", warnings.append)
    monkeypatch.setattr(
        race,
        "open_way",
        lambda net, way: replace(open_way(net, "torch-fp32"), way=way, run=lambda f: torch.ones(4, 32)),
    )
    chosen("openvino-fp32")
    opened = Inference(encoder_net(encoder), "embedding").open(LEAST)
    assert (opened.runner.way, opened.token_budget) == ("torch-fp32", 77)
    assert "openvino-fp32 is not used for embedding" in warnings[0]
    assert "where 1e-06 is allowed" in warnings[0]


def test_a_way_that_can_not_be_opened_is_told_and_not_taken(encoder, chosen, monkeypatch):
    warnings = []
    monkeypatch.setattr(inference.display, "warn", warnings.append)
    chosen("torch-bf16-flash")
    assert Inference(encoder_net(encoder), "embedding").open(LEAST).runner.way == "torch-fp32"
    assert "torch-bf16-flash is not used" in warnings[0]


def test_one_tower_serves_both_sides_and_two_are_opened_apart(tiny_model, chosen):
    chosen("torch-bf16-weights")
    for towers, expected in ((1, [None, None]), (2, ["query", "document"])):
        encoder = Encoder(build_student(str(tiny_model), 1, "first", None, None, towers, 48))
        engine = Inference(encoder_net(encoder), "embedding")
        query, document = (engine.open(LEAST, side) for side in ("query", "document"))
        assert (query is document) == (towers == 1)
        assert [query.runner.net.task, document.runner.net.task] == expected


@pytest.mark.parametrize("way", ["openvino-fp32", "onnx-fp32"])
def test_an_engine_gives_the_vectors_of_the_encoder(encoder, chosen, way):
    if missing(way):
        pytest.skip(f"{missing(way)} is not installed")
    chosen(way)
    runner = Inference(encoder_net(encoder), "embedding").open(LEAST, "query").runner
    assert runner.way == way
    tokens = encoder.tokenise(["old river", "a", "sail " * 40], "query")
    ours = runner(encoder.template.texts(tokens, np.arange(3), encoder.limit)).numpy()
    assert ours == pytest.approx(encoder.encode(tokens, "query"), abs=1e-4)
