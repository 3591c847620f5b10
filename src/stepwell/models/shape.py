"""What a base model's files say of its size: layers, width, operations a token; its weights stay where they are."""

from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from sentence_transformers.base.modules import Dense
from sentence_transformers.sentence_transformer.modules import Pooling, StaticEmbedding
from transformers import AutoConfig

from stepwell.models.build import build_student, takes_whole
from stepwell.models.engines.flops import layer_products
from stepwell.models.files import facts_of, locate, modules_of
from stepwell.models.opening import open_sentence_transformer, opening, transformer_of
from stepwell.recipe import StudentSection
from stepwell.recipe.teachers import DualEncoderTeacher


def config_of(base: str) -> Any:
    """Return the transformers configuration of a base model without loading its weights where possible."""
    place = Path(locate(base))
    for folder in (place, place / "0_Transformer"):
        if (folder / "config.json").is_file():
            with opening(base, "a model"):
                return AutoConfig.from_pretrained(str(folder)).get_text_config()
    model = open_sentence_transformer(base)
    if isinstance(model[0], StaticEmbedding):  # a table of words, and no layers
        words, width = model[0].embedding.weight.shape
        return SimpleNamespace(hidden_size=width, num_hidden_layers=0, vocab_size=words, intermediate_size=0)
    return transformer_of(model).auto_model.config


@lru_cache(maxsize=16)
def depth_of(base: str) -> int:
    """Return how many layers a base model has."""
    return int(config_of(base).num_hidden_layers)


def vector_width(section: StudentSection | DualEncoderTeacher) -> int:
    """Return the width D of the vectors of a student or dual-encoder teacher, by its base's files where they say it.

    Behind a head it is that of the last Dense layer, else that of the transformer, once for each way of pooling.
    """
    base, place = section.base, locate(section.base)
    whole = takes_whole(section.layers, section.pooling, section.similarity)
    width = hidden = int(config_of(base).hidden_size)
    with opening(base, "encoder"):
        for kind, folder in modules_of(base):
            match kind:
                case "Pooling":
                    own = Pooling.load(place, subfolder=folder)
                    if section.pooling not in (None, own.pooling_mode):
                        # The head was trained for the other pooling, and goes with it.
                        return min(hidden, section.dimensions or hidden)
                    width = own.pooling_output_dimension
                case "Dense":
                    width = int(Dense.load_config(place, subfolder=folder)["out_features"])
                case "Transformer" | "StaticEmbedding" | "Normalize" | "LayerNorm" | "Dropout":
                    pass
                case _ if whole:  # another kind of module stays: only the model knows
                    said = section.prompts, section.dimensions
                    built = build_student(base, None, "first", None, None, 1, 8, *said)
                    return int(built.get_embedding_dimension() or 0)
    cut = section.dimensions or facts_of(base, "config_sentence_transformers.json").get("truncate_dim")
    return min(width, cut or width)


def operations_a_token(base: str, layers: int | None) -> float:
    """Return the operations of a forward pass per token: two per weight of the layers' matrices."""
    config = config_of(base)
    count = config.num_hidden_layers if layers is None else min(layers, config.num_hidden_layers)
    return float(2 * count * sum(k * n for _, k, n in layer_products(config, 1)))
