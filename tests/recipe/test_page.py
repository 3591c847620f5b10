"""docs/recipe.md says what the types say."""

from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field

from stepwell.recipe.page import describe, fields_of, render, sections

PAGE = Path(__file__).resolve().parents[2] / "docs" / "recipe.md"


def test_the_page_is_up_to_date():
    written = PAGE.read_text(encoding="utf-8")
    assert written == render(), "run: python -m stepwell.recipe.page > docs/recipe.md"


def test_every_key_of_every_section_has_a_line_with_a_meaning():
    lines = [line for line in render().splitlines() if line.startswith("| `")]
    assert len(lines) == sum(len(fields_of(section)) for _, section in sections())
    assert not [line for line in lines if line.endswith("|  |")]


@pytest.mark.parametrize(
    "annotation, words",
    [
        (Annotated[float, Field(gt=0.0, le=1.0)], "number, above 0, at most 1"),
        (Literal["a", "b"] | list[int], "`a` or `b` or list of whole numbers"),
        (str | None, "text or empty"),
        (dict[str, int], "names with whole numbers"),
    ],
)
def test_types_are_described_in_words(annotation, words):
    assert describe(annotation) == words
