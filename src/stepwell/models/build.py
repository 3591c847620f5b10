"""Opening base models and cutting them: embeddings and chosen layers kept, the configuration fixed."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from sentence_transformers import CrossEncoder, MultiVectorEncoder, SentenceTransformer
from sentence_transformers.base.modules import Dense, Normalize, Router, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from torch import Tensor, nn
from transformers.utils import logging as transformers_logging

from stepwell.errors import RecipeError, RunError, StepwellError
from stepwell.models.files import facts_of, locate
from stepwell.models.tokens import tokenizer_fingerprint

WEIGHTS: dict[str, Any] = {"dtype": torch.float32, "use_safetensors": True}
"""How weights are read: in fp32, and never from a pickle."""


def open_sentence_transformer(base: str) -> SentenceTransformer:
    """Open any encoder on the CPU, in fp32, with a StepwellError that says what failed.

    A part that the weights lack, such as a pooler that nothing uses, is random and always the same.
    """
    with opening(base, "encoder"), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = SentenceTransformer(locate(base), device="cpu", model_kwargs=WEIGHTS)
    _check_routes(model, base)
    return model


def _check_routes(model: SentenceTransformer, base: str) -> None:
    """Refuse towers that stepwell can't feed: it tokenises both sides alike, and knows no other routes."""
    routes: list[Any] = list(model[0].sub_modules.values()) if isinstance(model[0], Router) else []
    tokenizers: list[Any] = [route[0].tokenizer for route in routes if isinstance(route[0], Transformer)]
    alike = len(tokenizers) == len(routes) and all(t.get_vocab() == tokenizers[0].get_vocab() for t in tokenizers)
    if not alike or any(set(router.sub_modules) != {"query", "document"} for router in _routers(model)):
        raise RunError(
            f"can't use {base}: it sends texts different ways, and stepwell only knows the ways `query` and `document` "
            "that both begin with a transformer and the same tokenizer; other vectors would mean nothing. Take a model "
            "with such towers, or with one."
        )


def open_one_tower(base: str) -> SentenceTransformer:
    """Open an encoder whose transformer is to be cut or built upon.

    Raises
    ------
    StepwellError
        When it can't be opened, or has a tower for each side: neither can stand for both.
    """
    model = open_sentence_transformer(base)
    if _routers(model):
        raise RecipeError(
            f"{base} has two towers, one for queries and one for passages, and what is cut or built here starts from "
            "one: the other would be lost. Name the directory of one tower in `from` (query_0_Transformer or "
            "document_0_Transformer in it), or take the whole as a dual-encoder teacher without `layers`, `pooling` "
            "and `similarity`."
        )
    return model


def _routers(model: nn.Module) -> list[Router]:
    return [module for module in model.modules() if isinstance(module, Router)]


def open_cross_encoder(base: str) -> CrossEncoder:
    """Open any cross-encoder with one output, as raw logits.

    Raises
    ------
    StepwellError
        When it can't be opened, has no scoring head of its own, or gives more than one score.
    """
    model = _with_any_head(base)
    kinds = getattr(transformer_of(model).auto_model.config, "architectures", None)
    if len(model) == 1 and not _scores(kinds):  # the head is a random one
        raise RunError(
            f"{base} is no cross-encoder: its config.json names {' and '.join(kinds or ['no architecture'])}, where a "
            "re-ranker's names one for sequence classification. It has no scoring head, so its scores would be random. "
            "Choose a re-ranker, or give it `train` so that it gets a head of its own."
        )
    if model.num_labels != 1:
        raise RunError(
            f"the cross-encoder {base} gives {model.num_labels} scores a pair and a ranking needs one: it was trained "
            "to classify. Choose a re-ranker, or give it `train` so that it gets a head of its own."
        )
    return model


def _with_any_head(base: str) -> CrossEncoder:
    with opening(base, "cross-encoder"):
        model: CrossEncoder = CrossEncoder(
            locate(base), device="cpu", model_kwargs=WEIGHTS, activation_fn=nn.Identity()
        )
    return model


def _scores(architectures: list[str] | None) -> bool:
    return any(str(name).endswith("ForSequenceClassification") for name in architectures or [])


def cannot_open(base: str, what: str, error: Exception) -> StepwellError:
    """Return what a user is told when a model can't be opened."""
    reason = " ".join(str(error).split())[:400].rstrip(".")
    return RunError(
        f"can't open {base} as {what}: {reason}. Give a directory with a sentence-transformers or transformers "
        "model in safetensors, or a hub name (and a connection, the first time)."
    )


@contextlib.contextmanager
def opening(base: str, what: str) -> Iterator[None]:
    """Open a model in here: without transformers' own bars, and with a StepwellError that says what failed."""
    try:
        with quiet():
            yield
    except (OSError, ValueError, KeyError, SafetensorError, RuntimeError, ImportError) as error:
        raise cannot_open(base, what, error) from error


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hold back transformers' own bars and notes while a model loads or saves."""
    log: Any = transformers_logging
    bars, level = log.is_progress_bar_enabled(), log.get_verbosity()
    log.disable_progress_bar()
    log.set_verbosity_error()
    try:
        yield
    finally:
        log.set_verbosity(level)
        if bars:
            log.enable_progress_bar()


