"""The sentence-transformers modules: they agree with its own loss, and work inside its trainer."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from datasets import Dataset
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.losses import DistillKLDivLoss
from sentence_transformers.util import SimilarityFunction
from torch.nn.functional import normalize

from stepwell.distil.candidates import Candidates, Draw
from stepwell.distil.losses import hard_loss, soft_loss
from stepwell.distil.objectives import StudentObjective, Terms
from stepwell.distil.trainer_losses import DistillLoss, EmbeddingDistillLoss, InBatchDistillLoss
from stepwell.models.encoder import Encoder
from stepwell.retrieval.vectors import Vectors

COLUMNS = (
    ["which river is old", "which engine is slow"],
    ["the river was old and deep", "the engine was slow"],
    ["a violin with a bright side", "the river was north"],
    ["the comet", "the market was large and quiet"],
)


@pytest.fixture(scope="module")
def model(tiny_model):
    """Return a model whose similarity is cosine, and whose vectors are not normalised."""
    return SentenceTransformer(str(tiny_model), device="cpu").eval()


@pytest.fixture(scope="module")
def dot(tiny_model):
    """Return the same model with the dot product."""
    return SentenceTransformer(str(tiny_model), device="cpu", similarity_fn_name="dot").eval()


@pytest.fixture
def vectors():
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(5, 8, generator=generator) for _ in range(4)]


@pytest.fixture
def labels():
    return 4 * torch.randn(5, 6, generator=torch.Generator().manual_seed(4))


def features(model):
    return [model.preprocess(column) for column in COLUMNS]


class TestDistillLoss:
    @pytest.mark.parametrize("tau", [0.5, 1.0, 4.0])
    @pytest.mark.parametrize("similarity", ["cosine", "dot"])
    def test_equals_distill_kl_div_loss_without_hard_loss_and_keep(self, model, dot, similarity, tau):
        model = {"cosine": model, "dot": dot}[similarity]
        ours = DistillLoss(model, alpha=0, beta=1, gamma=0, tau=tau, scale=1)
        theirs = DistillKLDivLoss(model, SimilarityFunction.to_similarity_pairwise_fn(similarity), temperature=tau)
        labels = torch.tensor([[3.0, -1.0, 0.5], [0.2, 0.1, 2.0]])
        with torch.no_grad():
            found, expected = ours(features(model), labels), theirs(features(model), labels)
        assert found.item() == pytest.approx(expected.item(), rel=1e-5)

    def test_the_scale_is_a_factor_of_the_similarity(self, dot, vectors, labels):
        scaled = DistillLoss(dot, alpha=0, beta=1, scale=20).compute_loss_from_embeddings(vectors, labels[:, :3])
        longer = [20 * vectors[0], *vectors[1:]]
        plain = DistillLoss(dot, alpha=0, beta=1, scale=1).compute_loss_from_embeddings(longer, labels[:, :3])
        assert scaled.item() == pytest.approx(plain.item(), rel=1e-5)

    def test_logits_are_those_of_the_models_similarity(self, model, dot, vectors, labels):
        unit = [normalize(column, dim=1) for column in vectors]
        found = [
            DistillLoss(*made).compute_loss_from_embeddings(given, labels[:, :3]).item()
            for made, given in (((model,), vectors), ((model,), unit), ((dot, 0.1, 0.9, 0, 1, 20), unit))
        ]
        assert found[1:] == pytest.approx([found[0]] * 2, rel=1e-5)
        assert (DistillLoss(model).scale, DistillLoss(dot).scale) == (20, 1)

    def test_another_similarity_is_refused(self, tiny_model):
        distances = SentenceTransformer(str(tiny_model), device="cpu", similarity_fn_name="euclidean")
        with pytest.raises(ValueError, match="'euclidean'"):
            DistillLoss(distances)

    def test_is_the_weighted_sum_of_its_parts(self, dot, vectors, labels):
        loss = DistillLoss(dot, alpha=0.1, beta=0.9, gamma=1.0, tau=4, scale=2)
        scores = torch.stack([2 * (vectors[0] * candidate).sum(1) for candidate in vectors[1:]], dim=1)
        positives = torch.tensor([[True, False, False]]).expand(5, 3)
        expected = (
            0.1 * hard_loss(scores, positives)
            + 0.9 * soft_loss(scores, labels[:, :3], 4)
            + soft_loss(scores, labels[:, 3:], 4)
        )
        assert loss.compute_loss_from_embeddings(vectors, labels).item() == pytest.approx(expected.item(), rel=1e-6)
        assert loss.get_config_dict() == {"alpha": 0.1, "beta": 0.9, "gamma": 1.0, "tau": 4, "scale": 2}

    def test_scores_of_the_start_may_come_along_unused(self, model, vectors, labels):
        loss = DistillLoss(model, gamma=0)
        both, alone = (loss.compute_loss_from_embeddings(vectors, part) for part in (labels, labels[:, :3]))
        assert both.item() == alone.item()

    def test_labels_of_the_wrong_width_are_refused(self, model, vectors, labels):
        with pytest.raises(ValueError, match=r"\(5, 3\) for 3 candidate columns"):
            DistillLoss(model, gamma=1).compute_loss_from_embeddings(vectors, labels[:, :3])
        with pytest.raises(ValueError, match=r"\(5, 2\)"):
            DistillLoss(model).compute_loss_from_embeddings(vectors, labels[:, :2])
        with pytest.raises(ValueError, match="at least two candidate columns"):
            DistillLoss(model).compute_loss_from_embeddings(vectors[:2], labels[:, :1])


class TestInBatchDistillLoss:
    @pytest.mark.parametrize("tau", [1.0, 4.0])
    def test_equals_the_loss_of_the_ladders_rung_with_its_gradient(self, tiny_model, tiny_collection, tau):
        encoder = Encoder(SentenceTransformer(str(tiny_model), device="cpu").eval())
        rows, own = np.arange(4, dtype=np.int32), np.arange(3, 15, dtype=np.int32).reshape(4, 3)
        texts = tiny_collection.query_texts(), tiny_collection.passage_texts()
        generator = torch.Generator().manual_seed(5)
        passages, queries = (normalize(torch.randn(n, 16, generator=generator)).numpy() for n in (60, 40))
        rung = StudentObjective(
            encoder,
            encoder.tokenise(texts[0], "query"),
            encoder.tokenise(texts[1], "document"),
            Candidates(rows, own, np.eye(1, 3, dtype=np.int32).repeat(4, axis=0)),
            tiny_collection.qrels("train"),
            Terms(alpha=0, beta=1, tau=tau),
            Draw(3, 0),
            teacher=Vectors(passages, queries, np.arange(40, dtype=np.int32), 20.0),
        )
        columns = [[texts[0][row] for row in rows], *([texts[1][row] for row in column] for column in own.T)]
        labels = torch.from_numpy(np.concatenate([queries[rows, None], passages[own]], axis=1))  # (4, 4, 16)
        module = InBatchDistillLoss(encoder.model, tau=tau)

        def gradient(loss):
            encoder.model.zero_grad()
            loss.backward()
            return [weights.grad.clone() for weights in encoder.model.parameters() if weights.grad is not None]

        expected = rung.loss(np.arange(4), 0)[0]
        found = module([encoder.model.preprocess(column) for column in columns], labels)
        assert found.item() == pytest.approx(expected.item(), rel=1e-4)
        for ours, theirs in zip(gradient(found), gradient(expected), strict=True):
            assert ours.numpy() == pytest.approx(theirs.numpy(), rel=1e-3, abs=1e-5)

    @pytest.mark.parametrize("similarity", ["cosine", "dot"])
    def test_is_the_soft_loss_over_all_passages_of_the_batch(self, dot, vectors, similarity):
        labels = torch.randn(5, 4, 16, generator=torch.Generator().manual_seed(6))
        loss = InBatchDistillLoss(dot, 2.0, 3.0, similarity, 0.5)
        own = normalize(labels, dim=2) if similarity == "cosine" else labels
        student, teacher = (
            torch.tensor([[float(q @ p) for column in columns[1:] for p in column] for q in columns[0]])
            for columns in (vectors, own.unbind(1))
        )
        expected = soft_loss(3 * student, 0.5 * teacher, 2.0)
        assert loss.compute_loss_from_embeddings(vectors, labels).item() == pytest.approx(expected.item(), rel=1e-4)
        given = {"tau": 2.0, "scale": 3.0, "teacher_similarity": similarity, "teacher_scale": 0.5}
        assert loss.get_config_dict() == given

    def test_a_model_is_at_no_distance_from_itself(self, model):
        labels = torch.stack([torch.from_numpy(model.encode(column)) for column in COLUMNS[:2]], dim=1)
        with torch.no_grad():
            loss = InBatchDistillLoss(model, teacher_similarity=model.similarity_fn_name)(features(model)[:2], labels)
        assert loss.item() == pytest.approx(0, abs=1e-5)

    def test_labels_that_are_no_vectors_of_the_columns_are_refused(self, model, vectors):
        loss = InBatchDistillLoss(model)
        for given, columns in (((5, 3, 16), vectors), ((5, 4), vectors), ((5, 1, 16), vectors[:1])):
            with pytest.raises(ValueError, match=rf"labels of shape .* 5 rows of {len(columns)} columns"):
                loss.compute_loss_from_embeddings(columns, torch.zeros(given))
        with pytest.raises(ValueError, match="'cos'"):
            InBatchDistillLoss(model, teacher_similarity="cos")


class TestEmbeddingDistillLoss:
    def test_a_model_is_at_no_distance_from_itself(self, model):
        with torch.no_grad():
            loss = EmbeddingDistillLoss(model)(features(model)[:1], torch.from_numpy(model.encode(COLUMNS[0])))
        assert loss.item() == pytest.approx(0, abs=1e-6)

    def test_lengths_count_where_the_similarity_is_the_dot_product(self, model, dot):
        column, labels = [torch.tensor([[2.0, 0.0], [0.0, 1.0]])], torch.tensor([[5.0, 0.0], [0.0, 3.0]])
        assert EmbeddingDistillLoss(model).compute_loss_from_embeddings(column, labels).item() == pytest.approx(0)
        assert EmbeddingDistillLoss(dot).compute_loss_from_embeddings(column, labels).item() == (3**2 + 2**2) / 2

    def test_another_width_gets_a_projection_that_learns(self, model):
        loss = EmbeddingDistillLoss(model, teacher_dimension=48)
        assert loss.projection.weight.shape == (48, 32)
        loss.compute_loss_from_embeddings([torch.ones(2, 32)], torch.ones(2, 48)).backward()
        assert loss.projection.weight.grad.abs().sum() > 0


@pytest.mark.parametrize(
    "loss, label",
    [
        (partial(DistillLoss, gamma=0.1), [4.0, 0.0, 1.0, 1.0, 1.0, 1.0]),
        (InBatchDistillLoss, [[1.0, 0.0], [0.6, 0.8], [0.0, 1.0], [-0.6, 0.8]]),
    ],
    ids=["candidates", "in-batch"],
)
def test_the_trainer_of_sentence_transformers_takes_it(tiny_model, tmp_path, loss, label):
    model = SentenceTransformer(str(tiny_model), device="cpu")
    for part in model.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
    names = ("query", "positive", "negative_1", "negative_2")
    data = dict(zip(names, COLUMNS, strict=True)) | {"label": [label] * 2}
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(tmp_path), max_steps=8, learning_rate=3e-3, report_to=[], use_cpu=True, logging_steps=1,
        disable_tqdm=True, save_strategy="no",
    )  # fmt: skip
    trainer = SentenceTransformerTrainer(
        model=model, args=arguments, train_dataset=Dataset.from_dict(data), loss=loss(model)
    )
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < losses[0] / 2
