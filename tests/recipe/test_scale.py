"""A scaled recipe has the structure of the whole one, and nothing in it is larger."""

from pathlib import Path

import pytest
from hypothesis import given, strategies as st
from typer.testing import CliRunner

from stepwell.cli import app
from stepwell.errors import StepwellError
from stepwell.recipe import Optimiser, Recipe
from stepwell.recipe.scale import TINY_TRAINING, scaled
from stepwell.recipe.yaml_file import dump_recipe, load_recipe

FILES = sorted((Path(__file__).resolve().parents[2] / "recipes").rglob("*.yaml"))
RECIPES = [path for path in FILES if "\nvariants:" not in path.read_text(encoding="utf-8")]  # the others are grids

counts = st.integers(1, 100_000)
several = st.integers(2, 64)
lengths = st.one_of(
    st.fixed_dictionaries({"steps": counts, "batch": counts}),
    st.fixed_dictionaries({"epochs": st.floats(0, 50), "batch": counts}),
)
dense = st.builds(lambda length, n: {**length, "negatives": n}, lengths, st.integers(0, 8))
continued = st.builds(lambda first, second: {**first, "continue": second}, dense, st.none() | lengths)
maybe = st.none() | counts


@st.composite
def recipes(draw):
    rungs = [
        {"teacher": "de", "loss": "embedding", **draw(lengths)},
        {"teacher": "de", "loss": "in-batch", "candidates": draw(several), **draw(lengths)},
        {"teacher": "ce", "loss": "candidates", "candidates": draw(several), **draw(lengths)},
    ]
    first = draw(st.integers(1, 60))
    rerank = {"candidates": draw(several), "imitate_epochs": draw(st.floats(0.1, 9)), **draw(lengths)}
    content = {
        "collection": {"path": "demo", "train_queries": draw(maybe), "dev_queries": draw(maybe)},
        "tokens": {"query": draw(st.integers(4, 512))},
        "student": {"from": "demo", "layers": draw(st.none() | st.integers(1, 24))},
        "teachers": {
            "de": {"kind": "dual-encoder", "from": "demo", "train": draw(st.none() | continued)},
            "ce": {"kind": "cross-encoder", "from": "demo", "layers": draw(maybe), "imitate": "de", "train": rerank},
        },
        "mining": {"depth": 160, "first": first, "last": first + draw(st.integers(0, 100)), "pool": draw(maybe)},
        "warmup": draw(continued),
        "ladder": draw(st.lists(st.sampled_from(rungs), min_size=1, max_size=5)),
        "refine": {"rounds": draw(st.integers(0, 4)), "depth": draw(counts), **draw(lengths)},
        "judging": {"rerank": draw(counts)},
    }
    return Recipe.model_validate(content)


scales = st.just("tiny") | st.floats(1e-3, 1.0)


def structure(recipe):
    """Return what a scale must not change."""
    teachers = {
        name: (teacher.kind, teacher.base, teacher.train is None, getattr(teacher.train, "further", None) is None)
        for name, teacher in recipe.teachers.items()
    }
    rungs = [
        (rung.teacher, rung.loss, rung.soft, rung.alpha, rung.beta, rung.gamma, rung.tau) for rung in recipe.ladder
    ]
    return teachers, rungs, recipe.refine.rounds, recipe.refine.rule, recipe.proof, recipe.seed, recipe.judging.measure


def trainings(value):
    """Yield every training of a recipe, however deep."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    if hasattr(value, "model_fields_set"):
        inner = [getattr(value, name) for name in type(value).model_fields]
    if isinstance(value, Optimiser):
        yield value
    for item in inner:
        yield from trainings(item)


def numbers(value, at=()):
    """Yield (place, number) of a dumped recipe."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    if isinstance(value, int | float):
        yield at, value
    for key, item in items:
        yield from numbers(item, (*at, key))


@given(recipes(), scales)
def test_the_structure_stays(recipe, scale):
    assert structure(scaled(recipe, scale)) == structure(recipe)


@given(recipes(), scales)
def test_no_number_grows(recipe, scale):
    before = dict(numbers(recipe.model_dump()))
    for place, number in numbers(scaled(recipe, scale).model_dump()):
        assert place not in before or number <= before[place], place


@given(recipes(), scales)
def test_what_is_scaled_is_a_recipe(recipe, scale):
    small = scaled(recipe, scale)
    assert Recipe.model_validate(small.model_dump(by_alias=True)) == small


@given(recipes())
def test_every_training_is_short_at_tiny_and_none_is_left_out(recipe):
    pairs = zip(trainings(recipe), trainings(scaled(recipe, "tiny")), strict=True)
    for whole, small in pairs:
        assert bool(small.steps) == bool(whole.steps or whole.epochs)
        assert small.steps is None or small.steps <= TINY_TRAINING["steps"]


@given(recipes())
def test_tiny_is_as_small_as_it_gets(recipe):
    small = scaled(recipe, "tiny")
    assert scaled(small, "tiny").model_copy(update={"name": small.name}) == small


def test_models_that_are_taken_stay_whole():
    teachers = {"ce": {"kind": "cross-encoder", "from": "demo"}, "de": {"kind": "dual-encoder", "from": "demo"}}
    ladder = [{"teacher": "ce", "loss": "candidates"}]
    content = {"collection": {"path": "demo"}, "student": {"from": "demo", "pick": [0, 3, 5]}}
    small = scaled(Recipe.model_validate({**content, "teachers": teachers, "ladder": ladder}), "tiny")
    assert [teacher.layers for teacher in small.teachers.values()] == [None, None]
    assert (small.student.layers, small.student.pick) == (1, [0])


@pytest.mark.parametrize("scale", ["large", "0", "-1", "1.5", "nan", ""])
def test_another_scale_is_refused(scale, tiny_recipe):
    with pytest.raises(StepwellError, match="--scale takes `tiny` or a number above 0"):
        scaled(load_recipe(tiny_recipe), scale)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_of_the_project_is_one_and_can_be_scaled(path, tmp_path):
    recipe = load_recipe(path)
    assert recipe.name == path.stem
    copy = tmp_path / "copy.yaml"
    copy.write_text(dump_recipe(scaled(recipe, "tiny")), encoding="utf-8")
    assert load_recipe(copy).name == f"{path.stem}-tiny"


def test_the_command_line_scales_after_its_changes(tiny_recipe, tmp_path):
    options = ["--set", "ladder.1.steps=100", "--scale", "tiny", "--json", "--out", str(tmp_path)]
    done = CliRunner().invoke(app, ["plan", str(tiny_recipe), *options])
    assert done.exit_code == 0 and '"rung-1"' in done.output
    refused = CliRunner().invoke(app, ["plan", str(tiny_recipe), "--scale", "huge"])
    assert isinstance(refused.exception, StepwellError)
