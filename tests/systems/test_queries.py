"""Which queries `eval` and `compare` judge on: a run's own, where there is a run, and those of a split else."""

import json
import shutil

import numpy as np
import pytest

from conftest import write_recipe
from stepwell import api
from stepwell.collection import open_collection
from stepwell.errors import StepwellError
from stepwell.evaluation import Evaluation
from stepwell.files import read_json
from stepwell.systems.compare import judged_on

RECIPE = """\
name: carved
collection: {path: COLLECTION, test_queries: 7, relevant_from: 2}
tokens: {query: 24, passage: 32, pair: 56}
student: {from: MODEL, layers: 1}
teachers:
  de: {kind: dual-encoder, from: MODEL}
ladder:
  - {teacher: de, loss: embedding, steps: 2, lr: 1.0e-3, batch: 16, force: true}
refine: {rounds: 0}
judging: {level: 0, depth: 10}
proof: none
"""


@pytest.fixture(scope="module")
def made(tiny_path, tiny_model, tmp_path_factory):
    """Return a collection with train.tsv alone, and the folder of a finished run over it; not to be changed."""
    folder = tmp_path_factory.mktemp("carved")
    home = folder / "home"
    shutil.copytree(tiny_path, home)
    files = [home / "qrels" / f"{split}.tsv" for split in ("train", "dev", "test")]
    lines = [line for file in files for line in file.read_text().splitlines()[1:]]
    files[0].write_text("\n".join(["query-id\tcorpus-id\tscore", *lines]) + "\n")
    for file in files[1:]:
        file.unlink()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STEPWELL_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        patch.setattr("stepwell.api._report_at_the_end", lambda folder: None)
        api.run(write_recipe(folder / "r.yaml", home, tiny_model, RECIPE), folder / "run")
    return home, folder / "run"


@pytest.fixture
def other(made, tmp_path):
    """Return a maker of a second finished run: the first with something else in its recipe, or its collection."""

    def make(old="", new="", **collection):
        run = tmp_path / "other"
        shutil.copytree(made[1], run, ignore=shutil.ignore_patterns("stages"))
        text = (run / "recipe.yaml").read_text()
        assert old in text
        (run / "recipe.yaml").write_text(text.replace(old, new))
        facts = read_json(run / "results.json")
        facts["collection"] |= collection
        (run / "results.json").write_text(json.dumps(facts))
        return run

    return make


def table_of(run):
    facts = read_json(run / "results.json")
    rows = {row["name"]: row["values"] for row in facts["comparison"]["rows"]}
    return facts, rows


def test_a_run_is_judged_on_the_queries_of_its_table_with_the_same_figures(made):
    home, run = made
    facts, rows = table_of(run)
    evaluation, collection = api.evaluate_system(run)
    stage = run / facts["stages"][facts["comparison"]["systems"]["ladder"]]
    assert np.array_equal(evaluation.queries, Evaluation.load(stage / "evaluation.parquet", collection).queries)
    assert len(evaluation.queries) == facts["comparison"]["queries"] == 7
    figures = {measure: evaluation.mean(measure) for measure in evaluation.values}
    assert figures == pytest.approx({measure: rows["ladder"][measure] for measure in figures}, abs=1e-12)
    assert set(figures) == {"RR@10", "nDCG@10", "R@5"}  # its lists are not 20 deep
    again, _ = api.evaluate_system(run, home)  # naming the collection that it was made from changes nothing
    assert np.array_equal(again.queries, evaluation.queries)


def test_a_recipe_that_was_changed_after_the_table_is_refused(made, tmp_path):
    run = shutil.copytree(made[1], tmp_path / "run")
    text = (run / "recipe.yaml").read_text()
    (run / "recipe.yaml").write_text(text.replace("test_queries: 7", "test_queries: 6"))
    with pytest.raises(StepwellError, match=r"other queries \(7\) than the recipe names now \(6\).*--split"):
        judged_on([str(run)])


def test_a_collection_that_is_not_the_runs_is_said(made, tiny_path, capsys):
    assert judged_on([str(made[1])], tiny_path).name == "test"
    assert "judged are all queries of test" in " ".join(capsys.readouterr().err.split())


