"""What a name means: BM25, a TREC run file, a finished run, an index or a model."""

import shutil
from pathlib import Path

import pytest

from stepwell.errors import RunError
from stepwell.systems.folder import RunFolder
from stepwell.systems.opening import open_system
from stepwell.systems.records import Headroom, Promotion


def test_each_kind_is_told_by_what_lies_there(tiny_run, tiny_model, tmp_path):
    (tmp_path / "index.json").write_text("{}")
    kinds = {
        "bm25": "bm25",
        tiny_run / "runs" / "ladder.trec": "run file",
        tiny_run: "run",
        tmp_path: "index",
        tiny_model: "model",
        "sentence-transformers/all-MiniLM-L6-v2": "model",
        Path("bm25"): "model",  # a place, whatever it is called
    }
    assert {name: open_system(name, "search").kind for name in kinds} == kinds


def test_a_run_has_its_model_and_its_name_and_anything_else_its_own(tiny_run, tiny_model):
    run, model = open_system(tiny_run, "search"), open_system(tiny_model, "search")
    assert (run.model, run.title) == (str(tiny_run / "model"), run.run.results.name)
    assert (model.model, model.title, model.run) == (str(tiny_model), tiny_model.name, None)


def test_a_run_that_is_not_finished_says_what_to_do_then(tmp_path):
    (tmp_path / "stages").mkdir()
    with pytest.raises(RunError, match="go on with `stepwell run`, then dance"):
        open_system(tmp_path, "dance")


def test_stages_are_found_by_name_in_a_finished_run_and_in_one_that_is_not(tiny_run, tmp_path):
    half = shutil.copytree(tiny_run, tmp_path / "half", ignore=shutil.ignore_patterns("*.npy", "results.json"))
    for run in (RunFolder(tiny_run), RunFolder(half)):
        promotion = run.read("promote-2", Promotion)
        assert run.named("student@2.dev").name == f"{promotion.student}.dev"
        assert run.named("student@0").name == "start" and run.named("student@9") is None
        assert run.read("promote-2", Headroom) is None  # what is there is no such record
        assert run.inputs(run.named("promote-2"))
        order = [stage.name for stage in run.stages]
        assert order.index("start") < order.index("start.vectors") < order.index("start.dev")
    assert RunFolder(tiny_run).is_finished and not RunFolder(half).is_finished
