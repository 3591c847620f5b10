"""Building models from a base model: embeddings and chosen layers kept, the configuration fixed, a new head."""

from typing import Any, Literal, cast

import torch
from sentence_transformers import CrossEncoder, MultiVectorEncoder, SentenceTransformer
from sentence_transformers.base.modules import Dense, Normalize, Router, Transformer
from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask
from sentence_transformers.sentence_transformer.modules import Pooling, StaticEmbedding
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import PreTrainedModel

from stepwell.display import progress, warn
from stepwell.errors import RecipeError
from stepwell.models.files import is_multi_vector, is_scorer, usual_prompts
from stepwell.models.opening import (
    compares_by_cosine,
    most_tokens,
    named,
    open_classifier,
    open_multi_vector,
    open_one_tower,
    open_sentence_transformer,
    quiet,
    routers_of,
    transformer_of,
)
from stepwell.models.tokens import Template
from stepwell.recipe.training import Prompts

WORDS = 512
"""Words that are embedded at a time."""

FIRST_IS_OWN = {
    "modernbert": "it has no norm in front of its attention, as the others have",
    **dict.fromkeys(("t5", "mt5", "umt5", "longt5", "switch_transformers"), "it alone holds the position bias"),
}
"""Architectures whose first layer is not like the others, and how."""


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
    stacks = {
        name: part for name, part in model.named_modules() if isinstance(part, nn.ModuleList) and len(part) == total
    }
    if len(stacks) != 1:
        raise RecipeError(
            f"can't tell where the {total} layers of a {type(model).__name__} are ({len(stacks)} candidates): leave "
            "`layers` empty for this model."
        )
    if keep[0] != 0 and config.model_type in FIRST_IS_OWN:
        raise RecipeError(
            f"can't leave layer 0 of a {config.model_type} out (the layers {keep} were picked): "
            f"{FIRST_IS_OWN[config.model_type]}, so the model would be another one when it is loaded again. Pick "
            "layers with 0 among them."
        )
    [(place, stack)] = stacks.items()
    parent, _, name = place.rpartition(".")
    setattr(model.get_submodule(parent), name, nn.ModuleList([stack[layer] for layer in keep]))
    config.num_hidden_layers = len(keep)
    if getattr(config, "layer_types", None):
        config.layer_types = [config.layer_types[layer] for layer in keep]


def build_student(
    base: str,
    layers: int | None,
    pick: str | list[int],
    pooling: str | None,
    similarity: str | None,
    towers: int,
    max_tokens: int,
    prompts: Prompts | None = None,
    dimensions: int | None = None,
) -> SentenceTransformer:
    """Build a dual encoder from the embeddings and some layers of ``base``.

    ``pooling``, ``similarity``, ``prompts`` (of query and document) and ``dimensions`` may be None: then they are the
    base model's own. Where no module is to be changed, the base is taken with all its modules and towers.
    """
    if takes_whole(layers, pooling, similarity) and not isinstance(pick, list) and towers == 1:
        return _said(_whole(open_sentence_transformer(base), max_tokens), base, prompts, dimensions)
    model = open_one_tower(base)
    if isinstance(model[0], StaticEmbedding):
        if layers is not None or isinstance(pick, list) or pooling is not None or towers == 2:
            raise RecipeError(
                f"{base} is a static model, which has no layers: leave `layers`, `pooling`, `towers` out."
            )
        return build_static(base, similarity, prompts, dimensions)
    cosine = (similarity or _similarity_of(model, base)) == "cos"
    own = next((module for module in model.modules() if isinstance(module, Pooling)), None)
    own_mode = own.pooling_mode if own is not None else "mean"
    mode = pooling or own_mode
    unpooled = own is not None and not own.include_prompt

    def tower(opened: SentenceTransformer) -> list[Any]:
        transformer = transformer_of(opened)
        cut_layers(transformer.auto_model, layers, pick)
        transformer.max_seq_length = _limit(transformer, max_tokens)
        width = transformer.get_embedding_dimension()
        modules: list[Any] = [transformer, Pooling(width, mode, include_prompt=not unpooled)]
        if mode == own_mode:  # what comes behind was trained for this pooling
            modules += [module for module in _heads(opened) if not isinstance(module, Transformer | Pooling)]
        return [*modules, Normalize()] if cosine else modules

    own_prompts = _prompts_of(model) or None
    modules = tower(model)
    if towers == 2:
        modules = [Router.for_query_document(modules, tower(open_sentence_transformer(base)))]
    function: Literal["cosine", "dot"] = "cosine" if cosine else "dot"
    with quiet():
        cut = model.truncate_dim if mode == own_mode else None
        options: dict[str, Any] = {"similarity_fn_name": function, "prompts": own_prompts, "truncate_dim": cut}
        built = SentenceTransformer(modules=modules, device="cpu", **options)
    return _said(built, base, prompts, dimensions)


