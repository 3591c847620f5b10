"""What a step trains on: equal to references with explicit loops, and right about who is a negative of whom."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from sentence_transformers.sentence_transformer.losses import DistillKLDivLoss

from stepwell.collection import Qrels
from stepwell.distil import losses
from stepwell.distil.candidates import Candidates, Draw
from stepwell.distil.objectives import EmbeddingObjective, Imitated, RerankObjective, StudentObjective, Terms
from stepwell.models.build import build_cross_encoder, build_student
from stepwell.models.encoder import Encoder
from stepwell.models.reranker import Reranker
from stepwell.retrieval.vectors import Vectors

K = 4


def unit(random, *shape):
    vectors = random.standard_normal(shape).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


class Task:
    """A student of the tiny collection, with candidates and a teacher's vectors."""

    def __init__(self, base, collection, width=16):
        self.encoder = Encoder(build_student(str(base), 2, "first", None, "cos", 1, 48))
        self.encoder.model.eval()
        self.qrels = collection.qrels("train")
        self.query_texts, self.passage_texts = collection.query_texts(), collection.passage_texts()
        self.queries = self.encoder.tokenise(self.query_texts, "query")
        self.passages = self.encoder.tokenise(self.passage_texts, "document")
        random = np.random.default_rng(1)
        rows = self.qrels.query_rows
        passages, grades = np.full((len(rows), K), -1, np.int32), np.zeros((len(rows), K), np.int32)
        for i, query in enumerate(rows):
            positive = self.qrels.positives(query)[:1]
            others = np.setdiff1d(np.arange(len(self.passages)), self.qrels.positives(query))
            chosen = np.r_[positive, random.permutation(others)[: K - 1 - i % 2]]  # every second list is shorter
            passages[i, : len(chosen)], grades[i, 0] = chosen, 1
        self.candidates = Candidates(rows, passages, grades)
        everyone = np.arange(len(self.queries), dtype=np.int32)
        self.teacher = Vectors(
            unit(random, len(self.passages), width), unit(random, len(self.queries), width), everyone, 20.0
        )
        own = [self.encoder.encode(self.passages, "document"), self.encoder.encode(self.queries, "query")]
        self.own = Vectors(*own, everyone, 20.0)
        self.logits = random.standard_normal(passages.shape).astype(np.float32) * 3

    def objective(self, terms, qrels=None, candidates=None, **scores):
        return StudentObjective(
            self.encoder, self.queries, self.passages, candidates or self.candidates, qrels or self.qrels, terms,
            Draw(K, 0), **scores,
        )  # fmt: skip


@pytest.fixture(scope="module")
def task(tiny_model, tiny_collection):
    return Task(tiny_model, tiny_collection)


def in_batch_reference(task, examples, terms):
    """The loss of the dual-encoder rung, with loops for all sums."""
    queries = [int(task.candidates.queries[example]) for example in examples]
    passages = sorted({int(p) for example in examples for p in task.candidates.passages[example] if p >= 0})
    texts = [task.query_texts[q] for q in queries], [task.passage_texts[p] for p in passages]
    vectors = {
        "student": [task.encoder.model.encode(side) for side in texts],
        "teacher": [task.teacher.queries[queries], task.teacher.passages[passages]],
    }
    hard = soft = 0.0
    for i, query in enumerate(queries):
        s, t = ([20 * float(v[0][i] @ other) for other in v[1]] for v in vectors.values())
        right = [task.qrels.is_positive(query, passage) for passage in passages]
        wrong = sum(math.exp(score) for score, good in zip(s, right, strict=True) if not good)
        each = [
            -math.log(math.exp(score) / (math.exp(score) + wrong)) for score, good in zip(s, right, strict=True) if good
        ]
        hard += sum(each) / len(each) / len(queries)
        zs, zt = (sum(math.exp(score / terms.tau) for score in scores) for scores in (s, t))
        for a, b in zip(s, t, strict=True):
            p, q = math.exp(b / terms.tau) / zt, math.exp(a / terms.tau) / zs
            soft += terms.tau**2 * p * math.log(p / q) / len(queries)
    return terms.alpha * hard, terms.beta * soft


