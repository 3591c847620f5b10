"""The grid of the paper, made from any recipe."""

import yaml

from stepwell.ablations.paper import open_grid, paper_grid
from stepwell.recipe.yaml_file import load_recipe


def made(path, deepest=3, **changes):
    text, notes = paper_grid(load_recipe(path, changes), deepest)
    return yaml.safe_load(text)["variants"], " ".join(notes)


def test_a_ladder_of_two_teachers_has_all_variants_of_the_paper(tiny_recipe):
    variants, notes = made(tiny_recipe, deepest=6, **{"refine.rounds": 2})
    assert variants == {
        "ladder": {},
        "straight from de": {"only": "de"},
        "straight from ce": {"only": "ce"},
        "all teachers at once": {"together": True},
        "without rung 1 (de, embedding)": {"without": [1]},
        "without rung 2 (ce, candidates)": {"without": [2]},
        "reversed ladder": {"reversed": True},
        "without refine": {"refine.rounds": 0},
        "1 round of refine": {"refine.rounds": 1},
        "without keep": {"keep": False},
        "2-layer student": {"student.layers": 2},
        "4-layer student": {"student.layers": 4},
        "6-layer student": {"student.layers": 6},
    }
    assert not notes


def test_what_makes_no_sense_is_left_out_and_said(tiny_recipe):
    one = {"ladder": [{"teacher": "de", "loss": "embedding"}], "refine.rounds": 0, "student.layers": 2}
    variants, notes = made(tiny_recipe, **one)
    assert list(variants) == ["ladder"]
    for said in ("only teacher", "one rung", "no refine", "no keep", "no student of 4", "no student of 6"):
        assert said in notes
    assert "of 2" not in notes


def test_every_variant_of_the_paper_is_a_recipe(tiny_recipe):
    recipe = load_recipe(tiny_recipe)
    grid = open_grid(recipe, "paper")
    assert grid.match_updates, "a shorter ladder with fewer updates would lose for that alone"
    assert grid.reference == "ladder" and len(grid.variants) >= 9 and len(grid.notes) == 2
    assert all(variant.recipe.name == variant.name and variant.forced for variant in grid.variants)


def test_a_mapping_is_a_grid_too(tiny_recipe):
    grid = open_grid(load_recipe(tiny_recipe), {"variants": {"a": {}, "b": {"student.layers": 2}}})
    assert [variant.recipe.student.layers for variant in grid.variants] == [1, 2]
