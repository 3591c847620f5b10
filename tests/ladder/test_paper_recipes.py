"""The paper's recipes, end to end: slices of the benchmarks in their published formats, at scale tiny."""

import ast
import csv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from pydantic import BaseModel

import slices
from conftest import write_tiny
from stepwell import api
from stepwell.collection import open_collection
from stepwell.distil.candidates import Candidates
from stepwell.evaluation import evaluate
from stepwell.evaluation.answers import has_answer
from stepwell.files import read_json
from stepwell.ladder.build import stages_of
from stepwell.ladder.plan import Speed
from stepwell.ladder.prices import Prices
from stepwell.ladder.run import prepare
from stepwell.models.tokens import cut_pairs
from stepwell.recipe import Optimiser
from stepwell.recipe.scale import scaled
from stepwell.recipe.yaml_file import load_recipe
from stepwell.retrieval.run import Run
from stepwell.systems.records import Selection

PAPER = Path(__file__).resolve().parents[2] / "recipes" / "paper"
TEACHERS = ("de12", "ce12", "ce24")


def trec_dl_passage(tiny, directory):
    return slices.trec_dl(tiny, slices.msmarco_passage(tiny, directory), documents=False)


def trec_dl_document(tiny, directory):
    return slices.trec_dl(tiny, slices.msmarco_document(tiny, directory), documents=True)


@dataclass(frozen=True)
class Benchmark:
    """How its slice is written, the split that tests, the measures of the paper, and what the first passage is."""

    write: Callable[[Path, Path], Path]
    split: str
    measures: tuple[str, ...]
    begins: str


DOCUMENT = "https://example.org/0 [SEP] river 0 [SEP] the river"
BENCHMARKS = {
    "msmarco-passage": Benchmark(slices.msmarco_passage, "dev.small", ("RR@10", "R@50", "R@1000"), "river 0 the river"),
    "msmarco-document": Benchmark(slices.msmarco_document, "dev", ("RR@10", "R@5", "R@20", "R@100"), DOCUMENT),
    "trec-dl-2019-passage": Benchmark(
        trec_dl_passage, "trec-dl-2019", ("nDCG@10", "RR@10", "R@100", "R@1000"), "river 0 the river"
    ),
    "trec-dl-2019-document": Benchmark(trec_dl_document, "trec-dl-2019", ("nDCG@10", "RR@10", "R@100"), DOCUMENT),
    "natural-questions": Benchmark(slices.dpr, "test", ("R@20", "R@1", "R@5", "R@100"), "river 0 [SEP] the river"),
}


@dataclass(frozen=True)
class Climbed:
    """A finished run of a paper recipe at scale tiny."""

    name: str
    home: Path
    run: Path

    @property
    def facts(self):
        return read_json(self.run / "results.json")

    def training(self, stage):
        return read_json(self.run / self.facts["stages"][stage] / "training.json")


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    directory = tmp_path_factory.mktemp("records") / "tiny"
    write_tiny(directory, passages=80, queries=100)
    return directory


def places(home, model):
    """Put one random model in the place of all models of a recipe."""
    bases = {f"teachers.{name}.from": str(model) for name in TEACHERS}
    return {"collection.path": str(home), "student.from": str(model), **bases}


