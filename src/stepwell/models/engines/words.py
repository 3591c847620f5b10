"""The tables of word embeddings in a training: which they are, and what a step writes of their gradient."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import cast

from torch import Tensor, nn
from transformers import PreTrainedModel

from stepwell.errors import RecipeError

VOCABULARY = 4_096
"""Rows from which on an embedding is one of words, not of positions or types."""


def word_tables(module: nn.Module) -> list[Tensor]:
    """Return the tables of word embeddings in ``module``, whatever their architecture calls them.

    Raises
    ------
    StepwellError
        When the architecture does not say which they are.
    """
    models = [part for part in module.modules() if isinstance(part, PreTrainedModel)]
    try:
        tables = [cast("Tensor", model.get_input_embeddings().weight) for model in models]
        return list({id(table): table for table in tables}.values())  # a model with a head holds one without
    except (NotImplementedError, AttributeError) as error:
        raise RecipeError(
            f"freeze_words: where {type(models[0]).__name__} keeps its word embeddings is not known ({error}). Leave "
            "`freeze_words` out."
        ) from error


@contextlib.contextmanager
def sparse_words(module: nn.Module) -> Iterator[None]:
    """Let the vocabularies in ``module`` that learn on a CPU have sparse gradients until those of a batch are added up.

    A step goes through the model in several micro-batches. Each would otherwise write a gradient of the whole
    vocabulary, for the few words that it has.
    """
    found = [
        part
        for part in module.modules()
        if isinstance(part, nn.Embedding)
        and part.weight.requires_grad
        and part.weight.device.type == "cpu"
        and part.num_embeddings >= VOCABULARY
        and not part.sparse
    ]
    hooks = [part.weight.register_post_accumulate_grad_hook(_densify) for part in found]  # type: ignore[no-untyped-call]
    for part in found:
        part.sparse = True
    try:
        yield
    finally:
        for part, hook in zip(found, hooks, strict=True):
            part.sparse = False
            hook.remove()


def _densify(parameter: Tensor) -> None:
    if parameter.grad is not None:
        parameter.grad = parameter.grad.to_dense()
