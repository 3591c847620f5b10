"""Opening, saving and naming models of sentence-transformers: nothing else calls its loaders."""

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from sentence_transformers import CrossEncoder, MultiVectorEncoder, SentenceTransformer
from sentence_transformers.base.modules import Module, Router, Transformer
from sentence_transformers.cross_encoder.modules import LogitScore
from torch import Tensor, nn
from transformers.utils import logging as transformers_logging

from stepwell.errors import RecipeError, RunError, StepwellError
from stepwell.models.files import facts_of, is_multi_vector, is_scorer, locate, modules_of, names_a_scorer
from stepwell.models.tokens import tokenizer_fingerprint

ELSEWHERE = {"architectures", "dtype", "torch_dtype", "transformers_version", "use_cache"}
"""Settings of transformers that say nothing of the outputs in fp32."""

M = TypeVar("M", SentenceTransformer, CrossEncoder, MultiVectorEncoder)


def _load(loader: Callable[..., M], base: str, what: str, **options: Any) -> M:
    """Open a model on the CPU, in fp32, and never from a pickle."""
    if facts_of(base, "adapter_config.json"):
        raise RunError(
            f"{base} is an adapter (LoRA) and no whole model. Merge it into its base with peft (`merge_and_unload`), "
            "save the result as a sentence-transformers model, and name that."
        )
    weights = {"dtype": torch.float32, "use_safetensors": True}
    with opening(base, what):
        return loader(locate(base), device="cpu", model_kwargs=weights, **options)


