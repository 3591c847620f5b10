"""An exported folder: the same vectors everywhere, nothing half written, nothing that lost too much."""

import ast
import importlib.util
import json
import shutil

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from stepwell import api
from stepwell.collection import open_collection
from stepwell.errors import StepwellError
from stepwell.exports import folder as folders, graph as graph_module
from stepwell.exports.folder import Exported, check_worth, export
from stepwell.exports.graph import ONNX, ONNX_INT8, OPENVINO, OPENVINO_INT8
from stepwell.exports.quality import Yardstick
from stepwell.models.build import build_student
from stepwell.models.encoder import Encoder
from stepwell.models.engines.backends import missing
from stepwell.models.engines.parity import Deviation
from stepwell.models.opening import open_sentence_transformer, save_model
from stepwell.systems.opening import open_system, retrieve_with
from test_docs import ROOT, blocks

needs_onnx = pytest.mark.skipif(missing(ONNX.way) is not None, reason="onnx or onnxruntime is not installed")
needs_openvino = pytest.mark.skipif(missing(OPENVINO.way) is not None, reason="openvino is not installed")
needs_nncf = pytest.mark.skipif(missing(OPENVINO_INT8.way) is not None, reason="openvino or nncf is not installed")
needs_fastembed = pytest.mark.skipif(importlib.util.find_spec("fastembed") is None, reason="fastembed is not installed")

TEXTS = ["river", "the old engine was bright, with a slow side to it", "violin " * 80, "Which castle? " * 9]
"""From one word to more than fits."""