def build_static(
    base: str, similarity: str | None, prompts: Prompts | None = None, dimensions: int | None = None
) -> SentenceTransformer:
    """Build a static dual encoder: a table of word vectors, of which a text's are averaged.

    A word's vector is what ``base`` makes of it alone, times ``log(1 + id)``: tokenizers number words by how common
    they are, and a common word says little. Source: Tulkens and van Dongen 2024, "Model2Vec".
    """
    model = open_sentence_transformer(base)
    cosine = (similarity or _similarity_of(model, base)) == "cos"
    if isinstance(model[0], StaticEmbedding):
        modules = _heads(model)
    else:
        tokenizer: Any = transformer_of(model).tokenizer
        core = getattr(tokenizer, "backend_tokenizer", None)
        if core is None or routers_of(model):
            raise RecipeError(f"no table of words can be made of {base}: it needs one tower and a fast tokenizer.")
        words = Tokenizer.from_str(core.to_str())
        words.no_truncation()
        modules = [StaticEmbedding(words, embedding_weights=_words_alone(model, tokenizer))]
    if cosine:
        modules.append(Normalize())
    function: Literal["cosine", "dot"] = "cosine" if cosine else "dot"
    options: dict[str, Any] = {"similarity_fn_name": function, "prompts": _prompts_of(model) or None}
    built = SentenceTransformer(modules=modules, device="cpu", truncate_dim=model.truncate_dim, **options)
    return _said(built, base, prompts, dimensions)


def _heads(model: SentenceTransformer) -> list[Any]:
    """Return the modules of an encoder without what normalises at the end."""
    modules: list[Any] = list(model)
    while isinstance(modules[-1], Normalize):
        modules.pop()
    return modules


@torch.no_grad()
def _words_alone(model: SentenceTransformer, tokenizer: Any) -> Tensor:
    """Return what a model makes of each token of its vocabulary alone: (words, D)."""
    before, after = Template.of(tokenizer).single
    model.eval()
    size = 1 + max(len(tokenizer) - 1, *tokenizer.added_tokens_decoder, 0)
    parts = list[Tensor]()
    with progress(size, "embedding each word") as bar:
        for start in range(0, size, WORDS):
            words = torch.arange(start, min(start + WORDS, size))
            around = [torch.tensor(part).expand(len(words), -1) for part in (before, after)]
            ids = torch.cat([around[0], words[:, None], around[1]], dim=1).long()  # (B, L)
            parts.append(model({"input_ids": ids, "attention_mask": torch.ones_like(ids)})["sentence_embedding"])
            bar.advance(len(words))
    table: Tensor = torch.cat(parts).float() * torch.log1p(torch.arange(size))[:, None]
    scale: Tensor = table.norm(dim=1).mean()
    return table / scale  # so that learning rates mean what they mean elsewhere


def _said(
    model: SentenceTransformer, base: str, prompts: Prompts | None, dimensions: int | None
) -> SentenceTransformer:
    """Give a dual encoder the prompts and the width that a recipe says, in place."""
    if prompts is not None:
        model.prompts = {"query": prompts.query, "document": prompts.passage}
    elif not any(model.prompts.values()) and (known := usual_prompts(base)):
        warn(
            f"{base} looks like a model that was trained with prompts, and its files name none: it runs without. Its "
            f"makers write {known} in front of texts; set `prompts` to that, or to `{{}}` for none."
        )
    if dimensions is not None:
        model.truncate_dim = None
        whole = int(model.get_embedding_dimension() or 0)
        if dimensions > whole:
            raise RecipeError(f"can't keep {dimensions} dimensions of {base}: its vectors have {whole}.")
        model.truncate_dim = dimensions
    return model