class TestInBatch:
    @pytest.mark.parametrize("tau", [1.0, 4.0])
    def test_equals_a_reference_with_explicit_loops(self, task, tau):
        terms, examples = Terms(alpha=0.1, beta=0.9, tau=tau), np.arange(9)
        with torch.no_grad():
            loss, parts = task.objective(terms, teacher=task.teacher).loss(examples, 0)
        hard, soft = in_batch_reference(task, examples, terms)
        assert parts["hard"] == pytest.approx(hard, rel=1e-4)
        assert parts["soft"] == pytest.approx(soft, rel=1e-4)
        assert loss.item() == pytest.approx(hard + soft, rel=1e-4)

    def test_a_passage_that_answers_another_query_is_no_negative_of_it(self, task):
        # Two queries, one passage each. If each passage answers both queries, there is nothing wrong to be pushed away.
        (q0, q1), (p0, p1) = task.candidates.queries[:2], task.candidates.passages[:2, 0]
        candidates = Candidates(np.array([q0, q1]), np.array([[p0], [p1]]), np.ones((2, 1), np.int32))
        pairs = [(q0, p0), (q1, p1), (q0, p1), (q1, p0)]
        apart, both = (Qrels(*np.array(some, np.int32).T, np.ones(len(some), np.int32)) for some in (pairs[:2], pairs))
        judged_wrong = Qrels(*np.array(pairs, np.int32).T, np.array([1, 1, 0, 0], np.int32))
        found = {
            name: task.objective(Terms(), qrels, candidates).loss(np.arange(2), 0)[0].item()
            for name, qrels in {"apart": apart, "both": both, "judged": judged_wrong}.items()
        }
        assert found["both"] == 0
        assert found["apart"] == found["judged"] > 0

    def test_a_passage_of_two_queries_counts_once(self, task):
        # Both queries bring the passages (p0, p1): the softmax runs over two passages, not four.
        (q0, q1), (p0, p1) = task.candidates.queries[:2], task.candidates.passages[:2, 0]
        candidates = Candidates(
            np.array([q0, q1]), np.array([[p0, p1], [p1, p0]]), np.array([[1, 0], [1, 0]], np.int32)
        )
        loss = task.objective(Terms(), candidates=candidates).loss(np.arange(2), 0)[0].item()
        scores = 20 * task.own.queries[[q0, q1]] @ task.own.passages[[p0, p1]].T
        by_hand = [math.log1p(math.exp(scores[0, 1] - scores[0, 0])), math.log1p(math.exp(scores[1, 0] - scores[1, 1]))]
        assert loss == pytest.approx(sum(by_hand) / 2, rel=1e-4)

    @settings(max_examples=10)
    @given(st.permutations(range(7)))
    def test_the_order_of_the_batch_does_not_matter(self, task, order):
        objective = task.objective(Terms(alpha=0.5, beta=0.5, tau=2), teacher=task.teacher)
        with torch.no_grad():
            plain, mixed = (objective.loss(np.array(rows), 0)[0].item() for rows in (range(7), order))
        assert mixed == pytest.approx(plain, rel=1e-5)


class TestSoft:
    @pytest.mark.parametrize("soft", ["kl", "cross-entropy", "mse", "margin-mse", "decoupled"])
    def test_each_loss_is_computed_on_the_querys_own_candidates(self, task, soft):
        terms = Terms(alpha=0, beta=0.5, tau=2, over="candidates", soft=soft, teacher_tau=None, rest=3.0)
        examples = np.arange(6)
        with torch.no_grad():
            found = task.objective(terms, teacher_scores=task.logits).loss(examples, 0)[1]["soft"]
        rows, own = task.candidates.queries[examples], task.candidates.passages[examples]
        student = torch.from_numpy(task.own.score(rows, own))
        teacher, mask = torch.from_numpy(task.logits[examples]), torch.from_numpy(own >= 0)
        positives = torch.from_numpy(task.qrels.is_positive(rows[:, None], own)) & mask
        expected = {
            "kl": lambda: losses.soft_loss(student, teacher, 2, mask),
            "cross-entropy": lambda: losses.soft_cross_entropy(student, teacher, 2, mask),
            "mse": lambda: losses.logit_loss(student, teacher, mask),
            "margin-mse": lambda: losses.margin_loss(student, teacher, positives, mask),
            "decoupled": lambda: losses.decoupled_loss(student, teacher, positives, 2, mask, rest=3.0),
        }[soft]()
        assert found == pytest.approx(0.5 * expected.item(), rel=1e-4)

    @pytest.mark.parametrize(
        ("soft", "asks"), [("kl", False), ("mse", False), ("margin-mse", True), ("decoupled", True)]
    )
    def test_labels_are_looked_up_only_where_the_loss_needs_them(self, task, soft, asks):
        class Watched:
            asked = False

            def is_positive(self, *rows):
                self.asked = True
                return task.qrels.is_positive(*rows)

        labels = Watched()
        objective = task.objective(
            Terms(alpha=0, beta=1, over="candidates", soft=soft), labels, teacher_scores=task.logits
        )
        objective.loss(np.arange(4), 0)
        assert labels.asked is asks

    def test_the_teacher_may_have_a_temperature_of_its_own(self, task):
        found = []
        for teacher_tau, scale in ((None, 0.5), (4.0, 1.0)):
            terms = Terms(alpha=0, beta=1, tau=2, over="candidates", teacher_tau=teacher_tau)
            with torch.no_grad():
                objective = task.objective(terms, teacher_scores=task.logits * np.float32(scale))
                found.append(objective.loss(np.arange(6), 0)[0].item())
        assert found[1] == pytest.approx(2 * found[0], rel=1e-5)  # the factor is 2 * 4 in place of 2 * 2


