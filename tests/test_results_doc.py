"""docs/results.md: its tables are those of benchmarks/results.py, which prices the paper's recipes as plan does."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "results.md"


@pytest.fixture(scope="module")
def results() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        return importlib.import_module("results")


@pytest.fixture(scope="module")
def bases(results: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return results.configurations(tmp_path_factory.mktemp("models"))


def test_the_page_has_the_tables_that_the_recipes_give(results: ModuleType) -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert results.filled(page, results.tables(results.Assumptions())) == page, (
        "run: python benchmarks/results.py --page"
    )


def test_every_recipe_of_the_paper_has_a_row_and_every_row_its_figure_or_its_price(results: ModuleType) -> None:
    recipes = {path.stem for path in (ROOT / "recipes" / "paper").glob("*.yaml")}
    assert {benchmark.recipe for benchmark in results.BENCHMARKS} == recipes
    page = PAGE.read_text(encoding="utf-8").partition("<!-- end of results -->")[0]
    assert len(re.findall(r"not run: needs \d+ GPU-hours \|", page)) == len(recipes)


def test_a_training_costs_what_its_steps_say(results: ModuleType, bases: dict[str, str]) -> None:
    # Twice the steps of one rung: 40,000 more of 64 queries with 10 tokens and 16 passages of 80, in six layers, 768
    # wide, of 24 * 768^2 operations a token and layer; three passes. The four baselines get as many more each: two
    # with the candidates of this rung, two with those of warm-up and of the first rung.
    benchmark = results.BENCHMARKS[0]
    once, twice = (results.cost(benchmark, bases, **{"ladder.3.steps": steps}) for steps in (40_000, 80_000))
    rung = 40_000 * 64 * (10 + 16 * 80) * 6 * 24 * 768**2 * 3
    contrastive = 40_000 * 128 * (10 + 2 * 80) * 6 * 24 * 768**2 * 3
    assert twice.training - once.training == pytest.approx(3 * rung + 2 * contrastive)
    assert twice.forward == once.forward


def test_hours_share_inference_among_all_and_trainings_among_eight(results: ModuleType) -> None:
    a = results.Assumptions(peak=1e12, share=0.5)
    cost = results.Cost(forward=0.5e12 * 3600, training=0.5e12 * 7200, disk=0.0)
    assert [cost.hours(n, a) for n in (1, 8, 16)] == pytest.approx([3.0, 3 / 8, 1 / 16 + 2 / 8])
