"""How a batch is cut into micro-batches changes neither outputs nor gradients."""

from __future__ import annotations

import contextlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from sentence_transformers.sentence_transformer.losses import CachedMultipleNegativesRankingLoss

from stepwell.models.encoder import Encoder
from stepwell.models.engines import forward, machine as engine

TEXTS = [
    "sail",
    "the river was old and deep",
    "a bright comet",
    "the market was large , with a quiet side",
    "it",
    "sail",
]


@pytest.fixture
def of_precision(monkeypatch):
    """Return a function that gives ``precision()`` under a wish of the user's."""

    def find(wish):
        monkeypatch.setenv("STEPWELL_PRECISION", wish)
        return engine.precision()

    engine.precision.cache_clear()
    yield find
    engine.precision.cache_clear()


def gradients(encoder, tokens):
    """Loss and gradients of a loss in which each text meets each other."""
    encoder.model.zero_grad()
    vectors = encoder.embed(tokens, np.arange(len(tokens)), "query")
    loss = torch.nn.functional.cross_entropy(20 * vectors @ vectors.T, torch.arange(len(tokens)).roll(1))
    loss.backward()
    return loss.item(), {name: p.grad.clone() for name, p in encoder.model.named_parameters() if p.grad is not None}


def test_micro_batches_give_the_gradient_of_one_padded_batch(tiny_model, monkeypatch):
    encoder = Encoder.open(tiny_model)
    tokens = encoder.tokenise(TEXTS, "query")
    found = {}
    for budget in (10_000, 6, 1):
        monkeypatch.setattr(engine, "token_budget", lambda budget=budget: budget)
        found[budget] = gradients(encoder, tokens)
    whole_loss, whole = found[10_000]
    largest = max(gradient.abs().max() for gradient in whole.values())
    for budget in (6, 1):
        loss, cut = found[budget]
        assert loss == pytest.approx(whole_loss, abs=1e-5)
        assert cut.keys() == whole.keys()
        assert max((cut[name] - whole[name]).abs().max() for name in whole) <= 1e-5 * largest


def test_a_gradient_cache_gives_the_same_gradient_with_dropout_and_a_second_forward(tiny_model, monkeypatch):
    monkeypatch.setattr(engine, "token_budget", lambda: 6)
    encoder = Encoder.open(tiny_model)
    encoder.model.train()  # with its dropout: the second forward has to drop the same
    tokens, found, forwards = encoder.tokenise(TEXTS, "query"), [], []
    encoder.model.register_forward_pre_hook(lambda *_: forwards.append(torch.is_grad_enabled()))
    for cached in (False, True):
        encoder.gradient_cache = cached
        torch.manual_seed(5)
        found.append((gradients(encoder, tokens), len(forwards)))
        forwards.clear()
    (plain, once), (cached, twice) = found
    assert cached[0] == pytest.approx(plain[0], abs=1e-6)
    assert all((cached[1][name] - plain[1][name]).abs().max() < 1e-6 for name in plain[1])
    assert twice == 2 * once > 2


def test_a_gradient_cache_agrees_with_sentence_transformers(tiny_model):
    encoder = Encoder.open(tiny_model)
    encoder.gradient_cache = True
    encoder.model.zero_grad()
    q, p = (encoder.embed(encoder.tokenise(texts, "query"), np.arange(3), "query") for texts in (TEXTS[:3], TEXTS[3:6]))
    torch.nn.functional.cross_entropy(20 * q @ p.T, torch.arange(3)).backward()
    ours = {name: g.grad.clone() for name, g in encoder.model.named_parameters() if g.grad is not None}
    encoder.model.zero_grad()
    reference = CachedMultipleNegativesRankingLoss(encoder.model, scale=20, mini_batch_size=2)
    features = [encoder.model.preprocess(texts) for texts in (TEXTS[:3], TEXTS[3:6])]
    reference(features, None).backward()
    theirs = {name: g.grad for name, g in encoder.model.named_parameters() if g.grad is not None}
    assert ours.keys() == theirs.keys()
    assert all((ours[name] - theirs[name]).abs().max() < 1e-5 for name in ours)


