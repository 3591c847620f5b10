"""The demo's recipe."""

from __future__ import annotations

from pathlib import Path

from stepwell.recipe.recipe import Recipe
from stepwell.recipe.yaml_file import load_recipe

PATH = Path(__file__).with_name("demo.yaml")


def demo_recipe() -> Recipe:
    """Return the recipe that ``stepwell demo`` runs."""
    return load_recipe(PATH)
