"""The bench measures what this machine has, and names the plainest of the fastest ways that are good enough."""

import json

import pytest

from stepwell.exports import bench as benches
from stepwell.exports.bench import Bench, Timing
from stepwell.models.engines.backends import missing


def timings(*rows):
    return tuple(Timing(way, rate, rate / 10, 1_000_000, cosine, lost) for way, rate, cosine, lost in rows)


@pytest.mark.parametrize(
    ("rows", "pick"),
    [
        ([("torch-fp32", 100.0, 1.0, None), ("onnx-fp32", 150.0, 1.0, None)], "onnx-fp32"),
        ([("torch-fp32", 100.0, 1.0, None), ("onnx-fp32", 103.0, 1.0, None)], "torch-fp32"),  # no real gain
        ([("torch-fp32", 100.0, 1.0, None), ("onnx-int8", 300.0, 0.95, None)], "torch-fp32"),  # too far, unmeasured
        ([("torch-fp32", 100.0, 1.0, 0.0), ("onnx-int8", 300.0, 0.95, 0.2)], "onnx-int8"),  # measured: loses little
        ([("torch-fp32", 100.0, 1.0, 0.0), ("onnx-int8", 300.0, 0.999, 0.7)], "torch-fp32"),  # measured: too much
        ([("torch-fp32", 100.0, 1.0, 0.0), ("onnx-int8", 300.0, 0.9, -0.7)], "onnx-int8"),  # better than torch
    ],
)
def test_what_to_take(rows, pick):
    assert Bench("model", timings(*rows), {}, "cpu").pick.way == pick


def test_its_table_by_hand():
    measured = Bench("m", timings(("torch-fp32", 2000.0, 1.0, 0.0), ("onnx-int8", 3000.0, 0.98, 0.25)), {"x": "y"}, "c")
    text = measured.table().text()
    line = next(line for line in text.splitlines() if line.startswith("onnx int8"))
    assert line.split() == ["onnx", "int8", "300", "3,000", "1.50x", "1.0", "MB", "0.9800", "-0.25"]
    assert "Take onnx int8." in text and "x: y" in text
    alone = Bench("m", timings(("torch-fp32", 2000.0, 1.0, None)), {}, "c").table()
    assert "nDCG@10" not in alone.columns


@pytest.mark.skipif(missing("onnx-fp32") is not None, reason="onnx or onnxruntime is not installed")
def test_a_model_is_measured_in_all_ways_there_are(tiny_run, monkeypatch):
    monkeypatch.setattr(benches, "ROUNDS", 1)
    monkeypatch.setattr(benches, "SECONDS", 0.0)
    monkeypatch.setattr(benches, "KINDS", benches.KINDS[:2])  # ONNX alone
    measured = benches.bench(tiny_run)
    ways = {timing.way: timing for timing in measured.timings}
    assert measured.timings[0].way == "torch-fp32" and {"onnx-fp32", "onnx-int8"} <= ways.keys()
    assert ways["torch-fp32"].lost == 0.0 and ways["onnx-fp32"].cosine > 0.9999
    assert ways["onnx-int8"].size < ways["onnx-fp32"].size and ways["onnx-int8"].lost is not None
    assert all(timing.rate > timing.texts > 0 for timing in measured.timings)
    assert "torch-bf16-flash" in measured.left_out
    assert json.loads(json.dumps(measured.to_json()))["pick"] == measured.pick.way
