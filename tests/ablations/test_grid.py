"""Grids: the recipe of each variant, worked out by hand, and what is said about mistakes."""

from pathlib import Path

import pytest

from stepwell.ablations import load_grid, read_grid, vocabulary
from stepwell.errors import StepwellError
from stepwell.recipe import Recipe

TEACHERS = {
    "de": {"kind": "dual-encoder", "from": "demo"},
    "ce2": {"kind": "cross-encoder", "from": "demo", "layers": 2, "train": {"epochs": 1}},
    "ce4": {"kind": "cross-encoder", "from": "demo", "layers": 4, "train": {"epochs": 1}},
}
RUNGS = [
    {"teacher": "de", "loss": "embedding", "steps": 10},
    {"teacher": "de", "loss": "in-batch", "epochs": 2, "batch": 10, "gamma": 0, "hold": 1.0},
    {"teacher": "ce2", "loss": "candidates", "epochs": 1, "batch": 10, "gamma": 1, "beside": "de"},
    {"teacher": "ce4", "loss": "candidates", "epochs": 1, "batch": 10, "gamma": 1},
]


@pytest.fixture
def recipe():
    return Recipe.model_validate(
        {
            "name": "four rungs",
            "collection": {"path": "demo"},
            "student": {"from": "demo", "layers": 2},
            "teachers": TEACHERS,
            "ladder": RUNGS,
            "refine": {"rounds": 2},
            "proof": "full",
        }
    )


@pytest.fixture
def variant(recipe):
    """Return the recipe of one variant, given as YAML."""

    def variant(changes, top=""):
        (made,) = read_grid(f"{top}\nvariants:\n  it: {changes}\n", "grid.yaml", recipe, Path()).variants
        return made.recipe

    return variant


def shape(recipe):
    return [(rung.teacher, rung.loss) for rung in recipe.ladder]


def test_dotted_keys_and_partial_recipes_are_merged_into_the_recipe(variant):
    made = variant("{ladder.3.lr: 1e-4, student: {layers: 4}, refine.rounds: 1, teachers: {ce2: {layers: 3}}}")
    assert made.ladder[2].lr == 1e-4 and made.ladder[2].beside == "de" and made.ladder[3].lr == 5e-5
    assert made.student.layers == 4 and made.student.base == "demo"
    assert made.refine.rounds == 1 and made.teachers["ce2"].layers == 3 and made.teachers["ce4"].layers == 4


def test_a_variant_without_changes_is_the_recipe_climbed_without_gates(variant, recipe):
    made = variant("{}")
    assert all(rung.force for rung in made.ladder) and made.judging.level == 0
    assert made.name == "it" and made.proof == "none"
    gated = variant("{}", top="force: false")
    assert gated.ladder == recipe.ladder and gated.judging == recipe.judging
    assert variant("{force: false}").ladder == recipe.ladder


def test_without_a_rung_all_else_stays_as_it_was_in_the_whole_ladder(variant):
    made = variant("{without: [4]}")
    assert shape(made) == [("de", "embedding"), ("de", "in-batch"), ("ce2", "candidates")]
    assert made.refine.teacher == "ce4" and made.refine.rounds == 2
    assert [rung.negatives for rung in made.ladder] == ["de", "de", "de"]
    assert made.ladder[1].hold == 1.0


def test_a_rung_that_comes_first_has_nothing_to_keep_and_hold_needs_an_embedding_rung(variant):
    made = variant("{without: [1, 2]}")
    assert shape(made) == [("ce2", "candidates"), ("ce4", "candidates")]
    assert [rung.gamma for rung in made.ladder] == [0, 1]
    assert made.ladder[0].beside == "de"
    assert variant("{without: 1}").ladder[0].hold == 0


def test_only_a_teacher_is_plain_distillation(variant):
    made = variant("{only: ce2}")
    assert shape(made) == [("ce2", "candidates")] and made.refine.rounds == 0
    rung = made.ladder[0]
    assert (rung.gamma, rung.beside, rung.negatives) == (0, None, "de")
    assert shape(variant("{only: de}")) == [("de", "embedding"), ("de", "in-batch")]
    assert shape(variant("{only: [1, ce4]}")) == [("de", "embedding"), ("ce4", "candidates")]
    refined = variant("{only: de, refine.rounds: 1}")
    assert refined.refine.rounds == 1 and refined.refine.teacher == "ce4"


def test_a_reversed_ladder_keeps_the_negatives_and_the_teacher_of_refine(variant):
    made = variant("{reversed: true}")
    assert shape(made) == [("ce4", "candidates"), ("ce2", "candidates"), ("de", "in-batch"), ("de", "embedding")]
    assert [rung.gamma for rung in made.ladder] == [0, 1, 0, 1]
    assert {rung.negatives for rung in made.ladder} == {"de"} and made.refine.teacher == "ce4"


def test_without_keep_gamma_is_nought_everywhere(variant):
    made = variant("{keep: false}")
    assert {rung.gamma for rung in made.ladder} == {0} and made.refine.gamma == 0


def test_auto_negatives_are_those_that_the_ladder_would_take(recipe):
    backwards = recipe.model_copy(update={"ladder": recipe.ladder[::-1]})
    assert [rung.negatives for rung in vocabulary.settled(backwards).ladder] == ["bm25", "bm25", "de", "de"]


