"""Models as graphs of OpenVINO and ONNX Runtime: exported with their own exporters, and kept in the cache.

The back ends of sentence-transformers for both go through optimum, whose releases for them refuse the transformers
that stepwell runs on (optimum-intel 2.2: below 5.6; optimum-onnx 0.1: below 4.58). Here the whole model - transformer,
pooling, head - becomes one graph, and nothing but the engine itself is needed.
"""

import contextlib
import importlib
import importlib.metadata
import io
import os
import sys
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from stepwell import files
from stepwell.errors import RunError
from stepwell.models.opening import quiet
from stepwell.models.tokens import Features

PACKAGES = {"openvino": ("openvino",), "onnx": ("onnx", "onnxruntime"), "int8": ("openvino", "nncf")}
"""What the extras of stepwell bring besides torch: one for each engine, and OpenVINO's for int8."""

GRAPHS_KEPT = 16
"""Exported graphs that stay in the cache: those used last."""

UNTRACEABLE = ((5, 4), (5, 10))
"""Releases of transformers, the last one left out, whose attention masks no tracer gets through."""

AXES = ("batch", "tokens")
"""Names of the axes that vary."""

Run = Callable[[Features], Tensor]
_Loaded = TypeVar("_Loaded")


@dataclass(frozen=True)
class Source:
    """What a graph is made from."""

    apply: Callable[[Features], Tensor | tuple[Tensor, ...]]  # the model, features to outputs (B, ...)
    model: nn.Module  # holds its weights
    samples: Sequence[Features]  # batches of real texts: the last one is traced, int8 is calibrated on all of them
    name: str  # of model and task in the cache: the same name is the same graph, for good
    # Names of what `apply` gives, and how many axes of each vary: 1 for (B, D), 2 for (B, L, D). The first is a run's.
    outputs: Mapping[str, int] = field(default_factory=lambda: {"output": 1})

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

    def forward(self, *tensors: Tensor) -> Tensor | tuple[Tensor, ...]:
        return self.source.apply(dict(zip(self.names, tensors, strict=True)))


def openvino() -> Any:
    """Import OpenVINO without the package that reports its use to its makers."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    return importlib.import_module("openvino")


def version_of(package: str) -> str:
    """Return the version of an importable package, also where it was installed by another name (onnxruntime-gpu)."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        names = set(importlib.metadata.packages_distributions().get(package, []))
        return "-".join(f"{name}-{importlib.metadata.version(name)}" for name in sorted(names)) or "unknown"


def untraceable() -> str | None:
    """Return why no model becomes a graph with the transformers that is installed, or None when it does."""
    version = importlib.metadata.version("transformers")
    first, last = UNTRACEABLE
    if not first <= tuple(map(int, version.split(".")[:2])) < last:
        return None
    known = [".".join(map(str, border)) for border in UNTRACEABLE]
    return f"transformers {version} can't be traced: install one from {known[1]} on, or below {known[0]}"


def open_graph(source: Source, engine: str, number: str) -> Run:
    """Open a model in an engine on the CPU, by a graph from the cache; bf16 runs the graph of fp32."""
    return from_cache(
        source,
        engine,
        "int8" if number == "int8" else "fp32",
        "graph.onnx" if engine == "onnx" else "graph.xml",
        lambda path: write_graph(source, path, number == "int8"),
        lambda path: load_graph(path, list(source.example), number),
    )


def write_graph(source: Source, path: Path, int8: bool = False) -> None:
    """Write a model as a graph of ONNX (.onnx), or of OpenVINO (.xml) with its weights beside it."""
    if reason := untraceable():
        raise RunError(f"no graph of the model can be made: {reason}.")
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracers warn of every branch that they take
        if path.suffix == ".onnx":
            _write_onnx(source, path)
        else:
            _write_openvino(source, path, int8)


def load_graph(path: Path, names: Sequence[str], number: str) -> Run:
    """Load a graph on the CPU: features, given in the order of ``names``, to its first output."""
    return _load_onnx(path) if path.suffix == ".onnx" else _load_openvino(path, names, number)


def _write_openvino(source: Source, path: Path, int8: bool) -> None:
    ov = openvino()
    graph = ov.convert_model(_Positional(source), example_input=tuple(source.example.values()))
    for places, names in ((graph.inputs, source.example), (graph.outputs, source.outputs)):
        for place, name in zip(places, names, strict=True):
            place.get_tensor().set_names({name})
    ov.save_model(_quantise(graph, source) if int8 else graph, path, compress_to_fp16=False)


