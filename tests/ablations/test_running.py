"""Ablations from one end to the other: what is equal is done once, a stop loses nothing, a failure stops nobody."""

import json
import shutil
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from stepwell import api
from stepwell.ablations import running
from stepwell.ablations.result import Outcome, Shared
from stepwell.errors import StepwellError
from stepwell.evaluation import Evaluation
from stepwell.files import read_json
from stepwell.ladder.plan import Speed
from stepwell.ladder.workspace import Workspace
from stepwell.models.encoder import Encoder
from stepwell.recipe.yaml_file import load_recipe
from stepwell.systems.records import Manifest

SPEED = Speed(forward=1e9, training=1e9)
GRID: dict[str, Any] = {
    "match_updates": True,
    "variants": {
        "ladder": {},
        "without refine": {"refine.rounds": 0},
        "straight from ce": {"only": "ce"},
        "the same ladder again": {"ladder.2.tau": 0.5},
        "all at once": {"together": True},
    },
}


@pytest.fixture(autouse=True)
def _no_probe(monkeypatch):
    """Take the machine's speed as known: measuring it takes longer than the rest."""
    monkeypatch.setattr(running, "speed_of", lambda base: SPEED)


@pytest.fixture(scope="module")
def ablation(tiny_recipe, tmp_path_factory):
    """A finished ablation: its folder, its result, which stages were finished (in order), the store of its scores."""
    out, cache = tmp_path_factory.mktemp("ablation"), tmp_path_factory.mktemp("cache")
    finished = []
    finish = Workspace._finish

    def recorded(self, stage, partial, place, seconds):
        finish(self, stage, partial, place, seconds)
        finished.append(place.name)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STEPWELL_CACHE", str(cache))
        patch.setattr(Workspace, "_finish", recorded)
        patch.setattr(running, "speed_of", lambda base: SPEED)
        result = api.ablate(tiny_recipe, GRID, out)
    return SimpleNamespace(out=out, result=result, finished=finished, cache=cache)


@pytest.fixture
def again(ablation, tiny_recipe, monkeypatch):
    """Run the same ablation again, in the same folder and cache."""
    monkeypatch.setenv("STEPWELL_CACHE", str(ablation.cache))
    return lambda: api.ablate(tiny_recipe, GRID, ablation.out)


def outcome(result, name):
    return next(outcome for outcome in result.outcomes if outcome.name == name)


def test_a_stage_that_is_equal_in_two_variants_is_run_once(ablation):
    assert len(ablation.finished) == len(set(ablation.finished)) == ablation.result.shared.run
    assert set(ablation.finished) == {place.name for place in (ablation.out / "stages").iterdir()}
    ladder, straight = (outcome(ablation.result, name).stages for name in ("ladder", "straight from ce"))
    for stage in ("start", "teacher.ce", "teacher.de.vectors", "bm25"):
        assert ladder[stage] == straight[stage]
    assert ladder["candidates-2"] == straight["candidates-1"] and ladder["scores-2"] == straight["scores-1"]
    assert ladder["rung-2"] != straight["rung-1"]


def test_a_variant_that_changes_nothing_runs_nothing_and_is_no_different(ablation):
    same, ladder = outcome(ablation.result, "the same ladder again"), outcome(ablation.result, "ladder")
    assert same.stages == ladder.stages
    row = ablation.result.comparison.row("the same ladder again")
    assert set(row.difference.values()) == {0.0} and set(row.p.values()) == {1.0}


def test_pairs_are_scored_once_and_counted_each_time_they_are_asked_for(ablation):
    shared = ablation.result.shared
    kept = [read_rows(path) for path in ablation.cache.glob("scores/*/*/*.arrow")]
    assert shared.scored == sum(kept) > 0
    stages = ablation.out / "stages"
    scores = read_json(stages / outcome(ablation.result, "ladder").stages["scores-2"] / "pairs.json")
    assert scores[0][0] == scores[0][1] > 0  # the first to ask
    assert shared.asked >= 4 * scores[0][0]  # in four of the variants


def read_rows(path):
    with pa.OSFile(str(path)) as file:
        return pa.ipc.open_file(file).read_all().num_rows