@pytest.fixture(scope="module")
def exported(tiny_run, tmp_path_factory):
    """Return a run's export to ONNX with int8, and what was measured; not to be changed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STEPWELL_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        target = tmp_path_factory.mktemp("export") / "exported"
        return export(str(tiny_run), ["onnx", "safetensors"], target, int8=True, force=True)


@pytest.fixture
def measured(monkeypatch):
    """Return a function that decides what is measured on dev."""

    def fix(**values):
        monkeypatch.setattr(Yardstick, "measure", lambda self, runner: values[runner.way.replace("-", "_")])

    return fix


def by_script(place):
    """Run the script of the documentation beside an exported folder; return its names."""
    (script,) = (
        block.text
        for block in blocks((ROOT / "docs" / "export.md").read_text(encoding="utf-8"))
        if block.value == "rank.py"
    )
    assert len(script.strip().splitlines()) <= 15
    names = {"__name__": "rank"}
    exec(script.replace('"exported', f'"{place}'), names)
    return script, names


def nothing_left(place):
    return [path.name for path in place.iterdir()] == []


@needs_onnx
def test_a_script_without_stepwell_ranks_as_stepwell_does(exported, tiny_run, tiny_collection):
    script, names = by_script(exported[0])
    imported = [
        getattr(node, "module", None) or node.names[0].name
        for node in ast.walk(ast.parse(script))
        if isinstance(node, ast.Import | ast.ImportFrom)
    ]
    assert set(imported) <= {"json", "numpy", "onnxruntime", "tokenizers"}
    encoder = Encoder.open(tiny_run / "model")
    queries, passages = tiny_collection.query_texts(), tiny_collection.passage_texts()
    ours = [
        encoder.encode(encoder.tokenise(texts, side), side)
        for texts, side in ((queries, "query"), (passages, "document"))
    ]
    theirs = [names["embed"](texts) for texts in (queries, passages)]
    for a, b in zip(theirs, ours, strict=True):
        assert np.abs(a - b).max() < 1e-4
    scores = [a @ b.T for a, b in (theirs, ours)]
    assert np.array_equal(*(np.argsort(-s.round(4), axis=1, kind="stable") for s in scores))


@needs_onnx
@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert"])
def test_every_family_gives_torchs_vectors(family, tiny_models, tmp_path):
    target, (graph,) = export(str(tiny_models[family]), ["onnx"], tmp_path / "out")
    reference = SentenceTransformer(str(tiny_models[family]), device="cpu").encode(TEXTS, normalize_embeddings=True)
    vectors = by_script(target)[1]["embed"](TEXTS)
    assert np.abs(vectors - reference).max() < 1e-4 and graph.far < 1e-4 < 0.999 < graph.cosine
    assert vectors.dtype == np.float32


@needs_onnx
def test_the_figures_are_plain_values(exported):
    target, graphs = exported
    told = json.loads(json.dumps([graph.to_json() for graph in graphs]))
    assert [one["bytes"] for one in told] == [(target / one["file"]).stat().st_size for one in told]
    plain, small = (one["nDCG@10"] for one in told)
    assert plain == {"torch": None, "here": None, "points_lost": None}  # only int8 is measured on dev
    assert small["points_lost"] == pytest.approx(100 * (small["torch"] - small["here"]))


@needs_onnx
def test_int8_is_smaller_and_near(exported):
    target, (full, small) = exported
    assert (full.kind, small.kind) == (ONNX, ONNX_INT8)
    assert small.size == (target / ONNX_INT8.file).stat().st_size < full.size == (target / ONNX.file).stat().st_size
    assert 0.9 < small.cosine < 1 and full.lost is None and small.lost == 100 * (small.before - small.after)
    assert "points" in exported.table().columns and "README.md" in {path.name for path in target.iterdir()}


@needs_onnx
def test_the_graph_has_what_sentence_transformers_pools(exported):
    import onnxruntime

    session = onnxruntime.InferenceSession(str(exported[0] / ONNX.file))
    assert [place.name for place in session.get_inputs()] == ["input_ids", "attention_mask", "token_type_ids"]
    assert [place.name for place in session.get_outputs()] == ["sentence_embedding", "last_hidden_state"]
    assert [place.shape for place in session.get_inputs()] == [["batch", "tokens"]] * 3


@needs_onnx
def test_sentence_transformers_loads_the_folder(exported, tiny_run):
    models = (SentenceTransformer(str(place), device="cpu") for place in (exported[0], tiny_run / "model"))
    vectors = [model.encode(TEXTS) for model in models]
    assert np.array_equal(*vectors)


@needs_onnx
@needs_fastembed
def test_fastembed_loads_the_folder(exported, tiny_run):
    (code,) = (
        block.text
        for block in blocks((ROOT / "docs" / "export.md").read_text(encoding="utf-8"))
        if "add_custom_model" in block.text
    )
    names = {"__name__": "served"}
    exec(code.replace('"exported', f'"{exported[0]}').replace("dim=384", "dim=32"), names)
    reference = SentenceTransformer(str(tiny_run / "model"), device="cpu").encode(TEXTS)
    assert np.abs(np.stack(list(names["model"].embed(TEXTS))) - reference).max() < 1e-4


@needs_openvino
def test_openvino_gives_torchs_vectors(tiny_model, tmp_path):
    target, (graph,) = export(str(tiny_model), ["openvino"], tmp_path / "out")
    assert graph.far < 1e-4 and (target / OPENVINO.file).with_suffix(".bin").is_file()


@needs_nncf
def test_openvino_int8_is_calibrated_on_the_collection(tiny_run, tmp_path):
    _, (_, small) = export(str(tiny_run), ["openvino"], tmp_path / "out", int8=True, force=True)
    assert small.kind == OPENVINO_INT8 and 0.5 < small.cosine < 1 and small.lost is not None


def test_safetensors_alone_needs_no_engine(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "missing", lambda way: "onnx")
    target, graphs = export(str(tiny_model), ["safetensors"], tmp_path / "out")
    assert graphs == [] and (target / "model.safetensors").is_file() and not (target / "onnx").exists()
    vectors = [SentenceTransformer(str(place), device="cpu").encode(TEXTS) for place in (target, tiny_model)]
    assert np.array_equal(*vectors)


@needs_onnx
def test_int8_that_loses_too_much_is_refused_and_nothing_is_written(tiny_run, tmp_path, measured, capsys):
    measured(torch_fp32=0.412, onnx_int8=0.402)
    with pytest.raises(StepwellError, match=r"loses 1\.00 points of nDCG@10 on dev \(0\.4120 to 0\.4020\).*--force"):
        export(str(tiny_run), ["onnx"], tmp_path / "out", int8=True)
    assert nothing_left(tmp_path)
    target, (_, small) = export(str(tiny_run), ["onnx"], tmp_path / "out", int8=True, force=True)
    assert small.lost == pytest.approx(1.0) and "written all the same" in capsys.readouterr().err
    assert "0.4120 in torch fp32, 0.4020 here" in (target / "README.md").read_text(encoding="utf-8")


def graphs_with(before, after):
    return [Exported(ONNX, 1, Deviation()), Exported(ONNX_INT8, 1, Deviation(0.1, 0.1, 0.9), before, after)]


@pytest.mark.parametrize(("after", "most", "good"), [(0.4951, 0.5, True), (0.4949, 0.5, False), (0.6, 0, True)])
def test_the_set_loss_decides(after, most, good):
    if good:
        check_worth(graphs_with(0.5, after), most, False)
    else:
        with pytest.raises(StepwellError, match="--max-loss"):
            check_worth(graphs_with(0.5, after), most, False)


@pytest.mark.parametrize("far", [2e-4, float("nan")])
def test_a_graph_that_is_another_model_is_refused_even_by_force(far):
    with pytest.raises(StepwellError, match="not the same model"):
        check_worth([Exported(ONNX, 1, Deviation(component=far))], 0.5, True)


@needs_onnx
def test_an_engine_that_cannot_take_the_model_leaves_nothing(tiny_model, tmp_path, monkeypatch):
    def fail(*_):
        raise RuntimeError("operator not supported")

    monkeypatch.setattr(graph_module, "write_graph", fail)
    with pytest.raises(StepwellError, match="operator not supported"):
        export(str(tiny_model), ["onnx"], tmp_path / "out")
    assert nothing_left(tmp_path)


def test_what_is_there_is_never_overwritten(tiny_model, tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(StepwellError, match="overwritten"):
        export(str(tiny_model), ["safetensors"], tmp_path / "out")
    assert nothing_left(tmp_path / "out")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"to": ["gguf"]}, "can't export to 'gguf'"),
        ({"to": []}, "not said"),
        ({"to": ["safetensors"], "int8": True}, "int8 is for graphs"),
        ({"to": ["safetensors"], "push": "nobody"}, "OWNER/NAME"),
        ({"to": ["safetensors"], "push": "a/b/c"}, "OWNER/NAME"),
        ({"to": ["safetensors"], "collection": "/nowhere"}, "/nowhere"),
    ],
)
def test_mistakes_get_a_sentence_and_write_nothing(options, told, tiny_model, tmp_path):
    with pytest.raises(StepwellError, match=told):
        export(str(tiny_model), out=tmp_path / "out", **options)
    assert nothing_left(tmp_path)


def test_a_missing_package_is_named_with_its_extra(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "missing", lambda way: "nncf" if way == "openvino-int8" else None)
    with pytest.raises(StepwellError, match=r"nncf.*stepwell\[int8\]"):
        export(str(tiny_model), ["openvino"], tmp_path / "out", int8=True)


@needs_onnx
def test_int8_needs_a_collection_to_be_measured_on(tiny_model, tmp_path):
    with pytest.raises(StepwellError, match="--collection"):
        export(str(tiny_model), ["onnx"], tmp_path / "out", int8=True)


def test_an_unfinished_run_is_refused(tmp_path):
    (tmp_path / "stages").mkdir()
    with pytest.raises(StepwellError, match="not finished"):
        export(str(tmp_path), ["safetensors"], tmp_path / "out")


@needs_onnx
def test_two_towers_are_refused_as_one_graph(tiny_model, tmp_path):
    Encoder(build_student(str(tiny_model), 1, "first", None, None, 2, 48)).save(tmp_path / "towers")
    with pytest.raises(StepwellError, match="two towers"):
        export(str(tmp_path / "towers"), ["onnx"], tmp_path / "out")
    assert export(str(tmp_path / "towers"), ["safetensors"], tmp_path / "out")[0].is_dir()


def test_a_prompt_that_is_not_pooled_is_refused_as_a_graph(tiny_model, tmp_path):
    base = open_sentence_transformer(str(tiny_model))
    base.prompts = {"query": "which "}
    base.set_pooling_include_prompt(False)
    save_model(base, tmp_path / "base")
    with pytest.raises(StepwellError, match=r"leaves its prompts out.*--to safetensors"):
        export(str(tmp_path / "base"), ["onnx"], tmp_path / "out")
    assert export(str(tmp_path / "base"), ["safetensors"], tmp_path / "out")[0].is_dir()


def test_a_run_whose_collection_changed_is_not_measured_on_it(tiny_run, tiny_path, tmp_path):
    run, changed = tmp_path / "run", tmp_path / "changed"
    shutil.copytree(tiny_path, changed)
    with (changed / "corpus.jsonl").open("a") as file:
        file.write('{"_id": "new", "text": "one more"}\n')
    run.mkdir()
    shutil.copyfile(tiny_run / "recipe.yaml", run / "recipe.yaml")
    facts = json.loads((tiny_run / "results.json").read_text())
    facts["collection"]["path"] = str(changed)
    (run / "results.json").write_text(json.dumps(facts))
    with pytest.raises(StepwellError, match="has changed"):
        api.bench(run)


def test_a_model_is_measured_on_dev_as_eval_measures_it(tiny_run, tiny_path):
    from stepwell.evaluation import evaluate
    from stepwell.exports.quality import DevSet, sample_texts
    from stepwell.models.engines.backends import open_way

    dev = DevSet.find(open_system(tiny_run, "export"), None)
    encoder = Encoder.open(tiny_run / "model")
    yardstick = Yardstick(encoder, dev)
    expected = evaluate(
        retrieve_with(str(tiny_run), open_collection(tiny_path), dev.qrels, 60), dev.qrels, ("nDCG@10",)
    )
    torch_fp32 = open_way(encoder.inference.net, "torch-fp32")
    assert yardstick.measure(torch_fp32) == pytest.approx(expected.mean("nDCG@10"), abs=1e-9)
    queries, _ = sample_texts(dev)
    held_out = set(open_collection(tiny_path).query_texts(dev.qrels.query_rows))
    assert queries and not held_out & set(queries)