def pick_layers(total: int, layers: int | None, pick: str | list[int]) -> list[int]:
    """Return which of ``total`` layers to keep, in order.

    Examples
    --------
    >>> pick_layers(6, 2, "first"), pick_layers(6, 2, "last"), pick_layers(6, 2, "spread")
    ([0, 1], [4, 5], [0, 5])
    >>> pick_layers(12, 4, "spread")
    [0, 4, 7, 11]
    """
    if isinstance(pick, list):
        wrong = [layer for layer in pick if not 0 <= layer < total]
        if wrong or not pick or len(set(pick)) < len(pick) or (layers is not None and layers != len(pick)):
            raise RecipeError(
                f"can't pick the layers {pick} (layers: {layers}) of a model with {total}: give numbers from 0 to "
                f"{total - 1}, each once, as many as `layers` says."
            )
        return sorted(pick)
    count = total if layers is None else layers
    if count > total:
        raise RecipeError(f"can't keep {count} layers: the base model has {total}. Lower `layers`.")
    if pick == "first":
        return list(range(count))
    if pick == "last":
        return list(range(total - count, total))
    return [round(i * (total - 1) / (count - 1)) for i in range(count)] if count > 1 else [0]


def cut_layers(model: nn.Module, layers: int | None, pick: str | list[int] = "first") -> None:
    """Keep the chosen layers of a transformers model and make its configuration say so, in place.

    Without the configuration the dropped layers would come back with random weights when the saved model
    is loaded (sentence-transformers issue 1608).
    """
    config: Any = model.config
    total = int(config.num_hidden_layers)
    keep = pick_layers(total, layers, pick)
    if keep == list(range(total)):
        return
    stacks = [
        (name, stack)
        for name, stack in model.named_modules()
        if isinstance(stack, nn.ModuleList) and len(stack) == total
    ]
    if len(stacks) != 1:
        raise RecipeError(
            f"can't tell where the {total} layers of a {type(model).__name__} are ({len(stacks)} candidates): leave "
            "`layers` empty for this model."
        )
    name, stack = stacks[0]
    parent = model.get_submodule(name.rpartition(".")[0])
    setattr(parent, name.rpartition(".")[2], nn.ModuleList([stack[layer] for layer in keep]))
    config.num_hidden_layers = len(keep)
    if getattr(config, "layer_types", None):
        config.layer_types = [config.layer_types[layer] for layer in keep]


def transformer_of(model: nn.Module) -> Transformer:
    """Return the (first) Transformer module of a sentence-transformers model."""
    found: Transformer | None = next((module for module in model.modules() if isinstance(module, Transformer)), None)
    if found is not None:
        return found
    raise RunError(f"a {type(model).__name__} without a transformer can be neither student nor teacher here.")


def build_student(
    base: str,
    layers: int | None,
    pick: str | list[int],
    pooling: str | None,
    similarity: str | None,
    towers: int,
    max_tokens: int,
) -> SentenceTransformer:
    """Build a dual encoder from the embeddings and some layers of ``base``.

    ``pooling`` and ``similarity`` may be None: then they are the base model's own. Where nothing is to be changed, the
    base is taken as it is, with all its modules and towers.
    """
    if takes_whole(layers, pooling, similarity) and not isinstance(pick, list) and towers == 1:
        return _whole(open_sentence_transformer(base), max_tokens)
    model = open_one_tower(base)
    chosen_similarity = similarity or _similarity_of(model)
    own = next((module for module in model.modules() if isinstance(module, Pooling)), None)
    own_mode = own.pooling_mode if own is not None else "mean"
    mode = pooling or own_mode
    extra = [module for module in model if isinstance(module, Dense)] if mode == own_mode else []

    prompts = _prompts_of(model) or None

    def tower(opened: SentenceTransformer) -> list[Any]:
        transformer = transformer_of(opened)
        cut_layers(transformer.auto_model, layers, pick)
        transformer.max_seq_length = _limit(transformer, max_tokens)
        modules: list[Any] = [transformer, Pooling(transformer.get_embedding_dimension(), mode), *extra]
        return [*modules, Normalize()] if chosen_similarity == "cos" else modules

    function: Literal["cosine", "dot"] = "cosine" if chosen_similarity == "cos" else "dot"
    with quiet():
        if towers == 2:
            modules: list[Any] = [Router.for_query_document(tower(model), tower(open_sentence_transformer(base)))]
        else:
            modules = tower(model)
        return SentenceTransformer(modules=modules, device="cpu", similarity_fn_name=function, prompts=prompts)


def takes_whole(layers: int | None, pooling: str | None, similarity: str | None) -> bool:
    """Return whether a dual encoder is its base as it is."""
    return layers is None and pooling is None and similarity is None