class TestCandidates:
    def test_equals_distill_kl_div_loss_on_the_same_pairs(self, task):
        examples = np.arange(0, 10, 2)  # full lists
        terms = Terms(alpha=0, beta=1, gamma=0, tau=3, over="candidates")
        loss, _ = task.objective(terms, teacher_scores=task.logits).loss(examples, 0)
        queries = torch.from_numpy(20 * task.own.queries[task.candidates.queries[examples]])
        columns = [torch.from_numpy(task.own.passages[column]) for column in task.candidates.passages[examples].T]
        theirs = DistillKLDivLoss(None, temperature=3).compute_loss_from_embeddings(
            [queries, *columns], torch.from_numpy(task.logits[examples])
        )
        assert loss.item() == pytest.approx(theirs.item(), rel=1e-4)

    def test_what_fills_a_short_list_changes_nothing(self, task):
        terms, examples = Terms(alpha=0.1, beta=0.9, gamma=1, tau=4, over="candidates"), np.array([1])
        start = task.teacher
        assert task.candidates.passages[1].tolist()[-1] == -1
        changed = task.logits.copy()
        changed[1, -1] = 99
        losses = [
            task.objective(terms, teacher_scores=scores, start=start).loss(examples, 0)[1]
            for scores in (task.logits, changed)
        ]
        assert losses[0] == losses[1]
        short = Candidates(*(array[:, :-1] if array.ndim == 2 else array for array in vars(task.candidates).values()))
        cut = task.objective(terms, candidates=short, teacher_scores=task.logits[:, :-1], start=start)
        assert cut.loss(examples, 0)[1] == pytest.approx(losses[0], rel=1e-5)

    def test_another_query_of_the_batch_changes_nothing(self, task):
        terms = Terms(alpha=0.1, beta=0.9, gamma=1, tau=4, over="candidates")
        objective = task.objective(terms, teacher_scores=task.logits, start=task.teacher)
        together = objective.loss(np.arange(3), 0)[0].item()
        alone = [objective.loss(np.array([example]), 0)[0].item() for example in range(3)]
        assert together == pytest.approx(sum(alone) / 3, rel=1e-4)


