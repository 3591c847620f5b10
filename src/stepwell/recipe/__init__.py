"""The recipe: everything that a run depends on, typed; its YAML, its mistakes, its page."""

from stepwell.recipe.ladder import Mining, Refine, Rung, Soft, WarmUp
from stepwell.recipe.recipe import CollectionSection, Judging, Recipe, StudentSection, TokensSection
from stepwell.recipe.training import DenseTraining, Optimiser, RerankTraining, Section

__all__ = ["CollectionSection", "DenseTraining", "Judging", "Mining", "Optimiser", "Recipe", "Refine", "RerankTraining"]
__all__ += ["Rung", "Section", "Soft", "StudentSection", "TokensSection", "WarmUp"]
