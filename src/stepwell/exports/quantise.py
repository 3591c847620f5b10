"""Int8 for ONNX Runtime."""

import importlib
import logging
from pathlib import Path


def quantise_onnx(source: Path, target: Path) -> None:
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
