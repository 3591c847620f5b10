"""What is public: the names of the package, the page that promises them, and errors that a program can tell apart."""

import copy
import importlib
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import stepwell
from stepwell import api

PAGE = Path(__file__).resolve().parents[1] / "docs" / "public.md"


def test_the_page_names_what_is_public():
    section = PAGE.read_text(encoding="utf-8").partition("## Names of the package")[2].partition("\n## ")[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    assert sorted(name for row in rows for name in re.findall(r"`(\w+)`", row)) == sorted(stepwell.__all__)


def test_the_reference_shows_what_is_public():
    text = (PAGE.parent / "reference.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"^::: stepwell\.(\w+)$", text, re.M)) == sorted({*stepwell.__all__} - {"__version__"})


def test_every_name_can_be_taken_from_the_package_whatever_was_imported():
    for room in pkgutil.iter_modules(stepwell.__path__):  # a room of the same name would take the verb's place
        if room.name != "__main__":
            importlib.import_module(f"stepwell.{room.name}")
    for name in stepwell.__all__:
        assert not isinstance(getattr(stepwell, name), type(stepwell)), name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = stepwell.nothing


def test_the_command_line_has_a_function_of_the_package_for_each_verb():
    from stepwell.cli import app

    verbs = {command.name or command.callback.__name__ for command in app.registered_commands}
    assert {"evaluate" if verb == "eval" else verb for verb in verbs} <= set(stepwell.__all__)


def test_importing_the_package_and_its_verbs_loads_no_library():
    heavy = {"torch", "numpy", "pydantic", "sentence_transformers", "pyarrow", "typer"}
    code = f"import sys, stepwell, stepwell.api; print({heavy} & sys.modules.keys())"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


def test_a_mistake_in_a_recipe_is_a_recipe_error(tmp_path):
    (tmp_path / "recipe.yaml").write_text("name: x\nladders: []\n")
    with pytest.raises(stepwell.RecipeError, match="ladders"):
        stepwell.plan(tmp_path / "recipe.yaml")


def test_a_collection_that_cannot_be_read_is_a_collection_error(tmp_path):
    with pytest.raises(stepwell.CollectionError, match=str(tmp_path)):
        stepwell.open_collection(tmp_path)


def test_a_folder_without_a_finished_run_is_a_run_error(tmp_path):
    (tmp_path / "stages").mkdir()
    with pytest.raises(stepwell.RunError, match="is not finished"):
        stepwell.search(tmp_path, "river")


def test_an_extra_that_is_not_installed_is_a_missing_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(stepwell.MissingPackage, match=r"pip install 'stepwell\[serve\]'") as caught:
        stepwell.serve(tmp_path)
    assert (caught.value.package, caught.value.extra) == ("uvicorn", "serve")


def test_a_missing_package_says_what_to_install_also_as_a_copy():
    error = stepwell.MissingPackage("a sentence", "onnx", "onnx")
    assert isinstance(error, stepwell.StepwellError)
    again = copy.copy(error)
    assert (str(again), again.package, again.extra) == ("a sentence", "onnx", "onnx")


def test_a_recipe_is_read_with_changes_in_either_form_and_made_small(tiny_recipe):
    changed = api.load_recipe(tiny_recipe, {"ladder.2.lr": 5e-4})
    assert changed == api.load_recipe(tiny_recipe, ["ladder.2.lr=5e-4"]) != api.load_recipe(tiny_recipe)
    assert api.load_recipe(tiny_recipe, scale="tiny").name != changed.name


def test_evaluate_gives_means_with_intervals(tiny_path):
    judged = stepwell.evaluate("bm25", tiny_path)
    figure = judged.figures()["nDCG@10"]
    assert figure.low <= figure.mean == judged.evaluation.mean("nDCG@10") <= figure.high
    assert stepwell.evaluate_system("bm25", tiny_path)[0].mean("nDCG@10") == figure.mean


def test_mining_settings_may_be_a_mapping(tiny_path):
    mined = stepwell.mine(tiny_path, k=4, settings={"sampling": "hardest", "positives": 1})
    assert mined.candidates.passages.shape == (mined.report.queries, 4)
    with pytest.raises(stepwell.StepwellError, match="mining options don't fit"):
        stepwell.mine(tiny_path, settings={"first": 9, "last": 3})
    with pytest.raises(stepwell.StepwellError, match="name a cross-encoder"):
        stepwell.mine(tiny_path, settings={"denoise": 0.0})
    with pytest.raises(stepwell.StepwellError, match="no query of the split 'train' of tiny has answers"):
        stepwell.mine(tiny_path, settings={"answers": True})