def _whole(model: SentenceTransformer, max_tokens: int) -> SentenceTransformer:
    """Leave a dual encoder as it is, in place; how long texts may be and how vectors are compared is written down."""
    transformer_of(model)  # without one it is refused
    limits = [_limit(module, max_tokens) for module in model.modules() if isinstance(module, Transformer)]
    model.max_seq_length = min(limits)
    model.similarity_fn_name = "cosine" if _similarity_of(model) == "cos" else "dot"
    model.truncate_dim = None  # vectors are compared whole
    model.prompts = {**model.prompts, **_prompts_of(model)}
    return model


def _limit(transformer: Transformer, wanted: int) -> int:
    return min(wanted, most_tokens(transformer.auto_model) or transformer.max_seq_length or wanted)


def _prompts_of(model: SentenceTransformer) -> dict[str, str]:
    prompts = {name: prompt for name, prompt in model.prompts.items() if prompt}
    for name in ("passage", "corpus"):  # sentence-transformers looks no further than an empty "document"
        if name in prompts:
            prompts.setdefault("document", prompts[name])
    return prompts


def most_tokens(model: nn.Module) -> int | None:
    """Return how many tokens a transformers model has positions for; RoBERTa's kin count from padding_idx + 1 on."""
    config: Any = model.config
    most = getattr(config, "max_position_embeddings", None)
    tables = [module for name, module in model.named_modules() if name.endswith("position_embeddings")]
    padding = getattr(tables[0], "padding_idx", None) if tables else None
    return most and (int(most) if padding is None else int(most) - padding - 1)


def _similarity_of(model: SentenceTransformer) -> str:
    if any(isinstance(module, Normalize) for module in model.modules()):
        return "cos"
    return "dot" if str(model.similarity_fn_name) in ("dot", "SimilarityFunction.DOT_PRODUCT") else "cos"


def build_cross_encoder(base: str, layers: int | None, max_tokens: int, seed: int) -> CrossEncoder:
    """Build a cross-encoder to be trained: the layers of any encoder, mean pooling and a linear score.

    A base that already is a cross-encoder with one score keeps its head; one that was trained to classify loses it.
    """
    model = _with_any_head(base) if _is_scorer(base) else None
    if model is not None and model.num_labels == 1:
        cut_layers(transformer_of(model).auto_model, layers)
    else:
        transformer = transformer_of(open_one_tower(base))
        cut_layers(transformer.auto_model, layers)
        width = transformer.get_embedding_dimension()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            head = Dense(
                width,
                1,
                activation_function=nn.Identity(),
                module_input_name="sentence_embedding",
                module_output_name="scores",
            )
        nn.init.zeros_(head.linear.bias)
        modules: list[nn.Module] = [transformer, Pooling(width, "mean"), head]
        with quiet():
            model = CrossEncoder(modules=modules, device="cpu", activation_fn=nn.Identity())
    model.max_seq_length = min(max_tokens, most_tokens(transformer_of(model).auto_model) or max_tokens)
    return model


def _is_scorer(base: str) -> bool:
    own = facts_of(base, "config_sentence_transformers.json").get("model_type")
    return own == "CrossEncoder" or _scores(facts_of(base, "config.json").get("architectures"))


def head_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Return the parameters of a cross-encoder's scoring head (they may learn faster than the body)."""
    heads = [
        module for name, module in model.named_modules() if isinstance(module, Dense) or name.endswith("classifier")
    ]
    return [parameter for head in heads for parameter in head.parameters()]


def fingerprint(model: nn.Module, *extra: object) -> str:
    """Return the sha256 (hex) of weights, tokenizer, pooling and dense layers, and of ``extra`` facts."""
    tokenizer = getattr(model, "tokenizer", None)
    words = None if tokenizer is None else tokenizer_fingerprint(tokenizer)
    shapes = [part.get_config_dict() for part in model.modules() if isinstance(part, Pooling | Dense)]
    return sha256_of(model.state_dict(), json.dumps([words, shapes, *map(str, extra)], sort_keys=True))


def sha256_of(tensors: Mapping[str, Tensor], facts: str) -> str:
    """Return the sha256 (hex) of a text and of named tensors, of any shape and type; on a CPU nothing is copied."""
    digest = hashlib.sha256(facts.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def save_model(model: SentenceTransformer | CrossEncoder | MultiVectorEncoder, folder: Path) -> None:
    """Write a sentence-transformers directory (safetensors)."""
    try:
        with quiet():
            model.save_pretrained(str(folder), create_model_card=False)
    except SafetensorError as error:
        raise cannot_write(folder, error) from error


def cannot_write(path: Path, error: Exception) -> StepwellError:
    """Return what a user is told when safetensors can't write weights (it does not say so as an OSError)."""
    return StepwellError(
        f"can't write {path}: {error}. Is the disk full? What is finished is safe; make room and run the same command "
        "again: it goes on."
    )
