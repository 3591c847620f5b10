"""The recipe: everything that a run depends on, typed; its YAML, its mistakes, its page."""

from stepwell.recipe.ladder import MORE, Mining, Refine, Rung, Side, Soft, WarmUp, teacher_temperature
from stepwell.recipe.recipe import CollectionSection, DenseSection, Judging, Recipe, StudentSection, TokensSection
from stepwell.recipe.teachers import AnyTeacher, DualEncoderTeacher, Together
from stepwell.recipe.training import DenseTraining, Optimiser, RerankTraining, Section

__all__ = ["MORE", "AnyTeacher", "CollectionSection", "DenseSection", "DenseTraining", "DualEncoderTeacher", "Judging"]
__all__ += ["Mining", "Optimiser", "Recipe", "Refine", "RerankTraining", "Rung", "Section", "Side", "Soft"]
__all__ += ["StudentSection", "Together", "TokensSection", "WarmUp", "teacher_temperature"]
