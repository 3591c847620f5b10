"""The model card says what results.json says, in the form that the Hub reads."""

import json
import shutil

import pytest
import yaml
from huggingface_hub import ModelCard

from stepwell.exports.hub import licence_of, make_card
from stepwell.models.encoder import Encoder
from stepwell.systems.opening import open_system


def card_of(place, files=()):
    system = open_system(place, "export")
    return make_card(system, Encoder.open(system.model), files)


@pytest.fixture(scope="module")
def facts(tiny_run):
    return json.loads((tiny_run / "results.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def card(tiny_run, facts):
    text = card_of(tiny_run, ["- `onnx/model.onnx`"])
    return ModelCard(text)


def final_row(facts):
    rows = {row["name"]: row for row in facts["comparison"]["rows"]}
    return rows[facts["comparison"]["reference"]]


def test_its_model_index_holds_the_figures_of_the_run(card, facts):
    row = final_row(facts)
    found = {result.metric_name: result for result in card.data.eval_results}
    assert {name: result.metric_value for name, result in found.items()} == row["values"]
    assert {name: result.metric_args["interval"] for name, result in found.items()} == row["interval"]
    assert found["nDCG@10"].metric_type == "ndcg_at_10" and found["RR@10"].metric_type == "mrr_at_10"
    assert {result.dataset_split for result in found.values()} == {"test"} and card.data.model_name == "tiny"


def test_its_front_matter_is_plain_yaml(card):
    front = yaml.safe_load(str(card).split("---")[1])
    assert front["library_name"] == "sentence-transformers" and front["pipeline_tag"] == "sentence-similarity"
    (model,) = front["model-index"]
    assert model["name"] == "tiny" and len(model["results"]) == 1  # one task on one data set, all measures in it


def test_it_carries_the_ladder(card, facts, tiny_run):
    text = card.text
    assert "| rung-1 | `de` | embedding |" in text or "| rung-1 (this model) | `de` | embedding |" in text
    assert "| rung-2" in text and "`ce` | candidates |" in text and "refine" in text
    assert f"{facts['final']} (this model)" in text and facts["collection"]["fingerprint"] in text
    assert Encoder.open(tiny_run / "model").fingerprint in text
    for row in facts["comparison"]["rows"]:
        low, high = row["interval"]["nDCG@10"]
        assert f"{row['values']['nDCG@10']:.3f} [{low:.3f}, {high:.3f}]" in text


def test_its_dev_figures_are_those_of_the_stages(card, facts, tiny_run):
    import pyarrow.parquet as pq

    for stage in ("start", "rung-1", "rung-2"):
        if f"{stage}.dev" in facts["stages"]:
            values = pq.read_table(tiny_run / facts["stages"][f"{stage}.dev"] / "evaluation.parquet")["nDCG@10"]
            line = next(line for line in card.text.splitlines() if line.startswith(f"| {stage}"))
            assert f"{values.to_numpy().mean():.3f} [" in line


def test_a_rung_that_was_taken_back_is_marked(facts, tiny_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    decision = run / facts["stages"]["promote-1"] / "decision.json"
    told = json.loads(decision.read_text()) | {"student": "start"}
    decision.write_text(json.dumps(told))
    text = card_of(run)
    (line,) = (line for line in text.splitlines() if "taken back" in line)
    assert line.startswith("| rung-1")


def test_a_model_of_unknown_origin_has_a_card_too(tiny_model):
    card = ModelCard(card_of(tiny_model))
    assert card.data.license == "unknown" and card.data.eval_results is None and "is unknown:" in card.text


@pytest.mark.parametrize(
    ("files", "licence"),
    [
        ({"README.md": "---\nlicense: mit\n---\n# x\n"}, "mit"),
        ({"README.md": "# no front matter\n"}, None),
        ({"README.md": "---\nlicense: [mit\n---\n"}, None),
        ({"config.json": '{"license": "apache-2.0"}'}, "apache-2.0"),
        ({"config.json": "{"}, None),
        ({}, None),
    ],
)
def test_the_licence_is_what_the_base_models_own_files_state(files, licence, tmp_path):
    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    assert licence_of(str(tmp_path)) == licence


def test_a_base_model_that_can_not_be_reached_has_no_known_licence(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert licence_of("nobody/has-this-model") is None and licence_of(str(tmp_path / "gone")) is None


def test_no_path_of_this_machine_is_told(card, tiny_run, tiny_model):
    assert str(tiny_model.parent) not in str(card) and str(tiny_run) not in str(card)


def test_prompts_are_told(tiny_model):
    encoder = Encoder.open(tiny_model)
    encoder.model.prompts = {"query": "query: ", "document": "passage: "}
    text = make_card(open_system(tiny_model, "export"), encoder, [])
    assert "`query: `" in text and "`passage: `" in text


def test_figures_of_synthetic_queries_are_no_test(tiny_run, facts, tmp_path):
    told = json.loads(json.dumps(facts)) | {"tested": False}
    told["comparison"]["notes"] = ["There are no real queries to test on."]
    run = shutil.copytree(tiny_run, tmp_path / "run", ignore=shutil.ignore_patterns("stages"))
    (run / "results.json").write_text(json.dumps(told))
    card = ModelCard(card_of(run))
    assert card.data.eval_results is None and "## Test" not in card.text
    assert "## Dev, synthetic queries" in card.text and "There are no real queries to test on." in card.text


def test_the_data_set_is_the_collection_by_its_name(card, facts):
    assert {result.dataset_name for result in card.data.eval_results} == {facts["collection"]["name"]} == {"tiny"}
