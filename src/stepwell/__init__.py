"""stepwell: distil a small, fast dense retriever from a ladder of ever stronger teachers.

These are the public names; ``docs/public.md`` says what each is, and what may change when. A name is loaded when it is
first used, so that importing the package takes no time.
"""

from importlib import import_module

TYPE_CHECKING = False  # typing has it too, and takes longer to import than all else here
if TYPE_CHECKING:
    from stepwell.api import (
        ablate,
        bench,
        check,
        compare,
        compare_indexes,
        demo,
        encode,
        evaluate,
        evaluate_system,
        export,
        index,
        init,
        load_recipe,
        mine,
        plan,
        plan_ablation,
        report,
        report_facts,
        run,
        score,
        search,
        serve,
    )
    from stepwell.collection import Collection, open_collection
    from stepwell.distil.trainer_losses import DistillLoss, EmbeddingDistillLoss, InBatchDistillLoss
    from stepwell.errors import CollectionError, MissingPackage, RecipeError, RunError, StepwellError
    from stepwell.indexes.settings import IndexSettings
    from stepwell.jobs.cluster import Cluster
    from stepwell.recipe import Recipe
    from stepwell.server.limits import Limits
    from stepwell.systems.searcher import Searcher
    from stepwell.teachers.store import ScoreStore

__version__ = "0.1.0"

# fmt: off
__all__ = [
    "Cluster", "Collection", "CollectionError", "DistillLoss", "EmbeddingDistillLoss", "InBatchDistillLoss",
    "IndexSettings", "Limits", "MissingPackage", "Recipe", "RecipeError", "RunError", "ScoreStore", "Searcher",
    "StepwellError", "__version__", "ablate", "bench", "check", "compare", "compare_indexes", "demo", "encode",
    "evaluate", "evaluate_system", "export", "index", "init", "load_recipe", "mine", "open_collection", "plan",
    "plan_ablation", "report", "report_facts", "run", "score", "search", "serve",
]
# fmt: on

_HOMES = {
    "stepwell.collection": ("Collection", "open_collection"),
    "stepwell.distil.trainer_losses": ("DistillLoss", "EmbeddingDistillLoss", "InBatchDistillLoss"),
    "stepwell.errors": ("CollectionError", "MissingPackage", "RecipeError", "RunError", "StepwellError"),
    "stepwell.indexes.settings": ("IndexSettings",),
    "stepwell.jobs.cluster": ("Cluster",),
    "stepwell.recipe": ("Recipe",),
    "stepwell.server.limits": ("Limits",),
    "stepwell.systems.searcher": ("Searcher",),
    "stepwell.teachers.store": ("ScoreStore",),
}
"""Where names are that ``stepwell.api`` does not have."""


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'stepwell' has no attribute {name!r}")
    home = next((module for module, names in _HOMES.items() if name in names), "stepwell.api")
    return getattr(import_module(home), name)
