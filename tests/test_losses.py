"""The losses: values worked out by hand, agreement with sentence-transformers, and laws."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sentence_transformers.sentence_transformer.losses import DistillKLDivLoss

from stepwell.losses import embedding_loss, hard_loss, soft_loss

logits = st.floats(-30, 30, width=32)
shapes = st.tuples(st.integers(1, 5), st.integers(2, 6))


def tensors(count, elements=logits):
    """Some (Q, K) tensors of one shape."""
    return shapes.flatmap(
        lambda shape: st.tuples(*[arrays(np.float32, shape, elements=elements).map(torch.from_numpy)] * count)
    )


def first(scores):
    positives = torch.zeros(scores.shape, dtype=torch.bool)
    positives[:, 0] = True
    return positives


class TestHard:
    def test_one_positive_is_the_usual_cross_entropy(self):
        scores = torch.tensor([[2.0, 0.0, 1.0], [0.0, 0.0, 5.0]])
        by_hand = math.log(1 + math.exp(-2) + math.exp(-1)) + math.log(2 + math.exp(5))
        assert hard_loss(scores, first(scores)).item() == pytest.approx(by_hand / 2)

    def test_another_positive_is_no_negative(self):
        # Each of the two meets the one negative alone: the mean of log(1 + e^-1) and log(1 + e^-3).
        loss = hard_loss(torch.tensor([[1.0, 3.0, 0.0]]), torch.tensor([[True, True, False]]))
        assert loss.item() == pytest.approx((math.log1p(math.exp(-1)) + math.log1p(math.exp(-3))) / 2)

    def test_a_query_weighs_the_same_however_many_positives_it_has(self):
        scores = torch.zeros(2, 3)
        positives = torch.tensor([[True, True, False], [True, False, False]])
        assert hard_loss(scores, positives).item() == pytest.approx((math.log(2) + math.log(3)) / 2)

    def test_a_query_without_a_positive_counts_nothing(self):
        scores = torch.tensor([[0.0, 0.0], [9.0, -9.0]])
        positives = torch.tensor([[True, False], [False, False]])
        assert hard_loss(scores, positives).item() == pytest.approx(math.log(2))
        assert hard_loss(scores, torch.zeros(2, 2, dtype=torch.bool)).item() == 0

    def test_without_negatives_there_is_nothing_to_learn(self):
        scores = torch.tensor([[3.0, -3.0]], requires_grad=True)
        loss = hard_loss(scores, torch.ones(1, 2, dtype=torch.bool))
        loss.backward()
        assert loss.item() == 0
        assert scores.grad.abs().max() == 0

    def test_far_apart_scores_neither_overflow_nor_lose_the_gradient(self):
        scores = torch.tensor([[-500.0, 500.0]], requires_grad=True)
        loss = hard_loss(scores, first(scores))
        loss.backward()
        assert loss.item() == 1000
        assert scores.grad.tolist() == [[-1, 1]]

    @settings(max_examples=30)
    @given(tensors(1))
    def test_equals_torch_cross_entropy(self, drawn):
        (scores,) = drawn
        expected = torch.nn.functional.cross_entropy(scores, torch.zeros(len(scores), dtype=torch.int64))
        assert hard_loss(scores, first(scores)).item() == pytest.approx(expected.item(), rel=1e-5, abs=1e-6)


class TestSoft:
    def test_value_by_hand(self):
        # Teacher (3/4, 1/4), student (1/2, 1/2): KL = 3/4 log 3/2 + 1/4 log 1/2.
        loss = soft_loss(torch.zeros(1, 2), torch.tensor([[math.log(3), 0.0]]))
        assert loss.item() == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5))

    def test_temperature_softens_both_and_keeps_the_size_of_the_gradient(self):
        # At tau = 2 scores of twice the size give the same distributions, and tau^2 = 4 times the loss.
        student, teacher = torch.tensor([[0.3, -1.0, 2.0]]), torch.tensor([[1.0, 0.5, 0.0]])
        assert soft_loss(2 * student, 2 * teacher, 2.0).item() == pytest.approx(4 * soft_loss(student, teacher).item())

    def test_it_is_the_mean_over_queries(self):
        student, teacher = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([[0.0, 1.0], [3.0, 0.0]])
        each = [soft_loss(student[i : i + 1], teacher[i : i + 1]).item() for i in range(2)]
        assert soft_loss(student, teacher).item() == pytest.approx(sum(each) / 2)

    def test_no_gradient_flows_to_the_teacher(self):
        student, teacher = torch.zeros(1, 2, requires_grad=True), torch.tensor([[1.0, 0.0]], requires_grad=True)
        soft_loss(student, teacher).backward()
        assert teacher.grad is None
        assert student.grad.tolist()[0] == pytest.approx([0.5 - 1 / (1 + math.exp(-1)), 1 / (1 + math.exp(-1)) - 0.5])

    @settings(max_examples=30)
    @given(tensors(1), st.floats(0.1, 10), st.floats(-20, 20))
    def test_zero_for_equal_scores_and_for_shifted_ones(self, drawn, tau, shift):
        (scores,) = drawn
        assert soft_loss(scores, scores, tau).item() == pytest.approx(0, abs=1e-4)
        assert soft_loss(scores, scores + shift, tau).item() == pytest.approx(0, abs=1e-3)

    @settings(max_examples=30)
    @given(tensors(2), st.floats(0.5, 10))
    def test_never_negative(self, drawn, tau):
        assert soft_loss(*drawn, tau).item() >= -1e-4 * tau**2

    @settings(max_examples=30)
    @given(tensors(3), st.floats(0.5, 10))
    def test_equals_the_loss_of_sentence_transformers(self, drawn, tau):
        # The scores of unit vectors along the axes are whatever one likes: candidate k has the score in place k.
        student, teacher, _ = drawn
        queries, k = torch.ones(len(student), 1), student.shape[1]
        candidates = [student[:, [column]] for column in range(k)]
        theirs = DistillKLDivLoss(model=None, temperature=tau)
        expected = theirs.compute_loss_from_embeddings([queries, *candidates], teacher).item()
        assert soft_loss(student, teacher, tau).item() == pytest.approx(expected, rel=1e-5, abs=1e-6)


@settings(max_examples=30)
@given(tensors(2), st.integers(1, 4), logits, st.floats(0.5, 8))
def test_masked_candidates_change_nothing(drawn, more, garbage, tau):
    student, teacher = drawn
    filler = torch.full((len(student), more), garbage)
    wide, wide_teacher = torch.cat([student, filler], 1), torch.cat([teacher, -filler], 1)
    mask = torch.arange(wide.shape[1]).expand(wide.shape) < student.shape[1]
    wide.requires_grad_()
    soft, hard = soft_loss(wide, wide_teacher, tau, mask), hard_loss(wide, ~mask | first(wide), mask)
    assert soft.item() == pytest.approx(soft_loss(student, teacher, tau).item(), rel=1e-5, abs=1e-5)
    assert hard.item() == pytest.approx(hard_loss(student, first(student)).item(), rel=1e-5, abs=1e-5)
    (soft + hard).backward()
    assert wide.grad[:, student.shape[1] :].abs().max() == 0


class TestEmbedding:
    def test_is_two_minus_twice_the_cosine(self):
        student, teacher = torch.tensor([[3.0, 4.0], [1.0, 0.0]]), torch.tensor([[10.0, 0.0], [-2.0, 0.0]])
        assert embedding_loss(student, teacher).item() == pytest.approx(((2 - 2 * 0.6) + 4) / 2)

    @settings(max_examples=30)
    @given(tensors(1, st.floats(0.125, 8, width=32)), st.floats(0.1, 10))
    def test_zero_for_the_same_direction(self, drawn, factor):
        (vectors,) = drawn
        assert embedding_loss(vectors, factor * vectors).item() == pytest.approx(0, abs=1e-6)