def takes_whole(layers: int | None, pooling: str | None, similarity: str | None) -> bool:
    """Return whether a dual encoder is its base as it is."""
    return layers is None and pooling is None and similarity is None


def _whole(model: SentenceTransformer, max_tokens: int) -> SentenceTransformer:
    """Leave a dual encoder as it is, in place; how long texts may be and how vectors are compared is written down."""
    if not isinstance(model[0], StaticEmbedding):  # which reads all of a text
        transformer_of(model)  # without one it is refused
        parts = [part for part in model.modules() if isinstance(part, Transformer)]
        model.max_seq_length = min(_limit(part, max_tokens) for part in parts)
    model.similarity_fn_name = "cosine" if _similarity_of(model, named(model)) == "cos" else "dot"
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


def _similarity_of(model: SentenceTransformer, base: str) -> Literal["cos", "dot"]:
    towers: list[Any] = [tower for router in routers_of(model) for tower in router.sub_modules.values()]
    if any(isinstance(list(part)[-1], Normalize) for part in (model, *towers)):
        return "cos"
    return "cos" if compares_by_cosine(model, base) else "dot"


def build_cross_encoder(base: str, layers: int | None, max_tokens: int, seed: int) -> CrossEncoder:
    """Build a cross-encoder to be trained: the layers of any encoder, mean pooling and a linear score.

    A base that already is a cross-encoder with one score keeps its head; one that was trained to classify loses it.
    """
    model = open_classifier(base) if is_scorer(base) else None
    if model is not None and model.num_labels == 1:
        cut_layers(transformer_of(model).auto_model, layers)
    else:
        transformer = transformer_of(open_one_tower(base, scorers=True))
        cut_layers(transformer.auto_model, layers)
        width = transformer.get_embedding_dimension()
        head = _random_dense(seed, width, 1, module_input_name="sentence_embedding", module_output_name="scores")
        nn.init.zeros_(head.linear.bias)
        modules: list[nn.Module] = [transformer, Pooling(width, "mean"), head]
        with quiet():
            model = CrossEncoder(modules=modules, device="cpu", activation_fn=nn.Identity())
    model.max_seq_length = min(max_tokens, most_tokens(transformer_of(model).auto_model) or max_tokens)
    return model


def build_multi_vector(
    base: str, layers: int | None, width: int | None, query: int, passage: int, seed: int
) -> MultiVectorEncoder:
    """Build a late-interaction model to be trained: any encoder's first layers, or one of its own kind, kept as it is.

    Token vectors are compared by their cosines, after a random projection to ``width`` unless that is None. The
    longest query has ``query`` tokens, the longest passage ``passage``.
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
        own = transformer.get_embedding_dimension()
        modules.append(_random_dense(seed, own, width, bias=False, module_input_name="token_embeddings"))
    modules += [MultiVectorMask(), Normalize(module_input_name="token_embeddings")]
    own = _prompts_of(source)
    prompts = {side: prompt for side in ("query", "document") if (prompt := own.get(side))}
    with quiet():
        return MultiVectorEncoder(modules=modules, device="cpu", prompts=prompts or None)


def _random_dense(seed: int, width: int, out: int, **options: Any) -> Dense:
    """Return a linear layer whose weights the seed alone decides."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Dense(width, out, activation_function=nn.Identity(), **options)


def head_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Return the parameters of a cross-encoder's scoring head (they may learn faster than the body)."""
    return [
        parameter
        for name, module in model.named_modules()
        if isinstance(module, Dense) or name.endswith("classifier")
        for parameter in module.parameters()
    ]


def word_tables(module: nn.Module) -> list[Tensor]:
    """Return the tables of word embeddings in ``module``; an architecture that does not name them is refused."""
    models = [part for part in module.modules() if isinstance(part, PreTrainedModel)]
    try:
        tables = [cast("Tensor", model.get_input_embeddings().weight) for model in models]
        return list({id(table): table for table in tables}.values())  # a model with a head holds one without
    except (NotImplementedError, AttributeError) as error:
        raise RecipeError(
            f"freeze_words: where {type(models[0]).__name__} keeps its word embeddings is not known ({error}). Leave "
            "`freeze_words` out."
        ) from error