def test_all_teachers_at_once_are_one_rung_with_the_settings_of_the_last(variant):
    made = variant("{together: true}")
    assert shape(made) == [("de-ce2-ce4", "candidates")] and made.refine.rounds == 0
    assert list(made.teachers["de-ce2-ce4"].of) == ["de", "ce2", "ce4"]
    assert (made.ladder[0].gamma, made.ladder[0].epochs, made.ladder[0].negatives) == (0, 1, "de")


def test_a_shorter_ladder_takes_as_many_updates_as_it_is_told(recipe):
    passages, queries = 100, 40  # 10 steps; 2 * 40 / 10 = 8; 4; 4
    assert vocabulary.ladder_steps(recipe, passages, queries) == [10, 8, 4, 4]
    alone = vocabulary.straight(recipe, [1, 2])
    longer = vocabulary.matched(alone, 26, passages, queries)
    assert [rung.steps for rung in longer.ladder] == [17, 9]  # 26 * 8 / 12 = 17.3
    assert vocabulary.matched(recipe, 26, passages, queries) == recipe
    assert vocabulary.matched(alone, 12, passages, queries) == alone


def test_the_first_variant_is_the_reference_unless_another_is_named(recipe):
    text = "variants: {a: {}, b: {keep: false}}"
    assert read_grid(text, "grid.yaml", recipe, Path()).reference == "a"
    grid = read_grid(f"reference: b\nmatch_updates: true\n{text}", "grid.yaml", recipe, Path())
    assert grid.reference == "b" and grid.match_updates


def test_directories_beside_the_grid_are_found(recipe, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "grid.yaml").write_text("variants:\n  other base: {student.from: other}\n")
    assert load_grid(tmp_path / "grid.yaml", recipe).variants[0].recipe.student.base == str(tmp_path / "other")


MISTAKES = [
    ("varaints: {a: {}}", r"grid.yaml:1: varaints: there is no such key of a grid; did you mean `variants`\?"),
    ("variants:\n  a: {studnet.layers: 2}", r"grid.yaml:2: a: studnet.layers: .*did you mean `student`\?"),
    ("variants:\n  a: {withuot: 2}", r"grid.yaml:2: a: withuot: .*did you mean `without`\?"),
    ("variants:\n  a:\n    student:\n      layer: 2", r"grid.yaml:4: a: student.layer: .*did you mean `layers`\?"),
    ("variants:\n  a: {}\n  b: {student.layers: two}", r"grid.yaml:3: b: student.layers: must be a whole number"),
    ("variants:\n  a: {ladder.9.lr: 1}", r"grid.yaml:2: .*ladder.9.lr: `ladder` has the numbers 1 to 4"),
    ("variants:\n  a: {ladder.1.teacher: ce3}", r"grid.yaml:2: a: ladder.1.teacher: .*'ce3', which is not among"),
    ("variants:\n  a: {ladder.4.loss: in-batch}", r"grid.yaml:2: a: ladder.4.*needs a dual-encoder teacher"),
    ("variants:\n  a: {without: [5]}", r"grid.yaml:2: a: without: must be rungs, numbered 1 to 4"),
    ("variants:\n  a: {only: ce3}", r"grid.yaml:2: a: only: .*did you mean `ce[24]`\?"),
    ("variants:\n  a: {without: [de, ce2, ce4]}", r"grid.yaml:2: a: without: leaves no rung"),
    ("variants:\n  a: {only: []}", r"grid.yaml:2: a: only: leaves no rung"),
    ("variants:\n  a:\n    keep: true\n    ladder.9.lr: 1", r"grid.yaml:4: a: ladder.9.lr: `ladder` has"),
    ("variants:\n  a: {keep: !word true}", r"grid.yaml:2: this is not the YAML"),
    ("variants:\n  a: {reversed: 1}", r"grid.yaml:2: a: reversed: must be true or false, not 1"),
    ("variants:\n  a: {only: de, together: true}", r"grid.yaml:2: a: together: needs two teachers"),
    ("variants:\n  a: 3", r"grid.yaml:2: the variant 'a' is made of keys"),
    ("variants:\n  a: {}\n  a: {}", r"grid.yaml:3: variants.a: is given twice"),
    ("reference: b\nvariants:\n  a: {}", r"grid.yaml:1: reference: there is no such variant: there are a"),
    ("force: maybe\nvariants: {a: {}}", r"grid.yaml:1: force: must be true or false"),
    ("force: true", r"grid.yaml:1: variants: is missing"),
    ("variants: {}", r"grid.yaml:1: variants: holds no variant"),
    ("variants: [a", r"grid.yaml:1: this is not the YAML"),
    ("", r"grid.yaml is empty"),
]


@pytest.mark.parametrize("text, said", MISTAKES)
def test_a_mistake_is_named_with_its_line_and_what_was_meant(recipe, text, said):
    with pytest.raises(StepwellError, match=f"(?s){said}"):
        read_grid(text, "grid.yaml", recipe, Path())


def test_all_mistakes_are_told_at_once(recipe):
    with pytest.raises(StepwellError) as told:
        read_grid("refrence: a\nvariants:\n  a: {only: x}\n  b: {sed: 1}", "grid.yaml", recipe, Path())
    lines = str(told.value).splitlines()
    assert "3 mistakes" in lines[0] and [line.split(":")[1] for line in lines[1:4]] == ["1", "3", "4"]


def test_a_grid_that_is_not_there_is_said(recipe, tmp_path):
    with pytest.raises(StepwellError, match=r"there is no grid .*--grid paper"):
        load_grid(tmp_path / "none.yaml", recipe)
