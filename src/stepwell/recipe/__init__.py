"""The recipe: everything that a run depends on, typed; its YAML, its mistakes, its page."""

from stepwell.recipe.recipe import (
    CollectionSection,
    DenseTraining,
    Judging,
    Mining,
    Optimiser,
    Recipe,
    Refine,
    RerankTraining,
    Rung,
    Section,
    Soft,
    StudentSection,
    TokensSection,
    WarmUp,
)

__all__ = [
    "CollectionSection",
    "DenseTraining",
    "Judging",
    "Mining",
    "Optimiser",
    "Recipe",
    "Refine",
    "RerankTraining",
    "Rung",
    "Section",
    "Soft",
    "StudentSection",
    "TokensSection",
    "WarmUp",
]
