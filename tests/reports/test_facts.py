"""From a run's folder to facts, by hand from the files of a tiny run."""

import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file

from stepwell.errors import StepwellError
from stepwell.files import read_json
from stepwell.reports.answers import LONGEST, shortened
from stepwell.reports.climb import POINTS, thinned
from stepwell.reports.facts import facts_of


@pytest.fixture(scope="module")
def results(tiny_run):
    return read_json(tiny_run / "results.json")


def test_the_steps_are_what_was_decided(facts, tiny_run, results):
    assert [(s.label, s.teacher, s.loss) for s in facts.steps[:2]] == [
        ("rung 1", "de", "embedding"),
        ("rung 2", "ce", "candidates"),
    ]
    decision = read_json(tiny_run / results["stages"]["promote-1"] / "decision.json")
    first = facts.steps[0]
    assert (first.before, first.after, first.p) == (decision["before"], decision["after"], decision["p"])
    assert first.state == "climbed" and first.level == first.after  # a level of 0 promotes every rung
    assert facts.start == pytest.approx(first.before)
    head = read_json(tiny_run / results["stages"]["headroom-2"] / "decision.json")
    assert facts.steps[1].teacher_dev == head["teacher"] and facts.steps[1].headroom == head["headroom"]


def test_the_comparison_is_the_runs_own(facts, results):
    assert facts.comparison == results["comparison"] and facts.finished == results["finished"]
    assert [cost.system for cost in facts.costs] == [row["name"] for row in results["comparison"]["rows"]]
    assert facts.machine == results["machine"] and facts.machine["precision"] == "fp32"
    assert facts.missing == []


def test_parameters_are_the_numbers_in_the_weights(facts, tiny_run):
    weights = load_file(tiny_run / "model" / "model.safetensors")
    cost = next(cost for cost in facts.costs if cost.system == facts.comparison["reference"])
    assert cost.parameters == sum(tensor.size for tensor in weights.values())
    assert (cost.layers, cost.width, cost.kind) == (1, 32, "student")
    reranked = next(cost for cost in facts.costs if "reranks" in cost.system)
    assert reranked.parameters > cost.parameters and reranked.kind == "combined"
    bm25 = next(cost for cost in facts.costs if cost.kind == "bm25")
    assert bm25.parameters is None and bm25.encode_ms is None


def test_the_time_of_a_text_is_the_median_of_encodings(facts, tiny_run, results):
    names = [
        name for name in results["stages"] if name.endswith(".vectors") and not name.startswith(("teacher", "base"))
    ]
    folders = {results["stages"][name] for name in names}
    seconds = [read_json(tiny_run / folder / "manifest.json")["seconds"] for folder in folders]
    cost = next(cost for cost in facts.costs if cost.system == facts.comparison["reference"])
    assert cost.encodings == len(folders)
    assert cost.encode_ms == pytest.approx(1e3 * np.median(seconds) / 100)  # 60 passages, 40 queries


def test_won_tied_and_lost_are_counted_by_query(facts, tiny_run, results):
    systems, reference = results["comparison"]["systems"], results["comparison"]["reference"]

    def values(label):
        folder = tiny_run / results["stages"][systems[label]]
        return pq.read_table(folder / "evaluation.parquet")[facts.measure].to_numpy()

    for score in facts.record:
        gaps = values(reference) - values(score.system)
        assert (score.won, score.tied, score.lost) == ((gaps > 0).sum(), (gaps == 0).sum(), (gaps < 0).sum())
    assert len(facts.record) == len(systems) - 1
    assert len(facts.answers) == sum(score.won + score.lost for score in facts.record)  # six test queries: all shown


def test_answers_have_the_texts_and_the_ranks(facts, tiny_collection, tiny_run, results):
    answer = next(answer for answer in facts.answers if answer.own_found)
    row = tiny_collection.query_row(answer.query)
    assert answer.text == tiny_collection.query_texts([row])[0]
    lines = (tiny_run / results["stages"][f"{results['final']}.test"] / "run.trec").read_text().splitlines()
    ranked = [line.split()[2] for line in lines if line.split()[0] == answer.query]
    assert answer.own_found.passage == ranked[0]
    right = {tiny_collection.passage_ids[p] for p in tiny_collection.qrels("test").positives(row)}
    ranks = [rank for rank, passage in enumerate(ranked, start=1) if passage in right]
    assert answer.own_found.rank == (ranks[0] if ranks else None)
    assert answer.own_found.relevant == (ranked[0] in right)