class TestOtherTerms:
    def test_keep_is_zero_at_the_start(self, task):
        for over in ("candidates", "batch"):
            _, parts = task.objective(Terms(gamma=1, tau=2, keep_over=over), start=task.own).loss(np.arange(5), 0)
            assert parts["keep"] == pytest.approx(0, abs=1e-5)

    @pytest.mark.parametrize("keep_over", ["batch", "candidates"])
    def test_keep_is_measured_over_what_it_says_whatever_the_rung_is(self, task, keep_over):
        over = "batch" if keep_over == "candidates" else "candidates"
        terms, examples = Terms(gamma=1, tau=2, over=over, keep_over=keep_over), np.arange(5)
        with torch.no_grad():
            _, parts = task.objective(terms, start=task.teacher).loss(examples, 0)
        rows, own = task.candidates.queries[examples], task.candidates.passages[examples]
        if keep_over == "candidates":
            student, start = (torch.from_numpy(vectors.score(rows, own)) for vectors in (task.own, task.teacher))
            expected = losses.soft_loss(student, start, 2, torch.from_numpy(own >= 0))
        else:
            unique = np.unique(own[own >= 0])
            student, start = (
                torch.from_numpy(20 * vectors.of_queries(rows) @ vectors.passages[unique].T)
                for vectors in (task.own, task.teacher)
            )
            expected = losses.soft_loss(student, start, 2)
        assert parts["keep"] == pytest.approx(expected.item(), rel=1e-4)

    @pytest.mark.parametrize("term", ["gamma", "beside", "hold"])
    def test_a_term_without_its_vectors_is_refused_and_not_left_out(self, task, term):
        with pytest.raises(ValueError, match=term):
            task.objective(Terms(**{term: 0.5}))

    def test_keep_equals_soft_from_the_same_scores(self, task):
        terms = Terms(alpha=0, beta=1, gamma=1, tau=2, over="batch", keep_over="batch")
        _, parts = task.objective(terms, teacher=task.teacher, start=task.teacher).loss(np.arange(5), 0)
        assert parts["keep"] == pytest.approx(parts["soft"])

    def test_beside_is_one_more_teacher_in_the_batch(self, task):
        terms = Terms(alpha=0, beta=1, tau=2, beside=0.25)
        _, parts = task.objective(terms, teacher=task.teacher, beside=task.teacher).loss(np.arange(5), 0)
        assert parts["beside"] == pytest.approx(0.25 * parts["soft"])

    def test_hold_is_the_distance_from_the_held_vectors(self, task):
        away = Vectors(-task.own.passages, -task.own.queries, task.own.query_rows, 20.0)
        for held, distance in ((task.own, 0), (away, 4)):
            _, parts = task.objective(Terms(hold=0.5), hold=held).loss(np.arange(5), 0)
            assert parts["hold"] == pytest.approx(0.5 * distance, abs=1e-5)

    def test_hold_of_a_dot_product_holds_lengths_too(self, task):
        # The teacher's vectors are the student's, twice as long: no distance by direction, their length as they are.
        longer = Vectors(2 * task.own.passages, 2 * task.own.queries, task.own.query_rows, 1.0)
        objective = task.objective(Terms(hold=0.5), hold=longer)
        task.encoder.cosine, before = False, task.encoder.cosine
        try:
            found = objective.loss(np.arange(5), 0)[1]["hold"]
            queries, passages = task.candidates.queries[:5], np.unique(task.candidates.passages[:5])[1:]
            own = task.encoder.embed(task.queries, queries.astype(np.int64), "query").detach().numpy()
            more = task.encoder.embed(task.passages, passages.astype(np.int64), "document").detach().numpy()
            apart = [own - longer.of_queries(queries), more - longer.passages[passages]]
        finally:
            task.encoder.cosine = before
        assert found == pytest.approx(0.5 * np.square(np.concatenate(apart)).sum(axis=1).mean(), rel=1e-4)

    def test_the_parts_add_up_to_the_loss(self, task):
        terms = Terms(alpha=0.1, beta=0.9, gamma=1, tau=2, beside=0.3, hold=0.2)
        vectors = dict.fromkeys(("teacher", "start", "beside"), task.teacher) | {"hold": task.own}
        loss, parts = task.objective(terms, **vectors).loss(np.arange(5), 0)
        assert set(parts) == {"hard", "soft", "keep", "beside", "hold"}
        assert loss.item() == pytest.approx(sum(parts.values()), rel=1e-6)