@pytest.fixture(scope="module", params=BENCHMARKS)
def climbed(request, records, tiny_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("paper")
    home = BENCHMARKS[request.param].write(records, folder / request.param)
    recipe = load_recipe(PAPER / f"{request.param}.yaml", places(home, tiny_model))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STEPWELL_CACHE", str(folder / "cache"))
        patch.setattr("stepwell.ladder.plan.probe", lambda base: Speed(1e9, 1e9))  # which takes seconds
        if request.param != "natural-questions":  # one report is enough; its own tests are in tests/report
            patch.setattr("stepwell.api._report_at_the_end", lambda folder: None)
        api.run(scaled(recipe, "tiny"), folder / "run")
    return Climbed(request.param, home, folder / "run")


def test_a_paper_recipe_ends_with_the_measures_of_its_benchmark(climbed, tmp_path):
    benchmark = BENCHMARKS[climbed.name]
    assert sum(file.stat().st_size for file in climbed.home.iterdir()) < 300_000
    comparison = climbed.facts["comparison"]
    assert tuple(comparison["measures"]) == benchmark.measures
    rows = {"contrastive only", "rung 1 alone, de12 in-batch", "rung 1, then ce24 candidates", "ladder + refine"}
    assert rows <= set(comparison["systems"])
    recipe = load_recipe(climbed.run / "recipe.yaml")
    collection = open_collection(recipe.collection, tmp_path)
    assert collection.passage_texts([0])[0].startswith(benchmark.begins)
    qrels = prepare(recipe).splits.test
    assert np.isin(qrels.query_rows, collection.qrels(benchmark.split).query_rows).all() and len(qrels.query_rows) > 9
    found = Run.from_trec(climbed.run / "runs" / "ladder-refine.trec", collection, qrels.query_rows)
    evaluation = evaluate(found, qrels, benchmark.measures)
    row = next(row for row in comparison["rows"] if row["name"] == "ladder + refine")
    assert {measure: evaluation.mean(measure) for measure in benchmark.measures} == pytest.approx(row["values"])
    assert 0 < row["values"][benchmark.measures[-1]] <= 1
    if climbed.name == "natural-questions":
        assert row["values"]["R@20"] == pytest.approx(share_with_an_answer(climbed.home, found, collection))


def share_with_an_answer(home, run, collection):
    """Return the share of questions of which one of 20 passages holds an answer, from the files alone."""
    with (home / "psgs_w100.tsv").open() as passages, (home / "nq-test.qa.csv").open() as questions:
        texts = {line["id"]: line["text"] for line in csv.DictReader(passages, delimiter="\t")}
        answers = {text: ast.literal_eval(given) for text, given in csv.reader(questions, delimiter="\t")}
    asked = collection.query_texts(run.queries)
    found = [[texts[collection.passage_ids[row]] for row in ranked[:20]] for ranked in run.passages.tolist()]
    return np.mean(
        [any(has_answer(text, answers[q]) for text in ranked) for q, ranked in zip(asked, found, strict=True)]
    )


def test_natural_questions_go_by_answers_no_negative_holds_one_and_refine_ranks_by_them(climbed):
    if climbed.name != "natural-questions":
        return
    ctx = prepare(load_recipe(climbed.run / "recipe.yaml"))
    known = ctx.splits.train.answers
    mined = {name: climbed.run / folder for name, folder in climbed.facts["stages"].items()}
    mined = {name: folder for name, folder in mined.items() if (folder / "report.json").exists()}
    assert {"candidates.de12", "candidates-2", "candidates-3"} <= mined.keys()
    dropped = 0
    for folder in mined.values():
        found = Candidates.load(folder / "candidates.parquet", ctx.collection)
        for query, row, positive in zip(found.queries.tolist(), found.passages, found.positives, strict=True):
            texts, answers = known.bodies(row[(row >= 0) & ~positive]), known.answers(query)
            assert answers and not any(has_answer(text, answers) for text in texts)
        dropped += read_json(folder / "report.json")["dropped"]["holds an answer"]
    assert dropped
    chosen = [Selection.load(folder) for name, folder in mined.items() if name.startswith("select-")]
    assert chosen and {(one.rule, one.ranks) for one in chosen} == {("better", "answers")}


def towers(stage):
    """Return the files with the weights of the towers of a stage's model."""
    found = sorted((stage / "model").rglob("*_Transformer/model.safetensors"))
    assert [file.parent.name for file in found] == ["document_0_Transformer", "query_0_Transformer"]
    return found


def test_a_paper_recipe_trains_what_the_paper_trains(climbed):
    stages = climbed.facts["stages"]
    trained = ("teacher.de12.first", "teacher.de12", "start.first", "start", "teacher.ce12", "teacher.ce24")
    for stage in (*trained, "rung-1", "rung-2", "rung-3"):
        assert 0 < climbed.training(stage)["steps"] <= 3
    weights = {place.read_bytes() for stage in trained[:4] for place in towers(climbed.run / stages[stage])}
    assert len(weights) == 8  # whoever goes on learns something, and each tower something else
    assert "keep" not in climbed.training("rung-1")["parts"] and "keep" in climbed.training("rung-2")["parts"]


def trainings(section):
    """Every training in a section of a recipe, however deep."""
    if isinstance(section, Optimiser):
        yield section
    if isinstance(section, BaseModel):
        section = dict(section)
    parts = section.values() if isinstance(section, dict) else section if isinstance(section, list) else ()
    for part in parts:
        yield from trainings(part)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_no_training_of_a_paper_recipe_decays(name):
    found = list(trainings(load_recipe(PAPER / f"{name}.yaml")))
    assert len(found) == 10  # DE-12 twice, two cross-encoders, the student's warm-up twice, three rungs, refine
    assert {training.weight_decay for training in found} == {0}


def test_a_pair_has_room_for_the_paper_s_query_and_passage():
    # 32 tokens of a query with [CLS] and [SEP], 159 of a passage with its [SEP].
    room = load_recipe(PAPER / "msmarco-passage.yaml").tokens.pair - 3
    query, passage = cut_pairs(np.array([30]), np.array([400]), room)
    assert (query.tolist(), passage.tolist()) == ([32 - 2], [159 - 1])


def test_the_scale_changes_no_stage(records, tiny_model, tmp_path):
    home = slices.msmarco_passage(records, tmp_path / "slice")
    whole = load_recipe(PAPER / "msmarco-passage.yaml", {**places(home, tiny_model), "student.layers": 3})
    prices = Prices(8_841_823, 502_939, 500, 6_980, 80.0, 10.0, 89.0)
    plans = [stages_of(prepare(recipe)) for recipe in (whole, scaled(whole, "tiny"), scaled(whole, 0.01))]
    first, *others = [[(stage.name, stage.kind, stage.inputs, stage.only_if) for stage in plan] for plan in plans]
    assert [first, first] == others
    works = [[stage.cost(prices) for stage in plan] for plan in plans]
    costs = [sum(work.training + work.forward for work in plan) for plan in works]
    assert costs[1] < costs[0] and costs[2] < costs[0]


def test_the_pool_is_what_a_teacher_scores(records, tiny_model, tmp_path):
    home = slices.msmarco_passage(records, tmp_path / "slice")
    prices = Prices(100, 1000, 0, 0, 80.0, 10.0, 89.0)
    work = {}
    for pool in (16, 100):
        changes = {**places(home, tiny_model), "student.layers": 3, "mining.pool": pool}
        recipe = load_recipe(PAPER / "msmarco-passage.yaml", changes)
        work[pool] = next(s.cost(prices).forward for s in stages_of(prepare(recipe)) if s.name == "scores-3")
    assert work[100] / work[16] == pytest.approx(100 / 16)
