"""The head to another width: what it begins as."""

import numpy as np
import torch

from stepwell.distil.head import SAMPLE, fitted, with_head
from stepwell.models.encoder import Encoder
from stepwell.models.token_store import both_tokens
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


def test_few_texts_fit_a_small_head():
    weight = fitted(np.float32([[1, 0, 0]]), np.float32([[0, 2]]))
    assert np.allclose(weight, [[0, 2], [0, 0], [0, 0]], atol=0.01)
    assert np.isfinite(fitted(np.zeros((2, 3), np.float32), np.ones((2, 2), np.float32))).all()
    assert SAMPLE > 1_000
