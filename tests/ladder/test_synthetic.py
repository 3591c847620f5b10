"""A run on synthetic queries says so everywhere, and calls nothing a test that is none."""

import json
import shutil

import pytest

from conftest import write_recipe
from stepwell import api
from stepwell.evaluation import Comparison
from stepwell.files import read_json
from stepwell.systems.compare import judged_on
from stepwell.systems.folder import RunFolder

RECIPE = """\
name: made
collection: {path: COLLECTION}
tokens: {query: 24, passage: 32, pair: 56}
student: {from: MODEL, layers: 1}
teachers:
  de: {kind: dual-encoder, from: MODEL}
ladder:
  - {teacher: de, loss: embedding, steps: 2, lr: 1.0e-3, batch: 16, force: true}
refine: {rounds: 0}
judging: {level: 0}
proof: none
"""


@pytest.fixture
def run(tiny_path, tiny_model, tmp_path, capfd):
    """Run the recipe over the tiny collection with its train and dev queries marked; return results and words."""

    def make(test):
        home = tmp_path / "made"
        shutil.copytree(tiny_path, home)
        tested = {line.split("\t")[0] for line in (home / "qrels" / "test.tsv").read_text().splitlines()}
        if not test:
            (home / "qrels" / "test.tsv").unlink()
        queries = [json.loads(line) for line in (home / "queries.jsonl").read_text().splitlines()]
        for query in queries:
            if query["_id"] not in tested:
                query["metadata"] = {"synthetic": True, "origin": "heading"}
        (home / "queries.jsonl").write_text("".join(json.dumps(query) + "\n" for query in queries))
        facts = api.run(write_recipe(tmp_path / "r.yaml", home, tiny_model, RECIPE), tmp_path / "run").to_json()
        return facts, capfd.readouterr().err, home

    return make


def test_without_a_test_the_table_is_over_dev_and_says_so(run, tmp_path, capfd):
    facts, said, _ = run(test=False)
    assert (facts["synthetic"], facts["tested"], facts["synthetic_queries"]) == (True, False, {"train": 28, "dev": 6})
    assert read_json(tmp_path / "run" / "results.json")["synthetic"] is True
    text = (tmp_path / "run" / "results.txt").read_text()
    assert text.startswith("Comparison on synthetic dev queries (there is no test)\n")
    assert "There are no real queries to test on" in text
    overlap = RunFolder(tmp_path / "run").results.overlap
    assert f"{Comparison.from_json(facts['comparison']).table().text()}\n\n{overlap.table().text()}\n" == text
    assert "synthetic dev nDCG@10" in said and "on synthetic dev" in said
    assert judged_on([str(tmp_path / "run")]).name == "synthetic dev"
    assert "There are no real queries to test on" in capfd.readouterr().err


@pytest.mark.usefixtures("without_report")
def test_with_real_queries_the_test_is_theirs(run, tmp_path, capfd):
    facts, _, home = run(test=True)
    assert (facts["synthetic"], facts["tested"], facts["comparison"]["queries"]) == (True, True, 6)
    text = (tmp_path / "run" / "results.txt").read_text()
    assert text.startswith("Comparison\n")
    assert "28 train queries and 6 dev queries were synthetic" in text
    api.evaluate_system("bm25", home, "test")
    assert "synthetic" not in capfd.readouterr().err
    api.compare(["bm25"], home, "dev")
    assert "6 of the 6 queries of dev are synthetic" in capfd.readouterr().err
