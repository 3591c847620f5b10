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

_HOME = {
    "Cluster": "stepwell.jobs.cluster",
    "Collection": "stepwell.collection",
    "CollectionError": "stepwell.errors",
    "DistillLoss": "stepwell.distil.trainer_losses",
    "EmbeddingDistillLoss": "stepwell.distil.trainer_losses",
    "InBatchDistillLoss": "stepwell.distil.trainer_losses",
    "IndexSettings": "stepwell.indexes.settings",
    "Limits": "stepwell.server.limits",
    "MissingPackage": "stepwell.errors",
    "Recipe": "stepwell.recipe",
    "RecipeError": "stepwell.errors",
    "RunError": "stepwell.errors",
    "ScoreStore": "stepwell.teachers.store",
    "Searcher": "stepwell.systems.searcher",
    "StepwellError": "stepwell.errors",
    "open_collection": "stepwell.collection",
}
"""Where names are that ``stepwell.api`` does not have."""


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'stepwell' has no attribute {name!r}")
    return getattr(import_module(_HOME.get(name, "stepwell.api")), name)
