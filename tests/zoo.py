"""A zoo of tiny random models, one of each architecture and head that people bring, for the tests of models."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import CrossEncoder, SentenceTransformer
from sentence_transformers.base.modules import Dense, Normalize, Router, Transformer
from sentence_transformers.cross_encoder.modules import LogitScore
from sentence_transformers.sentence_transformer.modules import LayerNorm, Pooling, StaticEmbedding
from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.processors import TemplateProcessing
from transformers import (
    AlbertConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    BertConfig,
    DebertaV2Config,
    DistilBertConfig,
    ElectraConfig,
    EuroBertConfig,
    Gemma3TextConfig,
    LlamaConfig,
    ModernBertConfig,
    MPNetConfig,
    NomicBertConfig,
    PreTrainedTokenizerFast,
    Qwen3Config,
    RobertaConfig,
    T5Config,
    XLMRobertaConfig,
)

WIDTH, LAYERS, LIMIT = 32, 3, 96

TEMPLATES = {
    "bert": ("[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1"),
    "roberta": ("<s> $A </s>", "<s> $A </s> </s> $B </s>"),
    "t5": ("$A </s>", "$A </s> $B </s>"),
    "llama": ("<s> $A", "<s> $A <s> $B"),
    "gemma": ("<s> $A </s>", "<s> $A </s> $B </s>"),
    "qwen": ("$A <|endoftext|>", "$A $B <|endoftext|>"),
    "plain": ("$A", "$A $B"),
}
"""What a tokenizer of a family puts around one text and two."""

SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "<s>", "</s>", "<|endoftext|>", "<|im_start|>", "<|im_end|>"]

DEEP = {"num_hidden_layers": LAYERS, "hidden_size": WIDTH, "intermediate_size": 64, "num_attention_heads": 4}
CAUSAL = {**DEEP, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 256}
MPNET = {"max_position_embeddings": 100, "initializer_range": 0.2, "pad_token_id": 0}

ARCHITECTURES: dict[str, tuple[str, Callable[[int], Any]]] = {
    "bert": ("bert", lambda n: BertConfig(vocab_size=n, **DEEP, max_position_embeddings=100, initializer_range=0.2)),
    "roberta": ("roberta", lambda n: RobertaConfig(vocab_size=n, **DEEP, **MPNET, type_vocab_size=1)),
    "xlm-roberta": ("roberta", lambda n: XLMRobertaConfig(vocab_size=n, **DEEP, **MPNET, type_vocab_size=1)),
    "mpnet": ("roberta", lambda n: MPNetConfig(vocab_size=n, **DEEP, **MPNET)),
    "distilbert": (
        "bert",
        lambda n: DistilBertConfig(vocab_size=n, dim=WIDTH, hidden_dim=64, n_layers=LAYERS, n_heads=4),
    ),
    "albert": ("bert", lambda n: AlbertConfig(vocab_size=n, **DEEP, embedding_size=16, initializer_range=0.2)),
    "electra": ("bert", lambda n: ElectraConfig(vocab_size=n, **DEEP, embedding_size=16, initializer_range=0.2)),
    "deberta-v2": (
        "bert",
        lambda n: DebertaV2Config(
            vocab_size=n,
            **DEEP,
            relative_attention=True,
            position_buckets=16,
            pos_att_type=["p2c", "c2p"],
            position_biased_input=False,
            type_vocab_size=0,
            norm_rel_ebd="layer_norm",
            share_att_key=True,
            initializer_range=0.2,
        ),
    ),
    "modernbert": (
        "bert",
        lambda n: ModernBertConfig(
            vocab_size=n,
            **DEEP,
            global_attn_every_n_layers=2,
            local_attention=16,
            max_position_embeddings=256,
            pad_token_id=0,
            cls_token_id=2,
            sep_token_id=3,
            bos_token_id=2,
            eos_token_id=3,
            initializer_range=0.2,
        ),
    ),
    "t5": ("t5", lambda n: T5Config(vocab_size=n, d_model=WIDTH, d_ff=64, d_kv=8, num_layers=LAYERS, num_heads=4)),
    "nomic-bert": ("bert", lambda n: NomicBertConfig(vocab_size=n, **DEEP, head_dim=8, max_position_embeddings=256)),
    "eurobert": ("llama", lambda n: EuroBertConfig(vocab_size=n, **CAUSAL, initializer_range=0.2)),
    "qwen3": ("qwen", lambda n: Qwen3Config(vocab_size=n, **CAUSAL, initializer_range=0.2)),
    "gemma3": (
        "gemma",
        lambda n: Gemma3TextConfig(
            vocab_size=n,
            **CAUSAL,
            sliding_window=16,
            layer_types=["sliding_attention"] * 2 + ["full_attention"],
            query_pre_attn_scalar=8,
            initializer_range=0.2,
            use_bidirectional_attention=True,
        ),
    ),
    "llama": ("llama", lambda n: LlamaConfig(vocab_size=n, **CAUSAL, initializer_range=0.2)),
}
"""Family of tokenizer and configuration of each architecture, by its name."""

CHAT = (
    "{% for message in messages %}{% if message['role'] == 'system' %}<|im_start|>Instruct: {{ message['content'] }}\n"
    "{% else %}<{{ message['role'] }}> {{ message['content'] }}\n{% endif %}{% endfor %}<|im_end|>answer:"
)
"""A chat template in the manner of Qwen3-Reranker: an instruction, a query, a document, and the answer's beginning."""


