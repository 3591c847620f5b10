"""stepwell: distil a small, fast dense retriever from a ladder of ever stronger teachers.

The public names are loaded when they are first used, so that importing the package takes no time.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0.dev0"

_HOME = {
    "ablate": "stepwell.api",
    "bench": "stepwell.api",
    "check": "stepwell.api",
    "compare": "stepwell.api",
    "demo": "stepwell.api",
    "encode": "stepwell.api",
    "evaluate_system": "stepwell.api",
    "init": "stepwell.api",
    "mine": "stepwell.api",
    "plan": "stepwell.api",
    "run": "stepwell.api",
    "score": "stepwell.api",
    "search": "stepwell.api",
    "Collection": "stepwell.collection",
    "open_collection": "stepwell.collection",
    "Recipe": "stepwell.recipe",
    "load_recipe": "stepwell.recipe.yaml_file",
    "Searcher": "stepwell.systems.searcher",
    "ScoreStore": "stepwell.teachers.store",
    "DistillLoss": "stepwell.distil.trainer_losses",
    "EmbeddingDistillLoss": "stepwell.distil.trainer_losses",
    "InBatchDistillLoss": "stepwell.distil.trainer_losses",
    "StepwellError": "stepwell.errors",
}

__all__ = [
    "Collection",
    "DistillLoss",
    "EmbeddingDistillLoss",
    "InBatchDistillLoss",
    "Recipe",
    "ScoreStore",
    "Searcher",
    "StepwellError",
    "__version__",
    "ablate",
    "bench",
    "check",
    "compare",
    "demo",
    "encode",
    "evaluate_system",
    "init",
    "load_recipe",
    "mine",
    "open_collection",
    "plan",
    "run",
    "score",
    "search",
]

if TYPE_CHECKING:
    from stepwell.api import (
        ablate,
        bench,
        check,
        compare,
        demo,
        encode,
        evaluate_system,
        init,
        mine,
        plan,
        run,
        score,
        search,
    )
    from stepwell.collection import Collection, open_collection
    from stepwell.distil.trainer_losses import DistillLoss, EmbeddingDistillLoss, InBatchDistillLoss
    from stepwell.errors import StepwellError
    from stepwell.recipe import Recipe
    from stepwell.recipe.yaml_file import load_recipe
    from stepwell.systems.searcher import Searcher
    from stepwell.teachers.store import ScoreStore


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'stepwell' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
