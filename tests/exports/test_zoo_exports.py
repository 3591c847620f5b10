"""A cut student of every architecture becomes a graph with its vectors, or one sentence says why not."""

import pytest

import zoo
from stepwell.errors import RunError
from stepwell.exports.folder import export
from stepwell.exports.graph import ONNX
from stepwell.models.build import build_student
from stepwell.models.encoder import Encoder
from stepwell.models.engines.backends import missing

pytestmark = pytest.mark.skipif(missing(ONNX.way) is not None, reason="onnx or onnxruntime is not installed")
UNTRACED = ("gemma3",)  # torch's exporter fails within


def cut(folder, architecture, **options):
    """Save two layers of a random encoder; ALBERT has one that is used again and again."""
    base = zoo.encoder(architecture, folder, **options)
    layers = None if architecture == "albert" else 2
    Encoder(build_student(str(base), layers, "first", None, None, 1, zoo.LIMIT)).save(folder / "cut")
    return folder / "cut"


@pytest.mark.parametrize("architecture", [name for name in zoo.ARCHITECTURES if name not in UNTRACED])
def test_a_graph_of_every_architecture(tmp_path, architecture):
    (graph,) = export(cut(tmp_path, architecture), ["onnx"], tmp_path / "out").graphs
    assert graph.far < 1e-5


@pytest.mark.parametrize(
    "options",
    [
        {"pooling": "cls"},
        {"heads": ("dense", "layernorm", "normalize")},
        {"prompts": {"query": "query: ", "document": "passage: "}},
        {"truncate_dim": 8},
    ],
    ids=lambda options: "-".join(options),
)
def test_a_graph_of_every_head(tmp_path, options):
    (graph,) = export(cut(tmp_path, "bert", **options), ["onnx"], tmp_path / "out").graphs
    assert graph.far < 1e-5


@pytest.mark.parametrize("architecture", UNTRACED)
def test_what_is_no_graph_is_refused_and_leaves_nothing(tmp_path, architecture):
    with pytest.raises(RunError, match="onnx can't take this model"):
        export(cut(tmp_path, architecture), ["onnx"], tmp_path / "out")
    assert not (tmp_path / "out").exists()
