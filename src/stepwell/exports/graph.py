"""One graph from token ids to the final vector, as a file of ONNX or OpenVINO, in fp32 or int8."""

import importlib
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
from torch import Tensor, nn

from stepwell.errors import RunError
from stepwell.models.encoder import Encoder
from stepwell.models.engines import graphs
from stepwell.models.engines.backends import Runner
from stepwell.models.opening import routers_of
from stepwell.models.preparation import Bags
from stepwell.models.tokens import Features, Side

OUTPUTS = {"sentence_embedding": 1, "last_hidden_state": 2}
"""The vectors (B, D); and what sentence-transformers pools itself, (B, L, H)."""

BATCH = 8
"""Texts of a batch that int8 is calibrated on."""


@dataclass(frozen=True)
class Kind:
    """A kind of graph; ``file`` is where sentence-transformers looks for it."""

    engine: str
    number: str
    file: str

    @property
    def way(self) -> str:
        """Engine and number type, as the ways of inference are named."""
        return f"{self.engine}-{self.number}"


ONNX = Kind("onnx", "fp32", "onnx/model.onnx")
ONNX_INT8 = Kind("onnx", "int8", "onnx/model_int8.onnx")
OPENVINO = Kind("openvino", "fp32", "openvino/openvino_model.xml")
OPENVINO_INT8 = Kind("openvino", "int8", "openvino/openvino_model_int8.xml")
OPENVINO_BF16 = Kind("openvino", "bf16", OPENVINO.file)  # runs the fp32 graph
KINDS = (ONNX, ONNX_INT8, OPENVINO, OPENVINO_INT8)


def check_towers(encoder: Encoder) -> None:
    """Refuse a model that no single graph can hold: two towers, or prompts that are left out of the pooling."""
    if any("prompt_length" in facts for facts in encoder.preparation.more.values()):
        raise RunError(
            "this model leaves its prompts out of the pooling (`include_prompt` is false), and a graph can't be told "
            "where a prompt ends: its vectors would be others. Export it with --to safetensors."
        )
    if isinstance(encoder.template, Bags):
        raise RunError("a static model is a table of words, which needs no graph: export it with --to safetensors.")
    if routers_of(encoder.model):
        raise RunError(
            "this model has two towers, one for queries and one for passages, and a graph is one: no program that "
            "loads a single graph would know which to take. Export it with --to safetensors, which "
            "sentence-transformers loads with both."
        )


def source_of(encoder: Encoder, texts: tuple[list[str], list[str]]) -> graphs.Source:
    """Return what a graph of the whole model is made from: transformer, pooling, head and normalisation.

    Queries and passages are padded batches to calibrate with; the last one, of passages, is traced.
    """

    def apply(features: Features) -> tuple[Tensor, Tensor]:
        out = encoder.model({**features, **encoder.preparation.more["document"]})
        vectors: Tensor = out["sentence_embedding"][:, : encoder.width]
        return nn.functional.normalize(vectors, dim=1) if encoder.cosine else vectors, out["token_embeddings"]

    encoder.model.eval()
    batches = []
    for side, part in zip(get_args(Side), texts, strict=True):
        tokens = encoder.tokenise(part, side)
        for start in range(0, len(part), BATCH):
            rows = np.arange(start, min(start + BATCH, len(part)))
            batches.append(encoder.template.texts(tokens, rows, encoder.limit))
    return graphs.Source(apply, encoder.model, batches, "", OUTPUTS)


def graph_runner(encoder: Encoder, kind: Kind, source: graphs.Source, folder: Path) -> Runner:
    """Return a graph as a way of running the encoder; written into its place in a folder unless it is there."""
    path = folder / kind.file
    if not path.is_file():
        write_graph(source, kind, folder)
    return Runner(kind.way, encoder.inference.net, graphs.load_graph(path, list(source.example), kind.number))


def write_graph(source: graphs.Source, kind: Kind, folder: Path) -> None:
    """Write a graph into its place in a folder; for int8 of ONNX also the fp32 graph, which it is made from."""
    path = folder / kind.file
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind != ONNX_INT8:
        graphs.write_graph(source, path, kind.number == "int8")
        return
    if not (folder / ONNX.file).is_file():
        write_graph(source, ONNX, folder)
    _quantise_onnx(folder / ONNX.file, path)


def _quantise_onnx(source: Path, target: Path) -> None:
    """Write an int8 copy of an ONNX graph: weights with a scale a channel, activations scaled as they come.

    Activations get their scales at run time, text by text, so nothing is calibrated. Scales that are fixed beforehand
    (static quantisation) were tried with calibration texts: on a two-layer student they were neither as close to fp32
    nor as fast. Weights are unsigned, since on x86 without VNNI the product of unsigned and signed bytes saturates.
    """
    quantization = importlib.import_module("onnxruntime.quantization")
    log = logging.getLogger()
    level = log.level
    log.setLevel(logging.ERROR)  # it suggests a pre-processing that is for pictures
    try:
        quantization.quantize_dynamic(source, target, per_channel=True, weight_type=quantization.QuantType.QUInt8)
    finally:
        log.setLevel(level)


def size_of(kind: Kind, folder: Path) -> int:
    """Return the bytes of a graph in a folder, with the weights that lie beside it."""
    path = folder / kind.file
    return sum(part.stat().st_size for part in path.parent.glob(f"{path.stem}.*"))
