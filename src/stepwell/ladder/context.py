"""What every stage of a run may look at: the recipe, the collection, its splits, the store of scores."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stepwell.collection import Collection, Splits
from stepwell.collection.unlabelled import Unlabelled, open_unlabelled
from stepwell.models.encoder import Encoder, Side
from stepwell.models.late_interaction import LateInteraction
from stepwell.models.reranker import Reranker
from stepwell.models.token_store import both_tokens
from stepwell.models.tokens import Tokens
from stepwell.recipe import Recipe, Rung
from stepwell.recipe.teachers import AnyTeacher
from stepwell.teachers.opening import Kind, kind_of


@dataclass
class Context:
    """The fixed surroundings of a run."""

    recipe: Recipe
    collection: Collection
    splits: Splits
    store_root: Path
    _unlabelled: dict[Path, Unlabelled] = field(default_factory=dict)

    @property
    def query_rows(self) -> NDArray[np.int32]:
        """All queries that the run uses: train, dev and test."""
        parts = (self.splits.train, self.splits.dev, self.splits.test)
        return np.unique(np.concatenate([part.query_rows for part in parts]))

    def more(self, rung: Rung) -> dict[Side, Unlabelled]:
        """Open the texts from elsewhere that a rung learns from too, by what they are embedded as."""
        if rung.loss != "embedding":
            return {}
        for path in rung.more.values():
            if path not in self._unlabelled:
                self._unlabelled[path] = open_unlabelled(path)
        return {side: self._unlabelled[path] for side, path in rung.more.items()}

    def teacher(self, name: str) -> AnyTeacher:
        """Return the recipe's teacher."""
        return self.recipe.teachers[name]

    def encoder(self, folder: Path, scale: float | None = None) -> Encoder:
        """Open the dual encoder that a stage left in ``folder``."""
        return Encoder.open(folder / "model", scale)

    def kind(self, name: str) -> Kind[Any]:
        """Return a teacher of the recipe, not open yet."""
        return kind_of(name, self.recipe.teachers)

    def texts(self, model: Encoder | Reranker | LateInteraction) -> tuple[Tokens, Tokens]:
        """Return the tokens of all queries and all passages for a model."""
        return both_tokens(self.collection, model)
