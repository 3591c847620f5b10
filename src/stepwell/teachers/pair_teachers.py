"""Teachers that score pairs outside of a ladder: a model as it is, or a teacher that a recipe describes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stepwell.collection import Collection
from stepwell.display import Progress
from stepwell.errors import StepwellError
from stepwell.models.build import build_student
from stepwell.models.build_late import model_kind
from stepwell.models.encoder import Encoder
from stepwell.models.late_interaction import LateInteraction
from stepwell.models.reranker import Reranker
from stepwell.recipe import TokensSection
from stepwell.recipe.teachers import (
    AnyTeacher,
    CrossEncoderTeacher,
    DualEncoderTeacher,
    HostedTeacher,
    LateInteractionTeacher,
    ModelTeacher,
)
from stepwell.recipe.yaml_file import load_recipe
from stepwell.teachers.hosted import HostedReranker
from stepwell.teachers.scoring import Rows, Scorer, block_scorer


@dataclass(frozen=True)
class PairTeacher:
    """A teacher that can score any pair of a collection.

    Parameters
    ----------
    kind
        As a recipe calls it.
    fingerprint
        Names its scores.
    scorer
        Returns what scores blocks of pairs of a collection.
    block
        Pairs that are scored before they are kept; :data:`stepwell.teachers.scoring.BLOCK` when None.
    logit
        Whether its scores are probabilities, of which the logits are wanted.
    reranker
        Its cross-encoder, if it is one.
    """

    kind: str
    fingerprint: str
    scorer: Callable[[Collection], Scorer]
    block: int | None = None
    logit: bool = False
    reranker: Reranker | None = None


def open_pair_teacher(name: str, tokens: int = 176, recipe: str | Path | None = None) -> PairTeacher:
    """Open a teacher to score pairs with.

    Parameters
    ----------
    name
        A model, as directory or hub name, whose own files tell its kind; or a teacher's name in ``recipe``.
    tokens
        Longest pair of a cross-encoder, longest text of late interaction; a recipe says it itself.
    recipe
        The file of a recipe. Its scores and those of the ladder are the same: what one has is not scored by the other.

    Raises
    ------
    StepwellError
        When there is no such teacher or model, or it can't score pairs that it has not seen.
    """
    if recipe is not None:
        found = load_recipe(recipe)
        if name not in found.teachers:
            raise StepwellError(f"{recipe} has no teacher {name!r}: it has {', '.join(found.teachers)}.")
        return _of_section(name, found.teachers[name], found.tokens)
    match model_kind(name):
        case "late-interaction":
            return _of_model(LateInteraction.open(name, tokens, tokens))
        case "dual-encoder":
            return _of_encoder(Encoder.open(name))
        case _:
            return _of_model(Reranker.open(name, tokens))


def _of_section(name: str, teacher: AnyTeacher, tokens: TokensSection) -> PairTeacher:
    if isinstance(teacher, ModelTeacher) and teacher.train is not None:
        raise StepwellError(
            f"the teacher {name!r} is trained by the ladder, so the recipe alone does not give its weights: run the "
            f"recipe, and name the model that results.json of the run lists as the stage teacher.{name}, without a "
            "recipe."
        )
    match teacher:
        case CrossEncoderTeacher():
            return _of_model(Reranker.open(teacher.base, tokens.pair))
        case LateInteractionTeacher():
            return _of_model(LateInteraction.open(teacher.base, tokens.query, tokens.passage))
        case DualEncoderTeacher():
            shape = teacher.layers, "first", teacher.pooling, teacher.similarity, 1, tokens.longest
            return _of_encoder(Encoder(build_student(teacher.base, *shape), teacher.scale))
        case HostedTeacher():
            fingerprint = HostedReranker.fingerprint_of(teacher)
            block = teacher.batch * teacher.parallel
            return PairTeacher(teacher.kind, fingerprint, partial(hosted_scorer, teacher), block, teacher.logit)
        case _:
            raise StepwellError(
                f"the teacher {name!r} is of the kind {teacher.kind}, which scores no pair by itself: "
                "`score` needs a model or a server. Score with each of the teachers that it is made of instead."
            )


def _of_model(model: Reranker | LateInteraction) -> PairTeacher:
    reranker = model if isinstance(model, Reranker) else None
    return PairTeacher(model.kind, model.fingerprint, partial(block_scorer, model), reranker=reranker)


def _of_encoder(encoder: Encoder) -> PairTeacher:
    return PairTeacher(encoder.kind, encoder.fingerprint, partial(_similarities, encoder))


def _similarities(encoder: Encoder, collection: Collection) -> Scorer:
    """Return a scorer by the similarity of vectors, times the scale; a block embeds each of its texts once."""

    def score(queries: Rows, passages: Rows, progress: Progress) -> NDArray[np.float32]:
        query_rows, query_places = np.unique(queries, return_inverse=True)
        passage_rows, passage_places = np.unique(passages, return_inverse=True)
        q = encoder.encode(encoder.tokenise(collection.query_texts(query_rows), "query"), "query")
        texts = encoder.tokenise(collection.passage_texts(passage_rows), "document")
        p = encoder.encode(texts, "document")
        progress.advance(len(queries))
        scores: NDArray[np.float32] = np.einsum("bd,bd->b", q[query_places], p[passage_places])  # (B,)
        return scores * np.float32(encoder.scale)

    return score


def hosted_scorer(settings: HostedTeacher, collection: Collection) -> Scorer:
    """Open a hosted teacher as what scores pairs of rows of a collection."""
    server = HostedReranker(settings)

    def score(queries: Rows, passages: Rows, progress: Progress) -> NDArray[np.float32]:
        return server.scores(collection.query_texts(queries), collection.passage_texts(passages), progress)

    return score