def tokenizer_of(family: str, vocabulary: int | None = None, chat: str | None = None) -> PreTrainedTokenizerFast:
    """Return a byte-level tokenizer with some words; ``vocabulary`` fills it up with words that no text has."""
    pieces = [*SPECIALS, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    merges = [("t", "h"), ("th", "e"), ("Ġ", "the"), ("e", "r"), ("i", "n"), ("Ġ", "w"), ("yes", ""), ("a", "n")]
    merges = [pair for pair in merges if pair[1]]
    pieces += [first + second for first, second in merges] + ["yes", "no"]
    pieces += [f"<filler {number}>" for number in range(max(0, (vocabulary or 0) - len(pieces)))]
    vocab = {piece: number for number, piece in enumerate(pieces)}
    core = Tokenizer(BPE(vocab, merges))
    if family in ("t5", "roberta", "gemma"):  # as SentencePiece: a blank before the first word
        core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    else:
        core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if family == "bert":
        core.normalizer = normalizers.Lowercase()
    core.decoder = decoders.ByteLevel()
    single, pair = TEMPLATES[family]
    core.post_processor = TemplateProcessing(single=single, pair=pair, special_tokens=[(s, vocab[s]) for s in SPECIALS])
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "mask_token": "[MASK]"}
    if family == "bert":
        names |= {"cls_token": "[CLS]", "sep_token": "[SEP]"}
    elif family == "qwen":
        names |= {"eos_token": "<|endoftext|>"}
    else:
        names |= {"bos_token": "<s>", "eos_token": "</s>"}
    side = "left" if family == "qwen" else "right"
    inputs = ["input_ids", "token_type_ids", "attention_mask"] if family == "bert" else ["input_ids", "attention_mask"]
    found = PreTrainedTokenizerFast(
        tokenizer_object=core, **names, padding_side=side, model_max_length=LIMIT, model_input_names=inputs
    )
    if chat:
        found.chat_template = chat
    return found