def test_what_was_shared_is_counted_over_variants(tmp_path):
    for folder, seconds, pairs in (("a-1", 2.0, [[10, 10]]), ("b-2", 3.0, None), ("c-3", 4.0, None)):
        (tmp_path / folder).mkdir()
        Manifest(name=folder, kind="x", key="k", inputs={}, finished="now", seconds=seconds).save(tmp_path / folder)
        if pairs:
            (tmp_path / folder / "pairs.json").write_text(json.dumps(pairs))
    outcomes = [
        Outcome("one", 1, {"scores-1": "a-1", "rung-1": "b-2", "x": "c-3", "the same as x": "c-3"}),
        Outcome("two", 1, {"scores-1": "a-1", "x": "c-3"}),
    ]
    # A rung asks for nothing: its scores are an input.
    assert Shared.of(outcomes, tmp_path) == Shared(5, 3, asked=20, scored=10, seconds_alone=15.0, seconds=9.0)


def test_updates_are_counted_and_a_shorter_ladder_is_given_as_many(ablation, tiny_collection):
    result, stages = ablation.result, ablation.out / "stages"
    # rung 1: 60 passages and 28 queries in batches of 16; rung 2: 28 queries in batches of 8
    assert outcome(result, "without refine").updates == 6 + 4
    assert outcome(result, "straight from ce").updates == 10
    refined = read_json(stages / outcome(result, "ladder").stages["rung-3"] / "training.json")["steps"]
    assert outcome(result, "ladder").updates == 10 + refined


def test_no_teacher_is_asked_for_headroom_where_every_rung_is_climbed(ablation):
    assert not [name for name in ablation.finished if name.startswith("headroom")]
    assert all(rung.force for rung in load_recipe(ablation.out / "variants" / "01-ladder" / "recipe.yaml").ladder)


def test_the_table_gives_the_figures_of_the_test_runs(ablation, tiny_collection):
    folder = ablation.out / "variants" / "03-straight-from-ce"
    evaluation, _ = api.evaluate_system(folder / "run.trec", tiny_collection.path, "test")
    row = ablation.result.comparison.row("straight from ce")
    assert row.values["nDCG@10"] == pytest.approx(evaluation.mean("nDCG@10"), abs=1e-12)
    text = (ablation.out / "ablation.md").read_text()
    low, high = row.interval["RR@10"]
    assert f"{row.values['RR@10']:.3f} [{low:.3f}, {high:.3f}]" in text and "Teachers were asked for" in text
    assert r"\toprule" in (ablation.out / "ablation.tex").read_text()
    facts = read_json(ablation.out / "ablation.json")
    assert [variant["name"] for variant in facts["variants"]] == [*GRID["variants"]]
    assert facts["shared"]["scored"] == ablation.result.shared.scored and facts["machine"]["precision"] == "fp32"


def test_a_finished_ablation_runs_nothing_again(ablation, again, monkeypatch):
    def never(*_, **__):
        raise AssertionError("done again")

    monkeypatch.setattr("stepwell.ladder.trainings.train", never)
    monkeypatch.setattr(Encoder, "encode", never)
    before = {path: path.stat().st_mtime_ns for path in ablation.out.glob("stages/*/manifest.json")}
    result = again()
    assert result.comparison == ablation.result.comparison and result.shared == ablation.result.shared
    assert before == {path: path.stat().st_mtime_ns for path in ablation.out.glob("stages/*/manifest.json")}


def test_after_a_stop_only_what_is_missing_is_done(ablation, again):
    lost = ablation.out / "stages" / outcome(ablation.result, "straight from ce").stages["rung-1"]
    kept = {
        path: path.stat().st_mtime_ns for path in ablation.out.glob("stages/*/manifest.json") if lost != path.parent
    }
    shutil.rmtree(lost)
    result = again()
    assert kept == {path: path.stat().st_mtime_ns for path in kept} and lost.is_dir()
    assert result.comparison == ablation.result.comparison


