"""Opening late-interaction models, and building them from any encoder."""

from __future__ import annotations

from typing import Any, Literal

import torch
from sentence_transformers import MultiVectorEncoder
from sentence_transformers.base.modules import Dense, Normalize
from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask
from torch import nn

from stepwell.errors import RecipeError, RunError
from stepwell.models.build import (
    WEIGHTS,
    cut_layers,
    most_tokens,
    open_one_tower,
    opening,
    quiet,
    transformer_of,
)
from stepwell.models.files import facts_of, locate

Kind = Literal["dual-encoder", "cross-encoder", "late-interaction"]


def is_multi_vector(base: str) -> bool:
    """Return whether a directory or hub name is a late-interaction model and no plain encoder.

    A saved model says so itself; PyLate and the first ColBERT said it in their own words.
    """
    named = facts_of(base, "config_sentence_transformers.json").get("model_type")
    kinds = facts_of(base, "config.json").get("architectures") or [""]
    return named in ("MultiVectorEncoder", "ColBERT") or str(kinds[0]) == "HF_ColBERT"


def model_kind(base: str) -> Kind:
    """Return the kind of a directory or hub name by its own files; cross-encoder where they don't tell."""
    if is_multi_vector(base):
        return "late-interaction"
    own = facts_of(base, "config_sentence_transformers.json")
    kinds = facts_of(base, "config.json").get("architectures") or [""]
    scores = str(kinds[0]).endswith("ForSequenceClassification")
    saved_before_kinds = bool(own) and "model_type" not in own and not scores
    return "dual-encoder" if saved_before_kinds or own.get("model_type") == "SentenceTransformer" else "cross-encoder"


def open_multi_vector(base: str) -> MultiVectorEncoder:
    """Open a late-interaction model on the CPU, in fp32, with a StepwellError that says what failed."""
    if facts_of(base, "config.json") and not is_multi_vector(base):
        raise RunError(
            f"{base} is no late-interaction model, and its token vectors were never trained to be compared. Choose a "
            "ColBERT model, or give the teacher `train` so that it becomes one."
        )
    with opening(base, "late-interaction model"):
        return MultiVectorEncoder(locate(base), device="cpu", model_kwargs=WEIGHTS)


def build_multi_vector(
    base: str, layers: int | None, width: int | None, query: int, passage: int, seed: int
) -> MultiVectorEncoder:
    """Build a late-interaction model to be trained, from any encoder or from one of its own kind.

    Parameters
    ----------
    base
        An encoder, whose token vectors are compared by their cosines; or a late-interaction model, kept as it is.
    layers
        Its first so many layers; all when None.
    width
        A projection of the token vectors to this width, of random weights; none when None.
    query, passage
        Tokens of the longest query and passage.
    seed
        Of the projection.
    """
    if is_multi_vector(base):
        if width is not None:
            raise RecipeError(
                f"{base} is a late-interaction model with a projection of its own: leave `width` empty for it."
            )
        model = open_multi_vector(base)
        cut_layers(transformer_of(model).auto_model, layers)
        return model
    source = open_one_tower(base)
    transformer: Any = transformer_of(source)
    cut_layers(transformer.auto_model, layers)
    limit = most_tokens(transformer.auto_model) or transformer.max_seq_length or max(query, passage)
    transformer.max_seq_length = min(max(query, passage), limit)
    transformer.query_length, transformer.document_length = min(query, limit), min(passage, limit)
    modules: list[nn.Module] = [transformer]
    if width is not None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            modules.append(
                Dense(
                    transformer.get_embedding_dimension(),
                    width,
                    bias=False,
                    activation_function=nn.Identity(),
                    module_input_name="token_embeddings",
                )
            )
    modules += [MultiVectorMask(), Normalize(module_input_name="token_embeddings")]
    prompts = {side: prompt for side in ("query", "document") if (prompt := source.prompts.get(side))}
    with quiet():
        return MultiVectorEncoder(modules=modules, device="cpu", prompts=prompts or None)