def body_of(
    architecture: str, folder: Path, auto: Any = AutoModel, dtype: torch.dtype = torch.float32, **options: Any
) -> Path:
    """Write a random transformers model and its tokenizer."""
    chat, vocabulary, seed = options.pop("chat", None), options.pop("vocabulary", None), options.pop("seed", 5)
    family, config_of = ARCHITECTURES[architecture]
    tokenizer = tokenizer_of(options.pop("family", family), vocabulary, chat)
    if architecture == "distilbert" or auto is not AutoModel:
        pass
    config = config_of(len(tokenizer))
    config.pad_token_id = tokenizer.pad_token_id
    for name, value in options.items():
        setattr(config, name, value)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if architecture == "t5" and auto is AutoModel:
            from transformers import T5EncoderModel

            body = T5EncoderModel(config)
        else:
            body = auto.from_config(config)
        for parameter in body.parameters():  # so that no two texts come out alike
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.2)
    body.to(dtype).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def encoder(
    architecture: str,
    folder: Path,
    pooling: str = "mean",
    heads: tuple[str, ...] = (),
    dtype: torch.dtype = torch.float32,
    include_prompt: bool = True,
    router: bool = False,
    **options: Any,
) -> Path:
    """Write a random SentenceTransformer; ``options`` are its own (prompts, similarity_fn_name, truncate_dim)."""
    shape = {key: options.pop(key) for key in ("chat", "vocabulary", "seed", "family") if key in options}

    def tower(name: str) -> list[Any]:
        body = Transformer(str(body_of(architecture, folder / name, dtype=dtype, **shape)))
        modules: list[Any] = [body, Pooling(WIDTH, pooling, include_prompt=include_prompt)]
        width = WIDTH
        for head in heads:
            if head == "dense":
                modules.append(Dense(width, 16))
                width = 16
            else:
                modules.append(LayerNorm(width) if head == "layernorm" else Normalize())
        return modules

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        modules = [Router.for_query_document(tower("a"), tower("b"))] if router else tower("a")
    model = SentenceTransformer(modules=modules, device="cpu", **options)
    model.save_pretrained(str(folder / "model"), create_model_card=False)
    return folder / "model"


def classifier(architecture: str, folder: Path, **options: Any) -> Path:
    """Write a random re-ranker: a model for sequence classification with one score."""
    own = {key: options.pop(key) for key in ("prompts", "default_prompt_name") if key in options}
    body = body_of(architecture, folder / "body", AutoModelForSequenceClassification, num_labels=1, **options)
    model = CrossEncoder(str(body), device="cpu", **own)
    model.save_pretrained(str(folder / "model"), create_model_card=False)
    return folder / "model"


def modular(architecture: str, folder: Path, **options: Any) -> Path:
    """Write a random re-ranker of modules: transformer, pooling, a linear score."""
    body = Transformer(str(body_of(architecture, folder / "body", **options)))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        head = Dense(WIDTH, 1, module_input_name="sentence_embedding", module_output_name="scores")
    CrossEncoder(modules=[body, Pooling(WIDTH, "mean"), head], device="cpu").save_pretrained(
        str(folder / "model"), create_model_card=False
    )
    return folder / "model"


def generative(architecture: str, folder: Path, **options: Any) -> Path:
    """Write a random re-ranker that answers yes or no: a language model and LogitScore."""
    own = {key: options.pop(key) for key in ("prompts", "default_prompt_name") if key in options}
    body = body_of(architecture, folder / "body", AutoModelForCausalLM, family="qwen", **options)
    transformer = Transformer(str(body), transformer_task="text-generation")
    ids = transformer.tokenizer.convert_tokens_to_ids
    model = CrossEncoder(modules=[transformer, LogitScore(ids("yes"), ids("no"))], device="cpu", **own)
    model.save_pretrained(str(folder / "model"), create_model_card=False)
    return folder / "model"


def static(folder: Path, **options: Any) -> Path:
    """Write a random static model: a table of word vectors, and a mean."""
    family = options.pop("family", "bert")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        table = StaticEmbedding(tokenizer_of(family), embedding_dim=WIDTH)
    model = SentenceTransformer(modules=[table], device="cpu", **options)
    model.save_pretrained(str(folder / "model"), create_model_card=False)
    return folder / "model"