def test_a_variant_that_fails_is_named_and_the_others_go_on(ablation, again, monkeypatch):
    climb = running.climb

    def fails(ctx, *rest):
        if ctx.recipe.name == "ladder":
            raise StepwellError("no such luck.")
        if ctx.recipe.name == "without refine":
            raise RuntimeError("out of memory")
        climb(ctx, *rest)

    monkeypatch.setattr(running, "climb", fails)
    result = again()
    assert result.failed == {"ladder": "no such luck.", "without refine": "RuntimeError: out of memory"}
    assert result.comparison.reference == "straight from ce"
    text = result.table().text()
    assert "ladder failed: no such luck." in text and "compared with straight from ce" in text
    assert "RuntimeError" in (ablation.out / "variants" / "02-without-refine" / "error.txt").read_text()


def test_when_all_variants_fail_that_is_an_error(again, monkeypatch):
    def fails(*_):
        raise StepwellError("no such luck.")

    monkeypatch.setattr(running, "climb", fails)
    with pytest.raises(StepwellError, match=r"no variant .* ladder: no such luck"):
        again()


def test_the_plan_counts_a_shared_stage_once(ablation, tiny_recipe, tmp_path, monkeypatch):
    monkeypatch.setenv("STEPWELL_CACHE", str(ablation.cache))
    plan = api.plan_ablation(tiny_recipe, GRID, tmp_path / "new")
    first, again = plan.variants[0], plan.variants[3]
    assert first.own == first.stages and again.own == 0 and plan.done == 0 and plan.total > 0
    assert plan.own == ablation.result.shared.run and not (tmp_path / "new").exists()
    done = api.plan_ablation(tiny_recipe, GRID, ablation.out)
    assert done.done == done.own and done.total == 0
    assert "shared with a variant above" in done.table().text()


def test_variants_must_be_tested_on_the_same_queries(tiny_recipe, tmp_path):
    grid = {"variants": {"a": {}, "b": {"collection.test_queries": 3}}}
    with pytest.raises(StepwellError, match="'b' and 'a' are tested on different queries"):
        api.plan_ablation(tiny_recipe, grid, tmp_path)


def test_a_variant_that_cant_be_built_is_named_before_anything_runs(tiny_recipe, tmp_path):
    grid = {"variants": {"a": {}, "b": {"refine.teacher": "de"}}}
    with pytest.raises(StepwellError, match=r"the variant 'b': refine needs"):
        api.ablate(tiny_recipe, grid, tmp_path)
    assert not list((tmp_path / "stages").iterdir())


def test_the_command_plans_prints_and_fails_when_a_variant_does(ablation, tiny_recipe, tmp_path, monkeypatch):
    from typer.testing import CliRunner

    from stepwell import display
    from stepwell.cli import app

    monkeypatch.setenv("STEPWELL_CACHE", str(ablation.cache))
    grid = tmp_path / "grid.json"  # JSON is YAML
    grid.write_text(json.dumps(GRID))
    arguments = ["-q", "ablate", str(tiny_recipe), "--grid", str(grid), "--out", str(ablation.out)]
    runner = CliRunner()
    monkeypatch.setattr(display, "_quiet", False)
    planned = json.loads(runner.invoke(app, [*arguments, "--plan", "--json"]).stdout)
    assert planned["seconds"] == 0 and len(planned["variants"]) == 5
    climb = running.climb
    monkeypatch.setattr(running, "climb", lambda ctx, *rest: climb(ctx, *rest) if ctx.recipe.refine.rounds else 1 / 0)
    done = runner.invoke(app, [*arguments, "--json"])
    assert done.exit_code == 1
    assert [bool(variant["failed"]) for variant in json.loads(done.stdout)["variants"]] == [
        False,
        True,
        True,
        False,
        True,
    ]


def test_evaluations_are_those_of_the_last_student(ablation, tiny_collection):
    ladder = outcome(ablation.result, "ladder")
    assert ladder.test == "rung-3.test"
    place = ablation.out / "stages" / ladder.stages[ladder.test] / "evaluation.parquet"
    mean = Evaluation.load(place, tiny_collection).mean("nDCG@10")
    assert ablation.result.comparison.row("ladder").values["nDCG@10"] == pytest.approx(mean)
