"""What tests in several rooms take."""

from __future__ import annotations

import numpy as np


class Killed(BaseException):
    """As good as kill -9: nothing catches it."""


def unit_vectors(n, seed, width, off=0.0):
    """Return random vectors of length 1, shape (n, width), around a point that is ``off`` the middle."""
    vectors = np.random.default_rng(seed).standard_normal((n, width)).astype(np.float32) + np.float32(off)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
