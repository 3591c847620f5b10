"""What a ladder is made from, and the part of it that running stages may read."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stepwell.collection import Collection, Splits
from stepwell.collection.unlabelled import Unlabelled, open_unlabelled
from stepwell.recipe import AnyTeacher, Recipe, Rung, Side, TokensSection


@dataclass
class Surroundings:
    """What every running stage may read beside its settings and inputs: the facts that are in every stage's key.

    Texts from elsewhere are found by what is in them, which is what keys hold. The teachers' sections are here for how
    a teacher is opened (where its file lies, how many requests at a time); what its scores depend on is in the key of
    the stage ``teacher.NAME``.
    """

    collection: Collection
    splits: Splits
    seed: int
    store_root: Path
    teachers: dict[str, AnyTeacher]
    tokens: TokensSection
    texts: dict[str, Unlabelled] = field(default_factory=dict)  # texts from elsewhere, by fingerprint

    @property
    def query_rows(self) -> NDArray[np.int32]:
        """All queries that the run uses: train, dev and test."""
        parts = (self.splits.train, self.splits.dev, self.splits.test)
        return np.unique(np.concatenate([part.query_rows for part in parts]))

    @property
    def dev(self) -> str:
        """What dev is called where its figures are shown."""
        return "synthetic dev" if self.splits.synthetic.get("dev") else "dev"


@dataclass
class Context:
    """A recipe with its collection and splits opened, for whoever makes stages of it."""

    recipe: Recipe
    collection: Collection
    splits: Splits
    store_root: Path

    def __post_init__(self) -> None:
        self.surroundings = Surroundings(
            self.collection, self.splits, self.recipe.seed, self.store_root, self.recipe.teachers, self.recipe.tokens
        )

    def more(self, rung: Rung) -> dict[Side, Unlabelled]:
        """Open the texts from elsewhere that an embedding rung learns from too, by what they are embedded as."""
        if rung.loss != "embedding":
            return {}
        found = {side: open_unlabelled(path) for side, path in rung.more.items()}
        self.surroundings.texts |= {texts.fingerprint: texts for texts in found.values()}
        return found
