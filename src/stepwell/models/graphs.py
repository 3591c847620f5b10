"""Models as graphs of OpenVINO and ONNX Runtime: exported with their own exporters, and kept in the cache.

The back ends of sentence-transformers for both go through optimum, whose releases for them refuse the transformers
that stepwell runs on (optimum-intel 2.2: below 5.6; optimum-onnx 0.1: below 4.58). Here the whole model - transformer,
pooling, head - becomes one graph, and nothing but the engine itself is needed.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import io
import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from filelock import FileLock
from torch import Tensor, nn

from stepwell.collection.store import default_cache
from stepwell.models.build import quiet
from stepwell.models.tokens import Features

PACKAGES = {"openvino": ("openvino",), "onnx": ("onnx", "onnxruntime"), "int8": ("openvino", "nncf")}
"""What an engine or a number type needs besides torch; the extras of stepwell have the same names."""

GRAPHS_KEPT = 16
"""Exported graphs that stay in the cache: those used last."""

Run = Callable[[Features], Tensor]
_Loaded = TypeVar("_Loaded")


@dataclass(frozen=True)
class Source:
    """What a graph is made from.

    Parameters
    ----------
    apply
        The model, features to outputs (B, ...).
    model
        Holds its weights.
    samples
        Batches of real texts; the last one is traced.
    name
        Names model and task in the cache: the same name is the same graph, for good.
    """

    apply: Run
    model: nn.Module
    samples: Sequence[Features]
    name: str

    @property
    def example(self) -> Features:
        """The batch to trace."""
        return self.samples[-1]


class _Positional(nn.Module):
    """A model with one tensor an argument, as exporters want it."""

    def __init__(self, source: Source) -> None:
        super().__init__()
        self.model = source.model  # so that the exporter finds the weights
        self.source, self.names = source, list(source.example)

    def forward(self, *tensors: Tensor) -> Tensor:
        return self.source.apply(dict(zip(self.names, tensors, strict=True)))


def openvino() -> Any:
    """Import OpenVINO without the package that reports its use to its makers."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    return importlib.import_module("openvino")


def open_openvino(source: Source, number: str) -> Run:
    """Open a model in OpenVINO on the CPU, in ``fp32``, ``bf16`` or ``int8``."""
    ov, names = openvino(), list(source.example)
    settings = {
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "INFERENCE_PRECISION_HINT": "bf16" if number == "bf16" else "f32",
        "PERFORMANCE_HINT": "LATENCY",
        "ENABLE_CPU_PINNING": False,  # the processes of a machine would all be pinned to the same cores
    }

    def export(path: Path) -> None:
        graph = ov.convert_model(_Positional(source), example_input=tuple(source.example.values()))
        ov.save_model(_quantise(graph, source) if number == "int8" else graph, path, compress_to_fp16=False)

    def load(path: Path) -> Any:
        return ov.Core().compile_model(path, "CPU", settings)

    compiled = from_cache(source, "openvino", "int8" if number == "int8" else "fp32", "graph.xml", export, load)

    def run(features: Features) -> Tensor:
        return torch.from_numpy(compiled([features[name].numpy() for name in names], share_inputs=True)[0])

    return run


def _quantise(graph: Any, source: Source) -> Any:
    nncf = importlib.import_module("nncf")
    data = nncf.Dataset(source.samples, lambda features: [tensor.numpy() for tensor in features.values()])
    with contextlib.redirect_stdout(io.StringIO()):  # its progress bars
        return nncf.quantize(graph, data, model_type=nncf.ModelType.TRANSFORMER, subset_size=len(source.samples))


def open_onnx(source: Source) -> Run:
    """Open a model in ONNX Runtime on the CPU, in fp32."""
    ort, example = importlib.import_module("onnxruntime"), source.example
    options = ort.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors

    def export(path: Path) -> None:
        # The exporter over torch.export takes six times as long, needs onnxscript, and its graphs run slower.
        torch.onnx.export(
            _Positional(source),
            tuple(example.values()),
            str(path),
            input_names=list(example),
            output_names=["output"],
            dynamic_axes={name: {0: "batch", 1: "tokens"} for name in example} | {"output": {0: "batch"}},
            opset_version=17,
            dynamo=False,
        )

    def load(path: Path) -> Any:
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    session = from_cache(source, "onnx", "fp32", "graph.onnx", export, load)
    names = [place.name for place in session.get_inputs()]  # an input that the model ignores is not in the graph

    def run(features: Features) -> Tensor:
        return torch.from_numpy(session.run(None, {name: features[name].numpy() for name in names})[0])

    return run


def from_cache(
    source: Source,
    engine: str,
    number: str,
    file: str,
    export: Callable[[Path], None],
    load: Callable[[Path], _Loaded],
) -> _Loaded:
    """Load the graph of a model, exporting it when the cache has none or a damaged one.

    Parameters
    ----------
    source
        Its name is the graph's.
    engine, number
        What the graph is for.
    file
        Its file in its folder.
    export
        Writes the graph to a path, and what else it needs beside it.
    load
        Loads what ``export`` wrote.
    """
    versions = "-".join(importlib.metadata.version(package) for package in ("torch", *PACKAGES[engine]))
    folder = default_cache() / "graphs" / f"{source.name}-{engine}-{number}-{versions}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if folder.exists():
            try:
                os.utime(folder)
                return load(folder / file)
            except Exception:  # engines raise what they like for a damaged graph
                shutil.rmtree(folder, ignore_errors=True)
        draft = Path(tempfile.mkdtemp(dir=folder.parent, prefix="draft-"))
        try:
            with quiet(), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # tracers warn of every branch that they take
                export(draft / file)
            draft.replace(folder)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        _drop_oldest(folder.parent)
        return load(folder / file)


def _drop_oldest(root: Path) -> None:
    graphs = sorted((path for path in root.iterdir() if path.is_dir()), key=lambda path: path.stat().st_mtime)
    for folder in graphs[:-GRAPHS_KEPT]:
        shutil.rmtree(folder, ignore_errors=True)