def test_trainings_scores_refine_and_mining(facts, tiny_run, results):
    trained = {one.stage: one for one in facts.trainings}
    log = read_json(tiny_run / results["stages"]["rung-2"] / "training.json")
    assert trained["rung-2"].loss == log["losses"] and trained["rung-2"].tokens == log["tokens"]
    assert any(one.title.endswith("first imitates") for one in facts.trainings)
    spread = next(one for one in facts.scores if one.stage == "rung-2")
    assert spread.teacher == "ce" and sum(spread.teacher_scores.counts) == sum(spread.student_scores.counts) > 0
    select = read_json(tiny_run / results["stages"]["select-3"] / "decision.json")
    assert (facts.refined[0].asked, facts.refined[0].selected) == (select["asked"], select["selected"])
    reports = [read_json(path) for path in sorted(tiny_run.glob("stages/*/report.json"))]
    assert sorted(one.report["ranked"] for one in facts.mined) == sorted(report["ranked"] for report in reports)


def test_every_stage_is_there_after_its_inputs_with_its_part(facts, tiny_run):
    assert len(facts.stages) == len(list((tiny_run / "stages").iterdir()))
    parts = {stage.stage: stage.part for stage in facts.stages}
    assert parts["teacher.ce"] == "teachers" and parts["rung-1"] == parts["rung-1.dev"] == "ladder"
    assert parts["scores-2"] == "ladder" and parts["scores-3"] == "refine"  # what a teacher scored for a rung
    assert parts["select-3"] == "refine" and parts["contrastive"] == parts["table"] == parts["bm25.test"] == "proof"
    order = [stage.stage for stage in facts.stages]
    assert order.index("start") < order.index("start.vectors") < order.index("start.dev")


def test_an_unfinished_run_says_what_is_not_there(tiny_run, tmp_path):
    run = shutil.copytree(tiny_run, tmp_path / "run", ignore=shutil.ignore_patterns("model", "*.npy", "*.trec"))
    (run / "results.json").unlink()
    for folder in (run / "stages").iterdir():
        if folder.name.startswith(("table-", "promote-", "search-test-")):
            shutil.rmtree(folder)
    broken = next((run / "stages").glob("select-*"))
    (broken / "manifest.json").write_text("{")
    (run / "stages" / "distil-0123456789abcdef.partial").mkdir()
    found = facts_of(run)
    assert "not finished" in found.missing[0] and "distil-0123456789abcdef" in found.missing[0]
    assert broken.name in found.missing[1]
    assert found.comparison is None and found.costs == found.record == found.answers == found.refined == []
    assert {step.state for step in found.steps} == {"not there yet"} and found.start is not None
    assert json.dumps(found.to_json())


def test_without_its_collection_a_run_has_no_texts(tiny_run, tmp_path):
    run = shutil.copytree(tiny_run, tmp_path / "run", ignore=shutil.ignore_patterns("*.npy"))
    recipe = (run / "recipe.yaml").read_text()
    (run / "recipe.yaml").write_text(recipe.replace("/tiny\n", "/gone\n"))
    found = facts_of(run)
    assert "collection" in found.missing[0] and found.answers[0].text is None and found.answers[0].query
    assert found.record and found.comparison


def test_a_damaged_file_costs_a_report_only_what_it_holds(tiny_run, tmp_path):
    run = shutil.copytree(tiny_run, tmp_path / "run")
    results = read_json(run / "results.json")
    start, contrastive = (run / results["stages"][name] for name in ("start.dev", "contrastive.test"))
    for path in (start / "evaluation.parquet", contrastive / "evaluation.parquet"):
        path.write_bytes(path.read_bytes()[:-40])
    run_file = run / results["stages"]["bm25.test"] / "run.parquet"
    run_file.write_bytes(run_file.read_bytes()[:-40])
    found = facts_of(run)
    assert found.start is None and found.comparison
    assert "contrastive only" not in {answer.system for answer in found.answers}
    assert {answer.text is None for answer in found.answers if answer.system == "BM25"} == {True}


def test_empty_files_of_vectors_cost_a_report_the_time_of_a_text(tiny_run, results, tmp_path):
    run = shutil.copytree(tiny_run, tmp_path / "run")
    for name, folder in results["stages"].items():
        if name.endswith(".vectors"):
            (run / folder / "passages.npy").write_bytes(b"")
    before, after = facts_of(tiny_run), facts_of(run)
    assert [cost.parameters for cost in after.costs] == [cost.parameters for cost in before.costs]
    assert any(cost.encode_ms for cost in before.costs) and not any(cost.encode_ms for cost in after.costs)


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(StepwellError, match="no run's folder"):
        facts_of(tmp_path)


def test_curves_are_thinned_to_means():
    at, values = thinned([float(i) for i in range(10 * POINTS)])
    assert len(at) == len(values) == POINTS
    assert (at[0], values[0]) == (5.5, 4.5)  # steps 1 to 10, values 0 to 9


def test_texts_are_cut_between_words():
    assert shortened("a\n b") == "a b"
    cut = shortened("word " * 200)
    assert cut.endswith("word ...") and len(cut) <= LONGEST + 4
