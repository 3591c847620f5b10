"""docs/scaling.md: its tables are those of benchmarks/scaling.py, whose formulas are those of `stepwell plan`."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from transformers import BertConfig

from stepwell.ladder.prices import Prices
from stepwell.models.shape import operations_a_token
from stepwell.recipe import Optimiser
from stepwell.teachers.kinds import Cost, Reads

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def scaling(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("scaling")


@pytest.fixture
def page() -> str:
    return (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")


def write_config(model, folder: Path) -> str:
    config = BertConfig(
        vocab_size=model.vocabulary,
        hidden_size=model.width,
        intermediate_size=4 * model.width,
        num_hidden_layers=model.layers,
        num_attention_heads=model.width // 64,
    )
    config.save_pretrained(folder / model.name)
    return str(folder / model.name)


def test_the_page_has_the_tables_that_the_formulas_give(scaling: ModuleType, page: str) -> None:
    assert scaling.filled(page, scaling.Assumptions()) == page, (
        "run: python benchmarks/scaling.py --page docs/scaling.md"
    )


def test_the_numbers_in_the_text_are_those_of_the_formulas(scaling: ModuleType, page: str) -> None:
    a = scaling.Assumptions()
    costs = [round(model.operations / 1e6) for model in (scaling.STUDENT, scaling.DE, scaling.LARGE)]
    assert f"costs {costs[0]} MFLOP in the student, {costs[1]} in DE-12 and CE-12, and {costs[2]} in CE-24" in page
    large = next(stage for stage in scaling.stages(a) if stage.title == "score all candidates with CE-24")
    told = f"{large.tokens / 1e9:.2f} G tokens, times {costs[2]} MFLOP are\n{large.work / 1e15:,.0f} PFLOP"
    assert told in page
    assert f"are {large.hours(1, a):.1f} hours on one GPU" in page.replace("over 125 TFLOP/s ", "")
    assert f"{a.peak * a.share / 1e12:.0f} TFLOP/s" in page
    assert f"{a.passages:,}" in page
    assert f"{a.queries:,}" in page


def test_every_stage_costs_what_plan_says(scaling: ModuleType, tmp_path: Path) -> None:
    a = scaling.Assumptions()
    tokens = a.passage_tokens, a.query_tokens, a.pair_tokens
    prices = Prices(a.passages, a.queries, 0, 0, *tokens)
    student, de, ce, large = (
        SimpleNamespace(base=write_config(model, tmp_path), layers=None, towers=model.towers)
        for model in (scaling.STUDENT, scaling.DE, scaling.CE, scaling.LARGE)
    )

    def dense(model: SimpleNamespace, steps: int, batch: int, k: int):
        return prices.dense(model, Optimiser(steps=steps, batch=batch), k)

    def scores(model: SimpleNamespace, queries: int, k: int):
        return prices.scoring(Cost((Reads(model.base, None, "pairs"),), kept=queries * k), queries, k)

    plan = {
        "train DE-12, 50 k steps of 128 x 2": dense(de, 50_000, 128, 2),
        "encode with DE-12, twice": prices.encode(de),
        "embedding rung, one epoch": prices.embedding(student, Optimiser(epochs=1, batch=1), (0, 0)),
        "rung DE-12, 40 k steps of 128 x 2": dense(student, 40_000, 128, 2),
        "train CE-12, 6 k steps of 256 x 16": prices.lists(ce, "pairs", 6_000 * 256, 16),
        "score all candidates with CE-12": scores(ce, a.queries, a.candidates),
        "rung CE-12, 40 k steps of 64 x 16": dense(student, 40_000, 64, 16),
        "train CE-24, 6 k steps of 256 x 16": prices.lists(large, "pairs", 6_000 * 256, 16),
        "score all candidates with CE-24": scores(large, a.queries, a.candidates),
        "rung CE-24, 40 k steps of 64 x 16": dense(student, 40_000, 64, 16),
        "refine: CE-24 reranks 20 a query": scores(large, a.queries, 20),
        "refine: 2 k steps of 64 x 16": dense(student, 2_000, 64, 16),
        "encode with the student, 5 times": prices.encode(student),
    }
    times = {"encode with DE-12, twice": 2, "encode with the student, 5 times": 5}
    stages = {stage.title: stage for stage in scaling.stages(a)}
    assert stages.keys() - plan.keys() == {"mine: search, 4 times"}  # which plan does not price
    for title, work in plan.items():
        often = times.get(title, 1)
        assert stages[title].work == pytest.approx(often * (work.forward + work.training), rel=1e-9), title
        assert stages[title].disk == pytest.approx(often * work.disk, rel=1e-9), title


def test_a_model_costs_two_operations_a_weight_and_token(scaling: ModuleType, tmp_path: Path) -> None:
    # one layer, 2 wide, inner 8: four matrices of 4 weights, two of 16
    model = scaling.Model("toy", layers=1, width=2, vocabulary=10)
    assert model.operations == 2 * (4 * 4 + 2 * 16)
    assert model.weights == 48 + 20
    assert operations_a_token(write_config(scaling.LARGE, tmp_path), None) == scaling.LARGE.operations


def test_more_gpus_share_inference_but_not_training(scaling: ModuleType) -> None:
    a = scaling.Assumptions(peak=1e12, share=0.5)
    model = scaling.Model("toy", layers=1, width=2)
    inference = scaling.Stage("", model, 1, tokens=1e12 / 96 * 1800)  # half a peta operation and a bit: one hour
    training = scaling.Stage("", model, 1, tokens=1e12 / 96 * 600, training=True)  # a third of it, three passes
    assert inference.hours(1, a) == pytest.approx(1.0)
    assert inference.hours(64, a) == pytest.approx(1 / 64)
    assert training.hours(1, a) == pytest.approx(1.0)
    assert training.hours(64, a) == training.hours(8, a) == pytest.approx(1 / 8)


def test_a_reader_can_put_in_other_numbers(scaling: ModuleType) -> None:
    a = scaling.changed(scaling.Assumptions(), ["passages=2e6", "share=0.5"])
    assert (a.passages, a.share, a.queries) == (2_000_000, 0.5, scaling.Assumptions().queries)
