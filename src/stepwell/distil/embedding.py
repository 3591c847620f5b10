"""What the embedding rung trains for: a teacher's vectors of all texts, without labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from stepwell import distributed
from stepwell.distil.losses import embedding_loss
from stepwell.models.encoder import Encoder, Side
from stepwell.models.tokens import Tokens
from stepwell.retrieval.vectors import Vectors

Rows = NDArray[np.int64]


class Imitated(NamedTuple):
    """Texts of one side whose vectors the student imitates.

    Parameters
    ----------
    side
        As what both models embed them.
    tokens
        The student's tokens of the texts.
    rows
        Those that take part, shape (R,).
    targets
        From rows (B,) to the teacher's vectors of them (B, D).
    """

    side: Side
    tokens: Tokens
    rows: Rows
    targets: Callable[[Rows], NDArray[np.float32]]


class EmbeddingObjective:
    """Pulls the student's vectors of all passages and training queries to a teacher's (the embedding rung; no labels).

    Parameters
    ----------
    encoder
        The student.
    queries, passages
        Tokens of all queries and passages of the collection.
    teacher
        The teacher's vectors.
    rows
        The queries that take part: those of training, since dev and test must stay unseen.
    seed
        Initialises the projection, which exists only where the widths differ and is thrown away after.
    more
        Texts from elsewhere that take part too.
    """

    separable = False

    def __init__(
        self,
        encoder: Encoder,
        queries: Tokens,
        passages: Tokens,
        teacher: Vectors,
        rows: Rows,
        seed: int,
        more: Sequence[Imitated] = (),
    ) -> None:
        self.encoder = encoder
        self.parts = (
            Imitated("document", passages, np.arange(len(passages)), lambda rows: np.asarray(teacher.passages[rows])),
            Imitated("query", queries, rows, lambda rows: teacher.of_queries(rows.astype(np.int32))),
            *more,
        )
        self._ends = np.cumsum([len(part.rows) for part in self.parts])
        width = int(teacher.passages.shape[1])
        self.projection: nn.Module = nn.Identity()
        if width != encoder.dimension:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                self.projection = nn.Linear(encoder.dimension, width, bias=False)
        self.projection.to(distributed.state().device)
        for parameter in self.projection.parameters():  # every process projects the whole batch
            hooked: Any = parameter
            hooked.register_hook(lambda gradient: gradient / distributed.world_size())
        self._module = nn.ModuleDict({"student": encoder.model, "projection": self.projection})

    @property
    def size(self) -> int:
        """All texts that take part: passages, then queries, then those from elsewhere."""
        return int(self._ends[-1])

    @property
    def module(self) -> nn.Module:
        """The student and the projection."""
        return self._module

    def loss(self, examples: Rows, epoch: int) -> tuple[Tensor, dict[str, float]]:
        """Return the mean squared distance of some texts' vectors."""
        vectors, targets = [], []
        home = np.searchsorted(self._ends, examples, side="right")  # (B,): the part that each example is of
        for number, part in enumerate(self.parts):
            rows = part.rows[examples[home == number] - (self._ends[number] - len(part.rows))]
            if len(rows):
                vectors.append(self.encoder.embed(part.tokens, rows, part.side))
                targets.append(part.targets(rows))
        student = self.projection(torch.cat(vectors))
        loss = embedding_loss(student, torch.from_numpy(np.concatenate(targets)).to(student.device))
        return loss, {"distance": loss.item()}