class Streams:
    """A graph of OpenVINO on the CPU, its threads shared out to streams that each run a batch of their own.

    Two threads that run a batch each wait for one another less often than two that share every product.
    """

    def __init__(self, compiled: Any, names: Sequence[str]) -> None:
        self.names = names  # of its inputs, in their order
        wanted = int(compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))
        # One more than run at once, so that a stream has its next batch while the results of the last are taken.
        self.requests = [compiled.create_infer_request() for _ in range(wanted + 1)]

    def __call__(self, features: Features) -> Tensor:
        """Run one batch."""
        return next(self.each([features]))

    def each(self, batches: Iterable[Features]) -> Iterator[Tensor]:
        """Run batches side by side; yield the outputs in their order."""
        idle = list(self.requests)
        running: deque[tuple[Any, list[Any]]] = deque()
        try:
            for features in batches:
                if not idle:
                    yield self._finish(running, idle)
                arrays = [features[name].numpy() for name in self.names]
                idle[-1].start_async(arrays, share_inputs=True)
                running.append((idle.pop(), arrays))  # the arrays are read until the end
            while running:
                yield self._finish(running, idle)
        finally:  # of one that was not asked to the end too
            for request, _ in running:
                request.wait()

    def _finish(self, running: deque[tuple[Any, list[Any]]], idle: list[Any]) -> Tensor:
        request, _ = running.popleft()
        request.wait()
        out = torch.from_numpy(request.get_output_tensor(0).data.copy())
        idle.append(request)
        return out


def _load_openvino(path: Path, names: Sequence[str], number: str) -> Streams:
    settings = {
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "INFERENCE_PRECISION_HINT": "bf16" if number == "bf16" else "f32",
        "PERFORMANCE_HINT": "THROUGHPUT",
        "ENABLE_CPU_PINNING": False,  # the processes of a machine would all be pinned to the same cores
    }
    return Streams(openvino().Core().compile_model(path, "CPU", settings), names)


def _quantise(graph: Any, source: Source) -> Any:
    nncf = importlib.import_module("nncf")
    data = nncf.Dataset(source.samples, lambda features: [tensor.numpy() for tensor in features.values()])
    with contextlib.redirect_stdout(io.StringIO()):  # its progress bars
        return nncf.quantize(graph, data, model_type=nncf.ModelType.TRANSFORMER, subset_size=len(source.samples))


def _write_onnx(source: Source, path: Path) -> None:
    axes = {name: dict(enumerate(AXES)) for name in source.example}
    axes |= {name: dict(enumerate(AXES[:varying])) for name, varying in source.outputs.items()}
    # The exporter over torch.export takes six times as long, needs onnxscript, and its graphs run slower.
    torch.onnx.export(
        _Positional(source),
        tuple(source.example.values()),
        str(path),
        input_names=list(source.example),
        output_names=list(source.outputs),
        dynamic_axes=axes,
        opset_version=17,
        dynamo=False,
    )


def _load_onnx(path: Path) -> Run:
    ort = importlib.import_module("onnxruntime")
    options = ort.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [place.name for place in session.get_inputs()]  # an input that the model ignores is not in the graph
    output = session.get_outputs()[0].name

    def run(features: Features) -> Tensor:
        return torch.from_numpy(session.run([output], {name: features[name].numpy() for name in names})[0])

    return run


def from_cache(
    source: Source, engine: str, number: str, file: str, export: Callable[[Path], None], load: Callable[[Path], _Loaded]
) -> _Loaded:
    """Load the graph of a model from a file, which is exported when the cache has none or a damaged one."""
    versions = "-".join(version_of(package) for package in ("torch", *PACKAGES[engine]))
    root = files.cache() / "graphs"

    def make(folder: Path) -> None:
        folder.mkdir()
        export(folder / file)
        graphs = sorted((path for path in root.iterdir() if path.is_dir()), key=lambda path: path.stat().st_mtime)
        for oldest in graphs[:-GRAPHS_KEPT]:
            files.remove(oldest)

    def read(folder: Path) -> _Loaded | None:
        try:
            os.utime(folder)  # it was used
            return load(folder / file)
        except Exception:  # it is not there; or engines raise what they like for a damaged graph
            return None

    folder = root / f"{source.name}-{engine}-{number}-{versions}"
    found = files.read_or_make(folder, read, make)
    return load(folder / file) if found is None else found  # or raises what is wrong with a new one
