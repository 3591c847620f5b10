"""The sentence-transformers modules: they agree with its own loss, and work inside its trainer."""

from __future__ import annotations

import pytest
import torch
from datasets import Dataset
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.losses import DistillKLDivLoss

from stepwell.losses import hard_loss, soft_loss
from stepwell.st_losses import DistillLoss, EmbeddingDistillLoss

COLUMNS = (
    ["which river is old", "which engine is slow"],
    ["the river was old and deep", "the engine was slow"],
    ["a violin with a bright side", "the river was north"],
    ["the comet", "the market was large and quiet"],
)


@pytest.fixture(scope="module")
def model(tiny_model):
    return SentenceTransformer(str(tiny_model), device="cpu").eval()


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
    def test_equals_distill_kl_div_loss_without_hard_loss_and_keep(self, model, tau):
        ours = DistillLoss(model, alpha=0, beta=1, gamma=0, tau=tau, scale=1)
        theirs = DistillKLDivLoss(model, temperature=tau)
        labels = torch.tensor([[3.0, -1.0, 0.5], [0.2, 0.1, 2.0]])
        with torch.no_grad():
            found, expected = ours(features(model), labels), theirs(features(model), labels)
        assert found.item() == pytest.approx(expected.item(), rel=1e-5)

    def test_the_scale_is_a_factor_of_the_similarity(self, vectors, labels):
        scaled = DistillLoss(None, alpha=0, beta=1, scale=20).compute_loss_from_embeddings(vectors, labels[:, :3])
        longer = [20 * vectors[0], *vectors[1:]]
        plain = DistillLoss(None, alpha=0, beta=1, scale=1).compute_loss_from_embeddings(longer, labels[:, :3])
        assert scaled.item() == pytest.approx(plain.item(), rel=1e-5)

    def test_is_the_weighted_sum_of_its_parts(self, vectors, labels):
        loss = DistillLoss(None, alpha=0.1, beta=0.9, gamma=1.0, tau=4, scale=2)
        scores = torch.stack([2 * (vectors[0] * candidate).sum(1) for candidate in vectors[1:]], dim=1)
        positives = torch.tensor([[True, False, False]]).expand(5, 3)
        expected = (
            0.1 * hard_loss(scores, positives)
            + 0.9 * soft_loss(scores, labels[:, :3], 4)
            + soft_loss(scores, labels[:, 3:], 4)
        )
        assert loss.compute_loss_from_embeddings(vectors, labels).item() == pytest.approx(expected.item(), rel=1e-6)
        assert loss.get_config_dict() == {"alpha": 0.1, "beta": 0.9, "gamma": 1.0, "tau": 4, "scale": 2}

    def test_scores_of_the_start_may_come_along_unused(self, vectors, labels):
        loss = DistillLoss(None, gamma=0)
        both, alone = (loss.compute_loss_from_embeddings(vectors, part) for part in (labels, labels[:, :3]))
        assert both.item() == alone.item()

    def test_labels_of_the_wrong_width_are_refused(self, vectors, labels):
        with pytest.raises(ValueError, match=r"\(5, 3\) for 3 candidate columns"):
            DistillLoss(None, gamma=1).compute_loss_from_embeddings(vectors, labels[:, :3])
        with pytest.raises(ValueError, match=r"\(5, 2\)"):
            DistillLoss(None).compute_loss_from_embeddings(vectors, labels[:, :2])
        with pytest.raises(ValueError, match="at least two candidate columns"):
            DistillLoss(None).compute_loss_from_embeddings(vectors[:2], labels[:, :1])


class TestEmbeddingDistillLoss:
    def test_a_model_is_at_no_distance_from_itself(self, model):
        with torch.no_grad():
            loss = EmbeddingDistillLoss(model)(features(model)[:1], torch.from_numpy(model.encode(COLUMNS[0])))
        assert loss.item() == pytest.approx(0, abs=1e-6)

    def test_another_width_gets_a_projection_that_learns(self, model):
        loss = EmbeddingDistillLoss(model, teacher_dimension=48)
        assert loss.projection.weight.shape == (48, 32)
        loss.compute_loss_from_embeddings([torch.ones(2, 32)], torch.ones(2, 48)).backward()
        assert loss.projection.weight.grad.abs().sum() > 0


def test_the_trainer_of_sentence_transformers_takes_it(tiny_model, tmp_path):
    model = SentenceTransformer(str(tiny_model), device="cpu")
    names = ("query", "positive", "negative_1", "negative_2")
    data = dict(zip(names, COLUMNS, strict=True)) | {"label": [[4.0, 0.0, 1.0, 1.0, 1.0, 1.0]] * 2}
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(tmp_path), max_steps=6, learning_rate=1e-2, report_to=[], use_cpu=True, logging_steps=1,
        disable_tqdm=True, save_strategy="no",
    )  # fmt: skip
    trainer = SentenceTransformerTrainer(
        model=model, args=arguments, train_dataset=Dataset.from_dict(data), loss=DistillLoss(model, gamma=0.1)
    )
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < losses[0] / 2