class TestDraw:
    @given(st.integers(1, 5), st.integers(0, 10), st.integers(0, 5), st.integers(2, 9), st.integers(0, 3))
    def test_takes_positives_first_then_negatives_then_what_is_left(self, positives, negatives, padding, k, epoch):
        width = positives + negatives + padding
        passages = np.r_[np.arange(positives + negatives), np.full(padding, -1)].astype(np.int32)[None]
        grades = np.r_[np.ones(positives), np.zeros(negatives + padding)].astype(np.int32)[None]
        columns = Draw(k, 5).columns(Candidates(np.array([3], np.int32), passages, grades), np.array([0]), epoch)[0]
        assert len(columns) == len(set(columns.tolist())) == min(k, width)
        if width > k:
            assert (grades[0, columns[: max(1, k // 2)]] > 0).sum() == min(positives, max(1, k // 2))
            assert (passages[0, columns] >= 0).sum() >= min(k, min(positives, max(1, k // 2)) + negatives)

    def test_depends_on_seed_epoch_and_query_and_on_nothing_else(self):
        passages = np.arange(60, dtype=np.int32).reshape(3, 20)
        grades = np.zeros((3, 20), np.int32)
        grades[:, :3] = 1
        candidates = Candidates(np.array([4, 8, 9], np.int32), passages, grades)
        drawn = Draw(6, 1).columns(candidates, np.arange(3), 0)
        assert np.array_equal(Draw(6, 1).columns(candidates, np.array([2, 0]), 0), drawn[[2, 0]])
        for other in (Draw(6, 2).columns(candidates, np.arange(3), 0), Draw(6, 1).columns(candidates, np.arange(3), 1)):
            assert not np.array_equal(other, drawn)

    def test_few_candidates_are_all_taken_in_order(self):
        candidates = Candidates(
            np.array([0], np.int32), np.array([[5, 6, -1]], np.int32), np.array([[1, 0, 0]], np.int32)
        )
        assert Draw(3, 0).columns(candidates, np.array([0, 0]), 7).tolist() == [[0, 1, 2]] * 2


class TestEmbedding:
    def objective(self, task, teacher, seed=0):
        rows = task.candidates.queries.astype(np.int64)
        return EmbeddingObjective(task.encoder, task.queries, task.passages, teacher, rows, seed)

    def test_examples_are_passages_and_then_training_queries(self, task):
        objective = self.objective(task, task.own)
        assert objective.size == 60 + 28
        _, parts = objective.loss(np.arange(objective.size), 0)
        assert parts["distance"] == pytest.approx(0, abs=1e-5)  # each text meets its own vector

    @pytest.mark.parametrize("examples", [[3, 61, 0], [2], [60, 87]])
    def test_is_the_mean_squared_distance(self, task, examples):
        away = Vectors(
            np.roll(task.own.passages, 1, axis=0), np.roll(task.own.queries, 1, axis=0), task.own.query_rows, 20
        )
        rows = task.candidates.queries
        pairs = [[v.passages[e] if e < 60 else v.queries[rows[e - 60]] for v in (task.own, away)] for e in examples]
        loss, _ = self.objective(task, away).loss(np.array(examples), 0)
        assert loss.item() == pytest.approx(np.mean([np.sum((a - b) ** 2) for a, b in pairs]), rel=1e-4)

    def test_another_width_is_reached_by_a_projection_that_the_seed_decides(self, task):
        weights = [self.objective(task, task.teacher, seed).projection.weight for seed in (1, 1, 2)]
        assert weights[0].shape == (16, 32)
        assert torch.equal(weights[0], weights[1])
        assert not torch.equal(weights[0], weights[2])
        assert isinstance(self.objective(task, task.own).projection, torch.nn.Identity)
        assert any(p is not None for p in self.objective(task, task.teacher).module["projection"].parameters())

    def test_texts_from_elsewhere_take_part_behind_the_collections(self, task):
        texts = ["the comet was thin", "an old castle", "which sail is warm"]
        tokens = task.encoder.tokenise(texts, "document")
        own = task.encoder.encode(tokens, "document")
        more = [
            Imitated("document", tokens, np.array([2, 0]), own.__getitem__),
            Imitated("query", tokens, np.array([1]), lambda rows: -own[rows]),
        ]
        rows = task.candidates.queries.astype(np.int64)
        objective = EmbeddingObjective(task.encoder, task.queries, task.passages, task.own, rows, 0, more)
        assert objective.size == 60 + 28 + 3
        for examples, expected in (([88, 89], 0), ([90], 4), ([90, 0, 61, 88], 1)):  # 4: the opposite direction
            loss, _ = objective.loss(np.array(examples), 0)
            assert loss.item() == pytest.approx(expected, abs=1e-4)


class TestRerank:
    @pytest.fixture(scope="class")
    def rerank(self, task, tiny_model):
        reranker = Reranker(build_cross_encoder(str(tiny_model), 1, 64, 1))
        reranker.model.eval()
        tokens = reranker.tokenise(task.query_texts), reranker.tokenise(task.passage_texts)
        filled = task.candidates.passages >= 0
        rows = np.broadcast_to(task.candidates.queries[:, None], filled.shape)
        scores = np.zeros(filled.shape, np.float32)
        scores[filled] = reranker.score(
            *tokens, rows[filled].astype(np.int64), task.candidates.passages[filled].astype(np.int64)
        )
        return reranker, tokens, scores, filled

    def test_is_the_listwise_cross_entropy_of_the_filled_candidates(self, task, rerank):
        reranker, tokens, scores, filled = rerank
        loss, _ = RerankObjective(reranker, *tokens, task.candidates, Draw(K, 0)).loss(np.arange(6), 0)
        by_hand = [
            -scores[i, 0] + math.log(sum(math.exp(s) for s, there in zip(scores[i], filled[i], strict=True) if there))
            for i in range(6)
        ]
        assert loss.item() == pytest.approx(np.mean(by_hand), rel=1e-4)

    def test_imitating_its_own_scores_is_done(self, task, rerank):
        reranker, tokens, scores, _ = rerank
        for shift, expected in ((0, 0), (5, 0)):
            objective = RerankObjective(reranker, *tokens, task.candidates, Draw(K, 0), scores + np.float32(shift))
            assert objective.loss(np.arange(6), 0)[1]["imitate"] == pytest.approx(expected, abs=1e-5)
        other = RerankObjective(reranker, *tokens, task.candidates, Draw(K, 0), -scores)
        assert other.loss(np.arange(6), 0)[0].item() > 0

    def test_grades_are_learned_where_the_recipe_says_so(self, task, rerank):
        reranker, tokens, scores, filled = rerank
        grades = np.where(filled, np.arange(K)[::-1], 0).astype(np.int32)
        candidates = Candidates(task.candidates.queries, task.candidates.passages, grades)
        objective = RerankObjective(reranker, *tokens, candidates, Draw(K, 0), graded=True)
        by_hand = []
        for i in range(6):
            s, g = scores[i][filled[i]].astype(float), grades[i][filled[i]]
            by_hand.append(-(np.exp(g) / np.exp(g).sum() * (s - np.log(np.exp(s).sum()))).sum())
        assert objective.loss(np.arange(6), 0)[0].item() == pytest.approx(np.mean(by_hand), rel=1e-4)


class TestSeveralTeachers:
    def test_the_larger_loss_counts_query_by_query(self, task):
        terms, examples = Terms(alpha=0, beta=1, over="candidates", tau=2.0), np.arange(6)
        other = -task.logits

        def soft(scores, some=examples):
            with torch.no_grad():
                return task.objective(terms, teacher_scores=scores).loss(some, 0)[1]["soft"]

        each = [[soft(scores, examples[i : i + 1]) for i in examples] for scores in (task.logits, other)]
        both = soft(np.stack([task.logits, other]))
        assert both == pytest.approx(np.max(each, axis=0).mean(), rel=1e-4)
        assert soft(np.stack([task.logits, task.logits])) == pytest.approx(soft(task.logits), rel=1e-5)

    @pytest.mark.parametrize(("teacher_tau", "soft"), [(None, "kl"), (3.0, "kl"), (3.0, "cross-entropy")])
    def test_the_mean_of_softmaxes_is_over_the_candidates_that_were_drawn(self, task, teacher_tau, soft):
        terms = Terms(alpha=0, beta=1, over="candidates", tau=2.0, teacher_tau=teacher_tau, soft=soft)
        examples, both = np.arange(6), np.stack([task.logits, -2 * task.logits])
        objective = task.objective(terms, teacher_scores=both, together="mean of softmaxes")
        objective.draw = Draw(3, 0)
        with torch.no_grad():
            found = objective.loss(examples, 0)[1]["soft"]
        columns = objective.draw.columns(task.candidates, examples, 0)
        rows, own = task.candidates.queries[examples], task.candidates.passages[examples]
        there = np.take_along_axis(own, columns, axis=1) >= 0
        each = 0.0
        tau = teacher_tau or 2.0
        for i in range(6):
            ours = task.own.score(rows, own)[i, columns[i]][there[i]].astype(float)
            soft_ones = [np.exp(table[i, columns[i]][there[i]].astype(float) / tau) for table in both]
            p = np.mean([one / one.sum() for one in soft_ones], axis=0)
            scaled = ours / 2.0 if soft == "kl" else ours
            q = scaled - np.log(np.exp(scaled).sum())
            each += 2.0 * tau * (p * (np.log(p) - q)).sum() if soft == "kl" else -(p * q).sum()
        assert found == pytest.approx(each / 6, rel=1e-4)

    def test_the_larger_loss_of_the_batch_counts_for_all_its_queries(self, task):
        terms, examples = Terms(alpha=0, beta=1, over="candidates", tau=2.0), np.arange(6)

        def soft(scores, **how):
            with torch.no_grad():
                return task.objective(terms, teacher_scores=scores, **how).loss(examples, 0)[1]["soft"]

        other = -task.logits
        each = [soft(scores) for scores in (task.logits, other)]
        both = np.stack([task.logits, other])
        assert soft(both, together="larger of a batch") == pytest.approx(max(each), rel=1e-6)
        assert soft(both, together="larger of a query") > max(each)