def test_what_is_compared_with_a_run_is_judged_on_the_runs_queries(made):
    _, run = made
    _, rows = table_of(run)
    comparison = api.compare(["bm25", run, run / "runs" / "ladder.trec"]).comparison
    assert comparison.queries == 7
    first, second, third = comparison.rows
    assert first.values["nDCG@10"] == pytest.approx(rows["BM25"]["nDCG@10"], abs=1e-12)
    assert second.values == pytest.approx(third.values, abs=1e-12)


def test_a_named_split_comes_before_the_runs_queries(made):
    _, run = made
    assert len(api.evaluate_system(run, split="train")[0].queries) == 40
    with pytest.raises(StepwellError, match="no split 'test'"):
        api.evaluate_system(run, split="test")


def test_without_a_run_the_split_is_test(made, tiny_path):
    assert judged_on(["bm25"], tiny_path).name == "test"
    with pytest.raises(StepwellError, match="no split 'test'"):
        judged_on(["bm25"], made[0])
    with pytest.raises(StepwellError, match="--collection"):
        judged_on(["bm25"])


def test_two_runs_over_the_same_queries_are_compared(made, other):
    comparison = api.compare([made[1], other("seed: 13", "seed: 14")]).comparison
    assert comparison.queries == 7


@pytest.mark.parametrize("change", [("test_queries: 7", "test_queries: 6"), ("relevant_from: 2", "relevant_from: 1")])
def test_runs_whose_tables_are_over_other_queries_or_judgements_need_a_split(made, other, change):
    runs = [made[1], other(*change)]
    with pytest.raises(
        StepwellError, match=r"different queries or judgements .7 and [67] queries.*--split: home has train"
    ):
        api.compare(runs)
    assert api.compare(runs, split="train").comparison.queries == 40


def test_runs_of_different_collections_need_one_to_be_named(made, other):
    home, run = made
    runs = [run, other(path="/elsewhere", fingerprint="another")]
    with pytest.raises(StepwellError, match=r"different collections .*home and /elsewhere.*--collection"):
        api.compare(runs)
    comparison = api.compare(runs, home).comparison  # those of the run that was made from it
    assert comparison.queries == 7
    assert api.compare(runs, home, "train").comparison.queries == 40


def test_a_collection_that_was_moved_is_named_anew(other, made, tmp_path):
    gone, there = tmp_path / "gone", made[0]
    run = other(path=str(gone))
    with pytest.raises(StepwellError, match=rf"not at {gone} any more: say where it is now with --collection\."):
        judged_on([run])
    assert judged_on([run], there).qrels.query_rows.tolist() == judged_on([made[1]]).qrels.query_rows.tolist()
    assert api.search(run, "river", mode="bm25", collection=str(there))
    with pytest.raises(StepwellError, match="with --collection"):
        api.search(run, "river", mode="bm25")


def test_a_run_whose_collection_has_changed_needs_a_split(other):
    run = other(fingerprint="what it was")
    with pytest.raises(StepwellError, match=r"its content has changed.*--split"):
        api.evaluate_system(run)
    assert len(api.evaluate_system(run, split="train")[0].queries) == 40


def test_a_run_over_a_collection_of_another_is_a_model_there(other, tiny_path):
    run = other()
    (run / "recipe.yaml").unlink()  # nobody asks it
    evaluation, _ = api.evaluate_system(run, tiny_path)
    assert np.array_equal(evaluation.queries, open_collection(tiny_path).qrels("test").query_rows)


def test_a_run_that_is_not_finished_is_not_judged(tmp_path, tiny_path):
    (tmp_path / "run" / "stages").mkdir(parents=True)
    with pytest.raises(StepwellError, match="not finished: go on with `stepwell run`"):
        api.evaluate_system(tmp_path / "run", tiny_path)


def test_a_split_is_judged_on_all_queries_that_it_judges(tiny_directory):
    home = tiny_directory(test=[("q0", "p0", 1), ("q1", "p1", 0)])
    assert judged_on(["bm25"], home, "test").qrels.query_rows.tolist() == [0, 1]
