"""sentence-transformers as its users run it: as it comes, at the best torch setting, on its other back ends."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import machine
import torch
from sentence_transformers import CrossEncoder, SentenceTransformer
from side_by_side import Contender, Skip, timed
from torch import nn

from stepwell import distributed
from stepwell.display import say
from stepwell.models.opening import quiet

BATCHES = (8, 16, 32, 64, 128)
CALIBRATION = 128
"""Texts that an int8 model is calibrated on."""


@dataclass(frozen=True)
class Setting:
    """How torch runs a model: batch size, numbers (fp32, autocast, bf16 weights) and attention; None as it comes."""

    batch: int = 32
    numbers: str = "fp32"
    attention: str | None = None

    def __str__(self) -> str:
        return f"batch {self.batch}, {self.numbers}, attention {self.attention or 'as it comes'}"

    def model_kwargs(self) -> dict[str, Any]:
        """Return what the model is opened with."""
        dtype = torch.bfloat16 if self.numbers == "bf16 weights" else torch.float32
        return {"dtype": dtype} | ({"attn_implementation": self.attention} if self.attention else {})

    def context(self) -> contextlib.AbstractContextManager[Any]:
        """Return the context that the model runs in."""
        if self.numbers != "bf16 autocast":
            return contextlib.nullcontext()
        return torch.autocast(distributed.state().device.type, torch.bfloat16)

    def to_text(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_text(cls, text: str) -> Setting:
        return cls(**json.loads(text))


Do = Callable[[Any], Any]


def best_setting(open_at: Callable[[Setting], Do], inputs: Any, batches: Sequence[int] = BATCHES) -> Setting:
    """Try batch sizes with every kind of numbers that may pay, then the other attentions; return the fastest."""
    kinds = ["fp32", *(["bf16 autocast", "bf16 weights"] if machine.bf16_pays() else [])]
    attentions = ["eager", *(["flash_attention_2"] if importlib.util.find_spec("flash_attn") else [])]
    tried: dict[Setting, float] = {}

    def attempt(setting: Setting) -> None:
        do = open_at(setting)
        do(inputs)
        tried[setting] = min(timed(do, inputs)[0] for _ in range(2))
        say(f"tried {setting}: {tried[setting]:.2f} s")

    for kind in kinds:
        for batch in batches:
            attempt(Setting(batch, kind))
    best = min(tried, key=tried.__getitem__)
    for attention in attentions:
        attempt(replace(best, attention=attention))
    return min(tried, key=tried.__getitem__)


def open_encoder(place: str, limit: int | None, setting: Setting = Setting(), **more: Any) -> SentenceTransformer:
    """Open a model for ``encode``, cut to ``limit`` tokens."""
    with quiet():
        device = str(distributed.state().device)
        model = SentenceTransformer(place, device=device, **{"model_kwargs": setting.model_kwargs(), **more})
    model.max_seq_length = limit or model.max_seq_length
    return model


def open_scorer(place: str, limit: int | None, setting: Setting = Setting(), **more: Any) -> CrossEncoder:
    """Open a model for ``predict``, cut to ``limit`` tokens, as raw logits."""
    with quiet():
        device, identity = str(distributed.state().device), nn.Identity()
        kwargs = {"model_kwargs": setting.model_kwargs(), **more}
        model = CrossEncoder(place, device=device, activation_fn=identity, **kwargs)
    model.max_seq_length = limit or model.max_seq_length
    return model


# -- other back ends -----------------------------------------------------------------------------------------------


def backends(open_at: Callable[..., Any], run: Callable[[Any, int], Do], sample: Sequence[Any]) -> list[Contender]:
    """Return sentence-transformers' other back ends as contenders, fp32 (or bf16 where it pays) and int8.

    Parameters
    ----------
    open_at
        Opens the model with further keyword arguments.
    run
        Makes of a model and a batch size what does the work.
    sample
        Some inputs, for the batch size and to calibrate int8.
    """

    if distributed.state().device.type != "cpu":
        return []

    def contender(name: str, make: Callable[[], Any]) -> Contender:
        def open_it() -> Do:
            model = _or_skip(make)
            best = min(BATCHES, key=lambda batch: timed(run(model, batch), sample)[0])
            return run(model, best)

        return Contender(f"sentence-transformers, {name}", open_it)

    numbers = "bf16" if machine.bf16_pays() else "fp32"
    return [
        contender(f"OpenVINO {numbers}", lambda: _openvino(open_at, numbers)),
        contender("OpenVINO int8", lambda: _openvino_int8(open_at, sample)),
        contender("ONNX fp32", lambda: _onnx(open_at)),
        contender("ONNX int8", lambda: _onnx_int8(open_at)),
    ]


def _or_skip(make: Callable[[], Any]) -> Any:
    try:
        with quiet():
            return make()
    except Skip:
        raise
    except Exception as error:  # what an export can raise is open-ended
        told = " ".join(str(error).partition("(")[0].split())
        raise Skip(f"{type(error).__name__}{'' if '/' in told else f': {told[:120]}'}") from error


def _need(module: str, extra: str) -> None:
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise Skip(f"not installed (sentence-transformers[{extra}])") from error


def _openvino(open_at: Callable[..., Any], numbers: str) -> Any:
    _need("optimum.intel.openvino", "openvino")
    hint = {"INFERENCE_PRECISION_HINT": "bf16" if numbers == "bf16" else "f32"}
    return open_at(backend="openvino", model_kwargs={"export": True, "ov_config": hint})


def _openvino_int8(open_at: Callable[..., Any], sample: Sequence[Any]) -> Any:
    """Calibrate on some of the inputs: what export_static_quantized_openvino_model does with a data set of the hub."""
    model = _openvino(open_at, "fp32")
    import nncf

    inner = model.transformers_model
    texts = list(sample)[:CALIBRATION]
    batches = [dict(model.preprocess([text])) for text in texts]
    known = [{name: batch[name].numpy() for name in inner.input_names if name in batch} for batch in batches]
    quantised = nncf.quantize(
        inner.model, nncf.Dataset(known), model_type=nncf.ModelType.TRANSFORMER, subset_size=len(known)
    )
    inner.replace_ov_model(inner.model, quantised)
    inner.clear_requests()
    inner.compile()
    return model


def _onnx(open_at: Callable[..., Any]) -> Any:
    _need("optimum.onnxruntime", "onnx")
    return open_at(backend="onnx", model_kwargs={"export": True, "provider": "CPUExecutionProvider"})


def _onnx_int8(open_at: Callable[..., Any]) -> Any:
    model = _onnx(open_at)
    from sentence_transformers.backend import export_dynamic_quantized_onnx_model

    kind = {"AVX512": "avx512", "AVX2": "avx2"}.get(torch.backends.cpu.get_cpu_capability(), "arm64")
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        export_dynamic_quantized_onnx_model(model, kind, folder)
        file = f"onnx/model_qint8_{kind}.onnx"
        return open_at(folder, backend="onnx", model_kwargs={"file_name": file, "provider": "CPUExecutionProvider"})
