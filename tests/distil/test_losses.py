"""The losses: values worked out by hand, agreement with sentence-transformers, and laws."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from hypothesis.extra.numpy import arrays
from sentence_transformers.cross_encoder.losses import ListNetLoss
from sentence_transformers.sentence_transformer.losses import DistillKLDivLoss, MarginMSELoss

from stepwell.distil.losses import (
    decoupled_loss,
    embedding_loss,
    hard_loss,
    larger_batch_target,
    larger_loss_target,
    list_net_loss,
    logit_loss,
    margin_loss,
    mean_softmax_target,
    soft_cross_entropy,
    soft_loss,
)

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

    def test_lengths_count_where_they_rank(self):
        student, teacher = torch.tensor([[3.0, 4.0], [1.0, 0.0]]), torch.tensor([[10.0, 0.0], [-2.0, 0.0]])
        by_hand = ((49 + 16) + 9) / 2
        assert embedding_loss(student, teacher, cosine=False).item() == pytest.approx(by_hand)

    @settings(max_examples=30)
    @given(tensors(1, st.floats(0.125, 8, width=32)), st.floats(0.1, 10))
    def test_zero_for_the_same_direction(self, drawn, factor):
        (vectors,) = drawn
        assert embedding_loss(vectors, factor * vectors).item() == pytest.approx(0, abs=1e-6)


class TestSeparateTemperatures:
    def test_each_side_is_softened_by_its_own(self):
        # Student (2, 0) / 2 = (1, 0); teacher (ln 3, 0) * 1 = 3/4, 1/4; the factor is 2 * 1.
        student = torch.tensor([[2.0, 0.0]])
        log_z = math.log(math.e + 1)
        by_hand = 0.75 * (math.log(0.75) - (1 - log_z)) + 0.25 * (math.log(0.25) + log_z)
        found = soft_loss(student.double(), torch.tensor([[math.log(3), 0.0]]).double(), 2.0, teacher_tau=1.0)
        assert found.item() == pytest.approx(2 * by_hand, rel=1e-5)

    @given(tensors(2), st.floats(0.5, 5))
    def test_equal_ones_are_one(self, pair, tau):
        assert soft_loss(*pair, tau, teacher_tau=tau).item() == soft_loss(*pair, tau).item()


class TestSoftCrossEntropy:
    def test_only_the_teacher_is_softened_and_no_factor_stands_in_front(self):
        # Teacher (4 ln 3, 0) / 4: 3/4, 1/4. The student's (ln 9, 0) is 9/10, 1/10 as it stands.
        student, teacher = torch.tensor([[math.log(9), 0.0]]), torch.tensor([[4 * math.log(3), 0.0]])
        by_hand = -(0.75 * math.log(0.9) + 0.25 * math.log(0.1))
        assert soft_cross_entropy(student, teacher, 4.0).item() == pytest.approx(by_hand)

    @given(tensors(2), st.floats(0.5, 5))
    def test_the_gradient_is_the_difference_of_student_and_softened_teacher(self, pair, tau):
        student, teacher = pair[0].requires_grad_(), pair[1]
        (gradient,) = torch.autograd.grad(soft_cross_entropy(student, teacher, tau), student)
        expected = (torch.softmax(student, dim=1) - torch.softmax(teacher / tau, dim=1)) / len(student)
        assert torch.allclose(gradient, expected, atol=1e-5)

    @given(tensors(1), st.floats(0.5, 5))
    def test_it_is_best_where_the_student_has_the_softened_scores(self, drawn, tau):
        teacher = drawn[0].double()
        p = torch.softmax(teacher / tau, dim=1)
        entropy = -torch.special.xlogy(p, p).sum(dim=1).mean().item()
        assert soft_cross_entropy(teacher / tau, teacher, tau).item() == pytest.approx(entropy, abs=1e-6)
        assert soft_cross_entropy(teacher, teacher, tau).item() >= entropy - 1e-6

    def test_padding_changes_nothing(self):
        student, teacher = torch.tensor([[1.0, 0.5, 70.0]]), torch.tensor([[0.0, 2.0, 60.0]])
        mask = torch.tensor([[True, True, False]])
        alone = soft_cross_entropy(student[:, :2], teacher[:, :2], 2.0)
        assert soft_cross_entropy(student, teacher, 2.0, mask).item() == pytest.approx(alone.item())


class TestLogit:
    def test_padding_counts_nothing(self):
        mask = torch.tensor([[True, True], [True, False]])
        found = logit_loss(torch.zeros(2, 2), torch.tensor([[1.0, 2.0], [4.0, 99.0]]), mask)
        assert found.item() == pytest.approx((1 + 4 + 16) / 2 / 3)

    def test_no_gradient_flows_to_the_teacher(self):
        teacher = torch.ones(1, 2, requires_grad=True)
        logit_loss(torch.zeros(1, 2, requires_grad=True), teacher).backward()
        assert teacher.grad is None


class TestMargin:
    def test_it_is_sentence_transformers_margin_mse(self):
        random = torch.Generator().manual_seed(3)
        q, p, n1, n2 = torch.randn(4, 5, 8, generator=random)
        scores = torch.stack([(q * x).sum(1) for x in (p, n1, n2)], dim=1)
        teacher = torch.randn(5, 3, generator=random)
        margins = teacher[:, :1] - teacher[:, 1:]
        theirs = MarginMSELoss(None).compute_loss_from_embeddings([q, p, n1, n2], margins)
        assert margin_loss(scores, teacher, first(scores)).item() == pytest.approx(theirs.item(), rel=1e-5)

    def test_every_positive_meets_every_negative_and_padding_none(self):
        # Gaps student - teacher: 1, 3 | 0, (padding). Pairs: (1 - 0)^2 and (3 - 0)^2.
        student, teacher = torch.tensor([[1.0, 3.0, 0.0, 9.0]]), torch.zeros(1, 4)
        positives = torch.tensor([[True, True, False, False]])
        mask = torch.tensor([[True, True, True, False]])
        assert margin_loss(student, teacher, positives, mask).item() == pytest.approx((1 + 9) / 2)

    @given(tensors(2), st.floats(-20, 20, width=32))
    def test_it_does_not_see_a_shift(self, pair, shift):
        positives = first(pair[0])
        moved = margin_loss(pair[0] + shift, pair[1], positives).item()
        assert moved == pytest.approx(margin_loss(*pair, positives).item(), rel=1e-3, abs=1e-3)


def margins_pair_by_pair(student, teacher, positives, mask):
    """MarginMSE with all pairs written out: (Q, K, K)."""
    pairs = (positives & mask)[:, :, None] & (~positives & mask)[:, None, :]
    gap = student - teacher
    squares = (gap[:, :, None] - gap[:, None, :]).square()
    return (squares * pairs).sum() / pairs.sum().clamp(min=1)


class TestMarginsInClosedForm:
    @settings(max_examples=60)
    @given(tensors(2), st.data())
    def test_value_and_gradient_are_those_of_all_pairs(self, pair, data):
        bits = arrays(np.bool_, tuple(pair[0].shape))
        positives, mask = (torch.from_numpy(data.draw(bits)) for _ in range(2))
        student, teacher = pair[0].double().requires_grad_(), pair[1].double()
        found, plain = (loss(student, teacher, positives, mask) for loss in (margin_loss, margins_pair_by_pair))
        assert found.item() == pytest.approx(plain.item(), rel=1e-9, abs=1e-9)
        gradients = [torch.autograd.grad(loss, student)[0] for loss in (found, plain)]
        assert torch.allclose(*gradients, rtol=1e-9, atol=1e-9)

    def test_scores_far_from_zero_lose_nothing(self):
        # Gaps are 10000, 10001 | 10000.5: squares of such numbers have no digits left for a quarter.
        student, positives = torch.tensor([[10000.0, 10001.0, 10000.5]]), torch.tensor([[True, True, False]])
        assert margin_loss(student, torch.zeros(1, 3), positives).item() == pytest.approx(0.25)

    def test_a_large_batch_takes_no_room_for_pairs(self):
        # 2,000 queries against 4,000 passages: the pairs would be 32 thousand million numbers.
        student = torch.zeros(2_000, 4_000, requires_grad=True)
        positives = torch.zeros(2_000, 4_000, dtype=torch.bool)
        positives[:, 0] = True
        loss = margin_loss(student, positives.float(), positives)
        loss.backward()
        assert loss.item() == pytest.approx(1)  # every margin is 0 and should be 1
        assert student.grad.sum().item() == pytest.approx(0, abs=1e-4)


class TestDecoupled:
    @given(tensors(2), st.floats(0.5, 4))
    def test_with_the_teachers_own_mass_as_weight_it_is_the_soft_loss(self, pair, tau):
        student, teacher = pair[0][:1].double(), pair[1][:1].double()
        mass = 1 - torch.softmax(teacher / tau, dim=1)[0, 0].item()
        found = decoupled_loss(student, teacher, first(student), tau, rest=mass)
        assert found.item() == pytest.approx(soft_loss(student, teacher, tau).item(), rel=1e-6, abs=1e-6)

    def test_the_rest_is_compared_without_the_positive(self):
        # The negatives are 3/4, 1/4 for the teacher and even for the student; both give the positive one half.
        log = math.log
        student = torch.tensor([[log(2), 0.0, 0.0]])
        teacher = torch.tensor([[log(4), log(3), 0.0]])
        rest = 0.75 * log(1.5) + 0.25 * log(0.5)
        found = decoupled_loss(student, teacher, first(student), target=7.0, rest=2.0)
        assert found.item() == pytest.approx(2 * rest, rel=1e-5)

    @given(tensors(1))
    def test_nothing_is_left_to_learn_from_oneself(self, alone):
        assert abs(decoupled_loss(alone[0], alone[0], first(alone[0])).item()) < 1e-5

    def test_padding_changes_nothing(self):
        student, teacher = torch.tensor([[1.0, 0.5, -1.0]]), torch.tensor([[0.0, 2.0, 1.0]])
        padded = [torch.cat([x, torch.full((1, 2), 50.0)], dim=1) for x in (student, teacher)]
        mask = torch.tensor([[True, True, True, False, False]])
        found = decoupled_loss(*padded, first(padded[0]), 2.0, mask)
        assert found.item() == pytest.approx(decoupled_loss(student, teacher, first(student), 2.0).item())


class TestListNet:
    def test_it_is_sentence_transformers_list_net(self):
        scores, grades = torch.tensor([[0.3, -1.0, 2.0], [1.0, 0.0, 0.5]]), torch.tensor([[2.0, 0.0, 1.0], [0, 1, 0]])

        class Scorer(torch.nn.Module):
            num_labels, device = 1, torch.device("cpu")

            def preprocess(self, pairs, **_):
                return {"x": torch.tensor([[float(scores[int(q), int(d)])] for q, d in pairs])}

            def forward(self, features):
                return {"scores": features["x"]}

        documents = [["0", "1", "2"], ["0", "1", "2"]]
        theirs = ListNetLoss(Scorer())((["0", "1"], documents), list(grades))
        assert list_net_loss(scores, grades).item() == pytest.approx(theirs.item(), rel=1e-6)

    def test_padding_counts_nothing(self):
        mask = torch.tensor([[True, True, False]])
        found = list_net_loss(torch.zeros(1, 3), torch.tensor([[1, 0, 5]]), mask)
        assert found.item() == pytest.approx(math.log(2))


class TestSeveralTeachers:
    @given(tensors(3))
    def test_the_loss_is_the_mean_of_the_larger_ones(self, scores):
        student, one, other = scores

        def of(query, theirs):
            return soft_loss(student[query : query + 1], theirs, 2.0)

        target = larger_loss_target(torch.stack([one, other]), of)
        each = [[of(q, table[q : q + 1]).item() for q in range(len(student))] for table in (one, other)]
        larger = np.max(each, axis=0)
        assert soft_loss(student, target, 2.0).item() == pytest.approx(larger.mean(), rel=1e-4, abs=1e-5)

    @given(tensors(3))
    def test_of_a_batch_it_is_the_larger_of_the_means(self, scores):
        student, one, other = scores
        target = larger_batch_target(torch.stack([one, other]), lambda theirs: soft_loss(student, theirs, 2.0))
        each = [soft_loss(student, table, 2.0).item() for table in (one, other)]
        assert soft_loss(student, target, 2.0).item() == max(each)

    def test_batch_and_query_choose_differently(self):
        # Losses of the two queries by logits: 2 and 0 from one teacher, 1/2 and 1/2 from the other.
        student = torch.zeros(2, 1)
        teachers = torch.tensor([[[2.0], [0.0]], [[1.0], [1.0]]])
        of_query = larger_loss_target(teachers, lambda q, t: logit_loss(student[q : q + 1], t))
        of_batch = larger_batch_target(teachers, lambda t: logit_loss(student, t))
        assert of_query.tolist() == [[2.0], [1.0]]
        assert of_batch.tolist() == [[2.0], [0.0]]

    def test_the_mean_of_softmaxes_by_hand(self):
        # At tau 2: 3/4, 1/4 and 1/10, 9/10, of which the mean is 17/40, 23/40. The mean of the scores says otherwise.
        teachers = 2 * torch.tensor([[[math.log(3), 0.0]], [[0.0, math.log(9)]]])
        target = mean_softmax_target(teachers, 2.0)
        assert torch.softmax(target / 2.0, dim=1).tolist()[0] == pytest.approx([17 / 40, 23 / 40])
        by_hand = 4 * (17 / 40 * math.log(17 / 20) + 23 / 40 * math.log(23 / 20))  # against an even student
        assert soft_loss(torch.zeros(1, 2), target, 2.0).item() == pytest.approx(by_hand, rel=1e-5)
        assert torch.softmax(teachers.mean(dim=0) / 2.0, dim=1).tolist()[0] == pytest.approx([0.366, 0.634], abs=1e-3)

    @given(tensors(2), st.floats(0.5, 5), st.data())
    def test_the_mean_of_softmaxes_is_over_what_is_there(self, pair, tau, data):
        mask = torch.from_numpy(data.draw(arrays(np.bool_, tuple(pair[0].shape))))
        mask[:, 0] = True
        target = mean_softmax_target(torch.stack(pair), tau, mask)
        own = [torch.softmax((one / tau).masked_fill(~mask, -math.inf), dim=1) for one in pair]
        found = torch.softmax((target / tau).masked_fill(~mask, -math.inf), dim=1)
        assert torch.allclose(found, (own[0] + own[1]) / 2, atol=1e-5)

    def test_a_teacher_that_agrees_with_the_student_gives_way(self):
        student = torch.tensor([[1.0, 0.0], [0.0, 3.0]])
        other = torch.tensor([[0.0, 1.0], [0.0, 3.0]])
        twice = torch.stack([student, other])
        assert larger_loss_target(twice, lambda q, t: logit_loss(student[q : q + 1], t)).tolist() == other.tolist()