def test_work_counts_texts_tokens_and_padding(monkeypatch):
    monkeypatch.setattr(engine, "token_budget", lambda: 3)
    before = replace(forward.work)
    forward.forward_all(np.array([9, 2, 4, 9, 3]), lambda items: torch.from_numpy(items).float())
    assert forward.work.since(before) == forward.Work(5, 27, 3 * 4 + 9 + 9, 81 + 4 + 16 + 81 + 9, 5)


def test_micro_batches_hold_texts_of_similar_length(tiny_model, monkeypatch):
    monkeypatch.setattr(engine, "token_budget", lambda: 3)  # training takes four times as much
    seen = []

    def run(items):
        seen.append(items.tolist())
        return torch.from_numpy(items).float()

    lengths = np.array([9, 2, 4, 9, 3])
    assert forward.forward_all(lengths, run).tolist() == [0, 1, 2, 3, 4]
    assert seen == [[1, 4, 2], [0], [3]]


@given(st.lists(st.integers(1, 3000), min_size=1, max_size=30))
def test_outputs_come_in_the_order_of_the_items(lengths):
    out = forward.forward_all(np.array(lengths), lambda items: torch.from_numpy(items).double()[:, None])
    assert out.dtype == torch.float32
    assert out[:, 0].tolist() == list(range(len(lengths)))


def test_the_user_may_choose_the_precision(of_precision):
    assert of_precision("bf16") is torch.bfloat16
    assert of_precision("fp32") is torch.bfloat16  # decided once a process
    engine.precision.cache_clear()
    assert of_precision("fp32") is torch.float32
    assert isinstance(engine.autocast(), contextlib.nullcontext)


@pytest.mark.parametrize(("half", "expected"), [(0.5, torch.bfloat16), (0.9, torch.float32), (40.0, torch.float32)])
def test_the_faster_precision_is_found_while_the_machine_is_busy(of_precision, monkeypatch, half, expected):
    asked = []

    def seconds(dtype):
        asked.append(dtype)  # the first rounds of both fall into other work, bf16 into more of it
        busy = 1 if len(asked) > 6 else 30 if dtype is torch.bfloat16 and len(asked) < 4 else 10
        return busy * (half if dtype is torch.bfloat16 else 1.0)

    monkeypatch.setattr(engine, "_matmul_seconds", seconds)
    engine.bf16_gain.cache_clear()
    try:
        assert of_precision("auto") is expected
        assert (len(asked) < 20) == (half > 5)  # emulated bf16 is soon given up
    finally:
        engine.bf16_gain.cache_clear()


def test_outputs_are_fp32_in_bf16_too(of_precision, tiny_model):
    of_precision("bf16")
    encoder = Encoder.open(tiny_model)
    vectors = encoder.embed(encoder.tokenise(TEXTS, "query"), np.arange(6), "query")
    assert vectors.dtype == torch.float32
    assert vectors.norm(dim=1).detach().numpy() == pytest.approx(np.ones(6), abs=1e-5)


def test_freed_memory_is_given_back_at_most_every_so_many_seconds(monkeypatch):
    calls = []

    class Library:
        def malloc_trim(self, pad):
            calls.append(pad)

    monkeypatch.setattr(engine.ctypes, "CDLL", lambda name: Library())
    engine.trim(0.0)
    engine.trim(3600.0)
    assert calls == [0]
    engine.trim(0.0)
    assert calls == [0, 0]


def test_a_c_library_that_keeps_freed_memory_is_no_error(monkeypatch):
    monkeypatch.setattr(engine.ctypes, "CDLL", lambda name: object())
    monkeypatch.setattr(engine, "_trimmed", 0.0)
    engine.trim(0.0)
    assert engine._trimmed > 0  # it is not tried again at once
