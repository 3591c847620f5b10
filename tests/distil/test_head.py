"""The head to another width: what it begins as."""

import numpy as np
import pytest
import torch

from stepwell.distil.head import SAMPLE, fitted, with_head
from stepwell.distil.objectives import EmbeddingObjective
from stepwell.distil.training import train
from stepwell.models.build import build_student
from stepwell.models.encoder import Encoder
from stepwell.models.token_store import both_tokens
from stepwell.recipe import Optimiser
from stepwell.retrieval.vectors import Vectors


def test_a_head_finds_the_teachers_space_before_any_training(tiny_collection, tiny_model):
    encoder = Encoder.open(str(tiny_model))
    texts = both_tokens(tiny_collection, encoder)
    queries, passages = (
        encoder.encode(tokens, side) for tokens, side in zip(texts, ("query", "document"), strict=True)
    )
    turn = np.linalg.qr(np.random.default_rng(1).standard_normal((48, 32)))[0].T.astype(np.float32)  # (32, 48)
    rows = np.arange(tiny_collection.n_queries, dtype=np.int32)
    teacher = Vectors(passages @ turn, queries @ turn, rows, 20.0)
    wide = with_head(encoder, texts, teacher, rows.astype(np.int64))
    assert (wide.dimension, wide.cosine, wide.scale) == (48, True, 20.0)
    found = wide.encode(texts[1], "document")
    assert np.einsum("nd,nd->n", found, teacher.passages).min() > 0.99
    with torch.no_grad():
        assert np.allclose(wide.embed(texts[1], np.arange(3), "document").numpy(), found[:3], atol=1e-5)
    alone = with_head(Encoder.open(str(tiny_model)), texts, teacher, rows[:0].astype(np.int64))
    assert np.einsum("nd,nd->n", alone.encode(texts[1], "document"), teacher.passages).min() > 0.99


@pytest.mark.parametrize(("width", "steps"), [(32, 300), (48, 60)])
def test_a_student_with_a_dot_product_learns_the_lengths_that_its_teacher_ranks_by(
    tiny_collection, tiny_model, tmp_path, width, steps
):
    student, whole = (
        Encoder(build_student(str(tiny_model), layers, "first", "mean", "dot", 1, 48)) for layers in (1, None)
    )
    texts = both_tokens(tiny_collection, student)
    random = np.random.default_rng(2)
    queries, passages = (whole.encode(tokens, side) for tokens, side in zip(texts, ("query", "document"), strict=True))
    turn = np.linalg.qr(random.standard_normal((width, 32)))[0].T.astype(np.float32)  # (32, width)
    long_and_short = random.uniform(0.3, 1.7, (len(passages), 1)).astype(np.float32)
    rows = np.arange(len(queries), dtype=np.int32)
    teacher = Vectors(long_and_short * (passages @ turn), queries @ turn, rows, 1.0)
    if width != 32:
        student = with_head(student, texts, teacher, rows.astype(np.int64))

    def overlap():
        """Return the share of the teacher's first ten passages that are among the student's."""
        own = student.encode(texts[0], "query") @ student.encode(texts[1], "document").T
        theirs = teacher.queries @ teacher.passages.T
        tops = zip(*(np.argsort(-scores, axis=1)[:, :10].tolist() for scores in (own, theirs)), strict=True)
        return np.mean([len(set(a) & set(b)) / 10 for a, b in tops])

    before = overlap()
    objective = EmbeddingObjective(student, *texts, teacher, rows.astype(np.int64), 1)
    train(objective, Optimiser(steps=steps, batch=40, lr=3e-3), tmp_path, 1)
    assert before < 0.6 < overlap()


def test_few_texts_fit_a_small_head():
    weight = fitted(np.float32([[1, 0, 0]]), np.float32([[0, 2]]))
    assert np.allclose(weight, [[0, 2], [0, 0], [0, 0]], atol=0.01)
    assert np.isfinite(fitted(np.zeros((2, 3), np.float32), np.ones((2, 2), np.float32))).all()
    assert SAMPLE > 1_000
