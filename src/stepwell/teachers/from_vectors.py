"""A dual encoder that has embedded everything: its vectors are the teacher, and nothing runs any more."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from stepwell.display import SILENT, Progress
from stepwell.files import read_json
from stepwell.models.encoder import Side
from stepwell.retrieval.vectors import Vectors
from stepwell.teachers.protocol import Rows, Scores


class Embedded:
    """A dual encoder by the vectors that a stage left in a folder."""

    def __init__(self, folder: Path) -> None:
        self.vectors = Vectors.open(folder)
        self.fingerprint = str(read_json(folder / "manifest.json")["key"])

    def score(self, queries: Rows, candidates: Rows, progress: Progress = SILENT) -> Scores:
        """Return the similarities (Q, K) times the scale."""
        return self.vectors.scores(queries, candidates)

    def embed(self, rows: Rows, side: Side) -> Scores:
        """Return the vectors of queries or passages: (B, D)."""
        return self.vectors.of_queries(rows) if side == "query" else np.asarray(self.vectors.passages[rows])
