"""The recipe's types, described: where each section stands, which keys it has, and ``docs/recipe.md``.

``python -m stepwell.recipe.page > docs/recipe.md`` writes the page again after a change of the types.
"""

import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le
from pydantic.fields import FieldInfo

from stepwell.recipe.ladder import Rung
from stepwell.recipe.recipe import Recipe
from stepwell.recipe.training import Optimiser, Section

ANY = "*"
"""Stands in a place for any name of a mapping and any number of a list."""

Place = tuple[str, ...]

_PLAIN = {str: "text", int: "whole number", float: "number", bool: "true or false"}
_LIMITS = {Ge: "at least {.ge:g}", Gt: "above {.gt:g}", Le: "at most {.le:g}"}
_LARGEST = Le(2**63 - 1)
_DEFAULTS: dict[type, str] = {type(None): "empty", Section: "see below", dict: "none", list: "none"}


def fields_of(section: type[Section]) -> dict[str, FieldInfo]:
    """Return a section's fields by their keys as they are written in YAML."""
    return {field.alias or name: field for name, field in section.model_fields.items()}


def sections(kind: type[Section] = Recipe, at: Place = ()) -> Iterator[tuple[Place, type[Section]]]:
    """Yield every section with its place, parents first; places are spelled as pydantic locates an error.

    >>> places = [place for place, _ in sections()]
    >>> ("teachers", "*", "dual-encoder", "train") in places, ("ladder", "*") in places
    (True, True)
    """
    yield at, kind
    for key, field in fields_of(kind).items():
        for inner, section in _inside(field.annotation):
            yield from sections(section, (*at, key, *inner))


def _inside(annotation: Any) -> Iterator[tuple[Place, type[Section]]]:
    """Yield the sections that an annotation holds."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        tag = annotation.model_fields.get("kind")
        yield ((str(get_args(tag.annotation)[0]),) if tag else ()), annotation
        return
    origin = get_origin(annotation)
    for argument in get_args(annotation)[: 1 if origin is Annotated else None]:
        for inner, section in _inside(argument):
            yield ((ANY, *inner) if origin in (list, dict) else inner), section


def describe(annotation: Any, limits: list[Any] | None = None) -> str:
    """Return a type in words.

    >>> describe(Literal["cos", "dot"]), describe(int | None, [Ge(1)])
    ('`cos` or `dot`', 'whole number, at least 1, or empty')
    """
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return describe(arguments[0], [*_limits(annotation.__metadata__), *(limits or [])])
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in arguments)
    if origin in (Union, types.UnionType):
        inner = [part for part in arguments if part is not type(None)]
        words = " or ".join(dict.fromkeys(describe(part, limits) for part in inner))
        return words if len(inner) == len(arguments) else f"{words}{', or' if ',' in words else ' or'} empty"
    if origin in (list, dict):  # of several: the first of the words gets an s
        words = describe(arguments[-1]).split(" or ")[0]
        return f"list of {words}s" if origin is list else f"names with {words}s"
    if annotation in _PLAIN:
        bounds = ("at most 2^63 - 1" if one == _LARGEST else _LIMITS[type(one)].format(one) for one in limits or [])
        return ", ".join([_PLAIN[annotation], *bounds])
    return "section"


def _limits(metadata: Any) -> list[Any]:
    """Return the bounds among a type's metadata."""
    found: list[Any] = []
    for item in metadata:
        found += _limits(item.metadata) if isinstance(item, FieldInfo) else [item]
    return [item for item in found if type(item) in _LIMITS]


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True, validated_data={})
    for kind, words in _DEFAULTS.items():
        if isinstance(value, kind):
            return words
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return f"`{text.lower() if isinstance(value, bool) else text}`"


def _meaning(key: str, field: FieldInfo) -> str:
    """Return a field's description, or its section's first line, or what a rung says of the same key."""
    if field.description:
        return field.description
    inside = [(section.__doc__ or "").strip().splitlines()[0] for _, section in _inside(field.annotation)]
    if inside:
        return " Or: ".join(inside)
    if key == "kind":
        return "Which kind of teacher this is."
    namesake = Rung.model_fields.get(key)
    return (namesake.description if namesake is not None else None) or ""


def _heading(place: Place, kind: type[Section]) -> str:
    if not place:
        return "## The file itself"
    teacher, what = place[0] == "teachers", ""
    words = [("NAME" if teacher else "NUMBER") if part == ANY else part for part in place]
    if "kind" in kind.model_fields:
        what = f" of kind `{words.pop()}`"
    elif teacher:
        what = f" of a {words.pop(2)}"
    return f"## `{'.'.join(words)}`{what}"


def render() -> str:
    """Return ``docs/recipe.md``."""
    parts = [Path(__file__).with_name("page.md").read_text(encoding="utf-8")]
    for place, kind in sections():
        story = " ".join((kind.__doc__ or "").split())
        rows = ["| key | type | default | meaning |", "|---|---|---|---|"]
        own_first = sorted(fields_of(kind).items(), key=lambda item: item[0] in Optimiser.model_fields)
        for key, field in own_first:
            words = describe(field.annotation, _limits(field.metadata))
            cells = (f"`{key}`", words, _default(field), _meaning(key, field))
            rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
        parts += [f"{_heading(place, kind)}\n", f"{story}\n", "\n".join(rows) + "\n"]
    return "\n".join(parts)


if __name__ == "__main__":
    sys.stdout.write(render())
