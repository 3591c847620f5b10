"""A recipe that extends another says only what differs; a mistake is told where it stands."""

from pathlib import Path

import pytest

from stepwell.errors import StepwellError
from stepwell.recipe.yaml_file import load_recipe

BASE = """\
name: base
collection: {path: data, train_queries: 100}
student: {from: demo, layers: 2}
teachers:
  de: {kind: dual-encoder, from: demo, train: {lr: 1e-4, epochs: 3}}
ladder:
  - {teacher: de, loss: embedding}
  - {teacher: de, loss: in-batch}
"""


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Write recipes by name; return the first."""
    monkeypatch.chdir(tmp_path)

    def write(**texts):
        for name, text in ({"base": BASE} | texts).items():
            Path(f"{name}.yaml").write_text(text, encoding="utf-8")
        return f"{next(iter(texts))}.yaml"

    return write


def refusal(path):
    with pytest.raises(StepwellError) as caught:
        load_recipe(path)
    return str(caught.value)


def test_sections_are_merged_and_lists_replaced(files):
    own = (
        "extends: base.yaml\nname: own\nteachers: {de: {train: {lr: 2e-5}}}\nladder: [{teacher: de, loss: in-batch}]\n"
    )
    base, recipe = load_recipe("base.yaml") if files(own=own) else None, load_recipe("own.yaml")
    train = recipe.teachers["de"].train
    assert (recipe.name, train.lr, train.epochs, len(recipe.ladder)) == ("own", 2e-5, 3, 1)
    assert (recipe.student, recipe.collection) == (base.student, base.collection)


def test_an_empty_value_empties(files):
    recipe = load_recipe(files(own="extends: base.yaml\nstudent: {layers: null}\ncollection: {train_queries: }\n"))
    assert (recipe.student.layers, recipe.collection.train_queries) == (None, None)


def test_a_recipe_may_extend_one_that_extends(files):
    texts = {"top": "extends: middle.yaml\nseed: 3\n", "middle": "extends: base.yaml\nseed: 2\nname: middle\n"}
    recipe = load_recipe(files(**texts), {"student.layers": 4})
    assert (recipe.seed, recipe.name, recipe.student.layers) == (3, "middle", 4)


def test_a_mistake_names_the_file_and_the_line_it_stands_in(files):
    text = refusal(files(own="extends: base.yaml\nstudent: {layer: 3}\n"))
    assert text.startswith("own.yaml:2: student.layer: there is no such key; did you mean `layers`?")
    text = refusal(files(own="extends: base.yaml\nseed: 1\n", base=BASE.replace("layers: 2", "layers: two")))
    assert text.startswith("base.yaml:3: student.layers: must be a whole number")


@pytest.mark.parametrize(
    "texts, said",
    [
        ({"own": "seed: 1\nextends: none.yaml\n"}, "own.yaml:2: the recipe that this one extends, none.yaml, does not"),
        ({"own": "extends: [base.yaml]\n"}, "own.yaml:1: `extends` names one other recipe"),
        ({"own": "extends: own.yaml\n"}, "own.yaml:1: the recipe extends itself."),
        ({"own": "extends: b.yaml\n", "b": "extends: own.yaml\n"}, "b.yaml:1: the recipe extends itself by way of"),
        ({"own": "extends: base.yaml\nextend: 3\n"}, "own.yaml:2: extend: there is no such key"),
    ],
)
def test_what_cannot_be_extended_is_refused(files, texts, said):
    assert refusal(files(**texts)).startswith(said)


def test_directories_are_looked_for_beside_either_file(files, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "deep").mkdir()
    files(base=BASE)
    Path("deep/own.yaml").write_text("extends: ../base.yaml\n", encoding="utf-8")
    assert load_recipe("deep/own.yaml").collection.path == str(tmp_path / "data")
    (tmp_path / "deep" / "data").mkdir()
    assert load_recipe("deep/own.yaml").collection.path == str(tmp_path / "deep" / "data")
