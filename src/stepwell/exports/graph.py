"""One graph from token ids to the final vector, as a file of ONNX or OpenVINO, in fp32 or int8."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sentence_transformers.base.modules import Router
from torch import Tensor, nn

from stepwell.errors import RunError
from stepwell.exports.quantise import quantise_onnx
from stepwell.models.encoder import Encoder
from stepwell.models.engines.graphs import Run, Source, load_onnx, load_openvino, write_onnx, write_openvino
from stepwell.models.opening import quiet
from stepwell.models.tokens import Features

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
KINDS = (ONNX, ONNX_INT8, OPENVINO, OPENVINO_INT8)


def batches_of(encoder: Encoder, queries: Sequence[str], passages: Sequence[str]) -> list[Features]:
    """Return texts as padded batches, to trace, to compare and to calibrate with; the last one are passages."""
    batches = []
    for side, texts in (("query", queries), ("document", passages)):
        tokens = encoder.tokenise(texts, "query" if side == "query" else "document")
        for start in range(0, len(texts), BATCH):
            rows = np.arange(start, min(start + BATCH, len(texts)))
            batches.append(encoder.template.texts(tokens, rows, encoder.limit))
    return batches


def check_towers(encoder: Encoder) -> None:
    """Refuse a model that no single graph can hold."""
    if encoder.unpooled:
        raise RunError(
            "this model leaves its prompts out of the pooling (`include_prompt` is false), and a graph can't be told "
            "where a prompt ends: its vectors would be others. Export it with --to safetensors."
        )
    if any(isinstance(module, Router) for module in encoder.model.modules()):
        raise RunError(
            "this model has two towers, one for queries and one for passages, and a graph is one: no program that "
            "loads a single graph would know which to take. Export it with --to safetensors, which "
            "sentence-transformers loads with both."
        )


def source_of(encoder: Encoder, batches: Sequence[Features]) -> Source:
    """Return what a graph of the whole model is made from: transformer, pooling, head and normalisation."""

    def apply(features: Features) -> tuple[Tensor, Tensor]:
        out = encoder.model(dict(features))
        vectors: Tensor = out["sentence_embedding"]
        return nn.functional.normalize(vectors, dim=1) if encoder.cosine else vectors, out["token_embeddings"]

    encoder.model.eval()
    return Source(apply, encoder.model, batches, "", OUTPUTS)


def write_graph(source: Source, kind: Kind, folder: Path) -> Path:
    """Write a graph into its place in a folder; for int8 of ONNX also the fp32 graph, which it is made from."""
    path = folder / kind.file
    path.parent.mkdir(parents=True, exist_ok=True)
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracers warn of every branch that they take
        if kind.engine == "openvino":
            write_openvino(source, path, kind.number == "int8")
        elif kind.number == "int8":
            if not (folder / ONNX.file).is_file():
                write_graph(source, ONNX, folder)
            quantise_onnx(folder / ONNX.file, path)
        else:
            write_onnx(source, path)
    return path


def load_graph(path: Path, kind: Kind, source: Source) -> Run:
    """Load a graph that was written: features to vectors (B, D)."""
    return load_onnx(path) if kind.engine == "onnx" else load_openvino(path, list(source.example), kind.number)


def size_of(path: Path) -> int:
    """Return the bytes of a graph, with the weights that lie beside it."""
    return sum(part.stat().st_size for part in path.parent.glob(f"{path.stem}.*"))
