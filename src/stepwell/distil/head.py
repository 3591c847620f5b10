"""A head to another width: a linear layer behind the student that brings it into its teacher's space, and is kept.

It begins as the ridge regression from the student's vectors of some texts to the teacher's, and learns with the rest.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers.base.modules import Dense, Normalize
from torch import nn

from stepwell import distributed
from stepwell.models.encoder import Encoder
from stepwell.models.opening import quiet
from stepwell.models.tokens import Tokens
from stepwell.retrieval.run import Floats
from stepwell.retrieval.vectors import Vectors

SAMPLE = 4_096
"""Texts of each side that the head is fitted on, at most; evenly spread."""

RIDGE = 1e-3
"""What is added to the diagonal, as a share of its mean: fewer texts than numbers have no one solution."""


def with_head(encoder: Encoder, texts: tuple[Tokens, Tokens], teacher: Vectors, rows: NDArray[np.int64]) -> Encoder:
    """Return the encoder with a head to its teacher's width; ``texts`` are its tokens of queries and of passages.

    The head is fitted on passages and on the queries ``rows``.
    """
    if encoder.width is not None:  # the cut of its base, which the head replaces
        encoder.model.truncate_dim = None
        encoder = Encoder(encoder.model, encoder.scale)
    encoder.inference.be_exact()
    some = _spread(np.arange(len(texts[1])))
    few = _spread(rows)
    ours = [encoder.encode(texts[1], "document", some)]
    theirs = [np.asarray(teacher.passages[some])]
    if len(few):
        ours.append(encoder.encode(texts[0], "query", few))
        theirs.append(teacher.of_queries(few.astype(np.int32)))
    weight = fitted(np.concatenate(ours), np.concatenate(theirs))  # (D, W)
    with quiet():
        head = Dense(weight.shape[0], weight.shape[1], bias=False, activation_function=nn.Identity())
    with torch.no_grad():
        head.linear.weight.copy_(torch.from_numpy(weight.T))
    model, device = encoder.model, next(encoder.model.parameters()).device
    model.append(head.to(device))
    if encoder.cosine:
        model.append(Normalize())
    return Encoder(model, encoder.scale)


def fitted(ours: Floats, theirs: Floats) -> NDArray[np.float32]:
    """Return the matrix (D, W) that takes vectors (N, D) nearest to others (N, W), the same on every process.

    >>> turn = np.float32([[0, 1, 0], [-1, 0, 0]])
    >>> some = np.random.default_rng(0).standard_normal((50, 2)).astype(np.float32)
    >>> bool(np.allclose(fitted(some, some @ turn), turn, atol=0.01))
    True
    """
    x, y = ours.astype(np.float64), theirs.astype(np.float64)
    square = x.T @ x
    square[np.diag_indices_from(square)] += RIDGE * max(float(np.trace(square)) / len(square), 1e-12)
    weight = torch.from_numpy(np.linalg.solve(square, x.T @ y).astype(np.float32))
    device = distributed.state().device
    main: NDArray[np.float32] = distributed.gather_rows(weight.to(device))[: len(square)].cpu().numpy()
    return main


def _spread(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return at most SAMPLE of some rows, evenly spread."""
    if len(rows) <= SAMPLE:
        return rows
    return rows[np.linspace(0, len(rows) - 1, SAMPLE).astype(np.int64)]