def open_sentence_transformer(base: str, scorers: bool = False) -> SentenceTransformer:
    """Open any encoder; a part that the weights lack, such as a pooler that nothing uses, is always the same.

    A cross-encoder is refused unless ``scorers``, where only its layers are wanted.
    """
    if not scorers and is_scorer(base):
        raise RunError(
            f"{base} is a cross-encoder, by its own files: it was trained to score pairs, and its vectors of single "
            "texts mean nothing. Use it as a teacher of kind `cross-encoder`, or name an encoder."
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = _load(SentenceTransformer, base, "encoder")
    _check_routes(model, base)
    return model


def _check_routes(model: SentenceTransformer, base: str) -> None:
    """Refuse towers that stepwell can't feed: it tokenises both sides alike, and knows no other routes."""
    routes: list[Any] = list(model[0].sub_modules.values()) if isinstance(model[0], Router) else []
    tokenizers: list[Any] = [route[0].tokenizer for route in routes if isinstance(route[0], Transformer)]
    alike = len(tokenizers) == len(routes) and all(t.get_vocab() == tokenizers[0].get_vocab() for t in tokenizers)
    if not alike or any(set(router.sub_modules) != {"query", "document"} for router in routers_of(model)):
        raise RunError(
            f"can't use {base}: it sends texts different ways, and stepwell only knows the ways `query` and `document` "
            "that both begin with a transformer and the same tokenizer; other vectors would mean nothing. Take a model "
            "with such towers, or with one."
        )


def open_one_tower(base: str, scorers: bool = False) -> SentenceTransformer:
    """Open an encoder whose transformer is to be cut or built upon; two towers are refused."""
    model = open_sentence_transformer(base, scorers)
    if routers_of(model):
        raise RecipeError(
            f"{base} has two towers, one for queries and one for passages, and what is cut or built here starts from "
            "one: the other would be lost. Name the directory of one tower in `from` (query_0_Transformer or "
            "document_0_Transformer in it), or take the whole as a dual-encoder teacher without `layers`, `pooling`, "
            "`similarity` and `towers`."
        )
    return model


def open_cross_encoder(base: str) -> CrossEncoder:
    """Open a cross-encoder with one output and a scoring head of its own, as raw logits."""
    model = open_classifier(base)
    kinds = getattr(transformer_of(model).auto_model.config, "architectures", None)
    answers = any(isinstance(module, LogitScore) for module in model)
    if answers and not modules_of(base):
        raise RunError(
            f"{base} is a language model, and nothing in its files says that it was trained to rank: no modules.json "
            "names the words whose logits are the score, and how a pair is asked about. Choose a re-ranker that "
            "sentence-transformers saved (a CrossEncoder with LogitScore), or one for sequence classification."
        )
    if len(model) == 1 and not names_a_scorer(kinds):  # the head is a random one
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


def open_classifier(base: str) -> CrossEncoder:
    """Open a cross-encoder with whatever head it has."""
    model: CrossEncoder = _load(CrossEncoder, base, "cross-encoder", activation_fn=nn.Identity())
    return model


def open_multi_vector(base: str) -> MultiVectorEncoder:
    """Open a late-interaction model; a plain encoder is refused."""
    if facts_of(base, "config.json") and not is_multi_vector(base):
        raise RunError(
            f"{base} is no late-interaction model, and its token vectors were never trained to be compared. Choose a "
            "ColBERT model, or give the teacher `train` so that it becomes one."
        )
    return _load(MultiVectorEncoder, base, "late-interaction model")


@contextlib.contextmanager
def opening(base: str, what: str) -> Iterator[None]:
    """Open a model in here: without transformers' own bars, and with a StepwellError that says what failed."""
    try:
        with quiet():
            yield
    except (OSError, ValueError, KeyError, TypeError, SafetensorError, RuntimeError, ImportError) as error:
        reason = " ".join(str(error).split())[:400].rstrip(".")
        raise RunError(
            f"can't open {base} as {what}: {reason}. Give a directory with a sentence-transformers or transformers "
            "model in safetensors, or a hub name (and a connection, the first time)."
        ) from error


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


def save_model(model: SentenceTransformer | CrossEncoder | MultiVectorEncoder, folder: Path) -> None:
    """Write a sentence-transformers directory (safetensors)."""
    try:
        with quiet():
            model.save_pretrained(str(folder), create_model_card=False)
    except SafetensorError as error:
        raise cannot_write(folder, error) from error


def cannot_write(path: Path, error: Exception) -> StepwellError:
    """Return the error of weights that safetensors can't write (it does not say so as an OSError)."""
    return StepwellError(
        f"can't write {path}: {error}. Is the disk full? What is finished is safe; make room and run the same command "
        "again: it goes on."
    )


def fingerprint(model: nn.Module, *extra: object) -> str:
    """Return the sha256 (hex) of weights, tokenizer, the settings of all modules, and of ``extra`` facts."""
    tokenizer = getattr(model, "tokenizer", None)
    words = None if tokenizer is None else tokenizer_fingerprint(tokenizer)
    shapes = [[type(part).__name__, _settings_of(part)] for part in model.modules() if isinstance(part, Module)]
    return sha256_of(model.state_dict(), json.dumps([words, shapes, *map(str, extra)], sort_keys=True, default=str))


def _settings_of(part: Module) -> dict[str, Any]:
    """Return the settings that a module's outputs depend on; of a transformer also the heads and the activations."""
    if not isinstance(part, Transformer):
        return dict(part.get_config_dict())
    config = part.auto_model.config.to_dict()
    return {name: value for name, value in config.items() if name not in ELSEWHERE and not name.startswith("_")}


def sha256_of(tensors: Mapping[str, Tensor], facts: str) -> str:
    """Return the sha256 (hex) of a text and of named tensors, of any shape and type; on a CPU nothing is copied."""
    digest = hashlib.sha256(facts.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def named(model: nn.Module) -> str:
    """Return what to call a model in a sentence."""
    bodies = (module.auto_model.config for module in model.modules() if isinstance(module, Transformer))
    return str(next((body.name_or_path for body in bodies), "")) or f"this {type(model).__name__}"


def compares_by_cosine(model: SentenceTransformer, base: str) -> bool:
    """Return whether vectors are compared by their cosine, else by their dot product; other ways are refused."""
    function = str(model.similarity_fn_name or "cosine")
    if function not in ("cosine", "dot"):
        raise RunError(
            f"{base} compares vectors by their {function} distance, and stepwell searches by cosine or dot product: "
            "the order would be another one. Name `similarity: cos` or `dot` if it should be compared so all the same."
        )
    return function == "cosine"


def transformer_of(model: nn.Module) -> Transformer:
    """Return the (first) Transformer module of a sentence-transformers model."""
    found: Transformer | None = next((module for module in model.modules() if isinstance(module, Transformer)), None)
    if found is not None:
        return found
    raise RunError(f"a {type(model).__name__} without a transformer can be neither student nor teacher here.")


def routers_of(model: nn.Module) -> list[Router]:
    """Return the modules that send queries and passages through different towers."""
    return [module for module in model.modules() if isinstance(module, Router)]


def most_tokens(model: nn.Module) -> int | None:
    """Return how many tokens a transformers model has positions for; RoBERTa's kin count from padding_idx + 1 on."""
    config: Any = model.config
    most = getattr(config, "max_position_embeddings", None)
    tables = [module for name, module in model.named_modules() if name.endswith("position_embeddings")]
    padding = getattr(tables[0], "padding_idx", None) if tables else None
    return most and (int(most) if padding is None else int(most) - padding - 1)
