"""The grid of an ablation: from YAML and a recipe to the recipe of each variant, before anything runs."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from stepwell.ablations import vocabulary
from stepwell.errors import RecipeError
from stepwell.recipe import Recipe
from stepwell.recipe.mistakes import nearest
from stepwell.recipe.places import Document, Mistake, read_yaml, refusal
from stepwell.recipe.yaml_file import changed

_TOP: dict[str, type] = {"reference": str, "force": bool, "match_updates": bool}  # keys beside the variants


@dataclass(frozen=True)
class Variant:
    """One row of the table: its name, its recipe, and whether it climbs every rung whatever dev says."""

    name: str
    recipe: Recipe
    forced: bool = True


@dataclass(frozen=True)
class Grid:
    """What an ablation runs."""

    variants: tuple[Variant, ...]  # in the order of the table
    reference: str  # the name of the variant that the others are compared with
    match_updates: bool = False  # whether a shorter ladder is made as long as the reference's, in optimiser steps
    notes: tuple[str, ...] = ()  # sentences about what was left out


def load_grid(path: str | Path, recipe: Recipe) -> Grid:
    """Read a grid file."""
    path = Path(path)
    if not path.exists():
        raise RecipeError(
            f"there is no grid {path}: give a YAML file of variants (docs/ablations.md), or `--grid paper` for those "
            "that the paper compares."
        )
    return read_grid(None, str(path), recipe, path.resolve().parent)


def read_grid(text: str | None, name: str, recipe: Recipe, home: Path) -> Grid:
    """Return the grid in a YAML text."""
    root, mistakes = read_yaml(name, text)
    top = dict(_pairs(root, "a grid", (*_TOP, "variants"), mistakes))
    settings = {key: _checked(top[key], kind, key, mistakes) for key, kind in _TOP.items() if key in top}
    if "variants" not in top:
        mistakes.append(Mistake(root.place(), "variants", "is missing; it names what is compared"))
    force = settings.get("force", True)
    given = _pairs(top.get("variants"), "variants", None, mistakes)
    made = [_variant(key, value, recipe, force, home, mistakes) for key, value in given]
    variants = [variant for variant in made if variant]
    names = [variant.name for variant in variants]
    reference = settings.get("reference") or (names[0] if names else "")
    if "reference" in top and reference not in names and not mistakes:
        mistakes.append(Mistake(top["reference"].place(), "reference", _no_such(reference, names, "variant")))
    if not (variants or mistakes):
        mistakes.append(Mistake(root.place(), "variants", "holds no variant; give at least one"))
    if mistakes:
        raise refusal(f"grid {name}", mistakes, "Nothing was run; docs/ablations.md lists what a grid may say.")
    return Grid(tuple(variants), reference, settings.get("match_updates", False))


def _variant(
    name: str, given: Document, recipe: Recipe, force: bool, home: Path, mistakes: list[Mistake]
) -> Variant | None:
    """Return one variant, or None after adding what is wrong with it."""
    before = len(mistakes)
    fields = {field.alias or key for key, field in Recipe.model_fields.items()}
    words: dict[str, Document] = {}
    changes: list[tuple[str, Document]] = []
    for key, value in _pairs(given, f"the variant {name!r}", None, mistakes):
        if key in _WORDS:
            words[key] = value
        elif key.partition(".")[0] in fields:
            changes += _leaves(key, value)
        else:
            text = _no_such(key.partition(".")[0], [*_WORDS, *sorted(fields)], "word or key of a recipe")
            mistakes.append(Mistake(value.place(), f"{name}: {key}", text))
    made, wrong = changed(recipe, changes, home, given.place())  # the recipe is right: the variant is to blame
    mistakes += [replace(mistake, path=f"{name}: {mistake.path}") for mistake in wrong]
    if made is None or len(mistakes) > before:
        return None
    word, values = "", dict[str, Any]()  # the word that is followed is to blame when it can't be
    try:
        for word, value in words.items():
            values[word] = _WORDS[word](made, value.content)
        chosen, left_out = values.get("only", range(len(made.ladder))), values.get("without", [])
        word = "without" if left_out else "only"
        order = [rung for rung in range(len(made.ladder)) if rung in chosen and rung not in left_out]
        if not order:
            raise ValueError("leaves no rung to climb")
        word = "together"
        shaped = _shaped(made, values, order, any(key.startswith("refine") for key, _ in changes))
    except ValueError as error:
        mistakes.append(Mistake(words[word].place(), f"{name}: {word}", str(error)))
        return None
    shaped, forced = shaped.model_copy(update={"name": name, "proof": "none"}), values.get("force", force)
    return Variant(name, vocabulary.forced(shaped) if forced else shaped, forced)


def _leaves(key: str, given: Document) -> Iterator[tuple[str, Document]]:
    """Take a partial recipe apart into single values; a list counts as one value."""
    if isinstance(given.content, dict) and given.content:
        for inner, value in given.items():
            yield from _leaves(f"{key}.{inner}", value)
    else:
        yield key, given


# -- words ------------------------------------------------------------------------------------------------


def _shaped(recipe: Recipe, words: dict[str, Any], order: list[int], refines: bool) -> Recipe:
    """Return the recipe of some rungs after all words; ``refines`` says that the variant speaks of refine itself."""
    if words.get("reversed"):
        order.reverse()
    kept = vocabulary.settled(recipe).refine
    if words.get("together"):
        recipe = vocabulary.together(recipe, order)
    elif "only" in words:
        recipe = vocabulary.straight(recipe, order)
    elif order != list(range(len(recipe.ladder))):
        recipe = vocabulary.climbing(recipe, order)
    if refines and (words.get("together") or "only" in words):
        recipe = recipe.model_copy(update={"refine": kept})
    return recipe if words.get("keep", True) else vocabulary.without_keep(recipe)


def _boolean(_: Recipe, value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"must be true or false, not {value!r}")
    return value


def _rungs(recipe: Recipe, value: Any) -> list[int]:
    """Return the rungs that a number (from 1), a teacher's name or a list of them means, from 0."""
    found: list[int] = []
    teachers = [rung.teacher for rung in recipe.ladder]
    for item in value if isinstance(value, list) else [value]:
        if isinstance(item, int) and not isinstance(item, bool) and 1 <= item <= len(teachers):
            found.append(item - 1)
        elif item in teachers:
            found += [number for number, teacher in enumerate(teachers) if teacher == item]
        elif isinstance(item, str):
            raise ValueError(_no_such(item, list(dict.fromkeys(teachers)), "teacher of the ladder"))
        else:
            raise ValueError(f"must be rungs, numbered 1 to {len(teachers)}, or their teachers' names, not {item!r}")
    return found


_WORDS: dict[str, Callable[[Recipe, Any], Any]] = {
    **dict.fromkeys(("without", "only"), _rungs),
    **dict.fromkeys(("reversed", "together", "keep", "force"), _boolean),
}


# -- mistakes ---------------------------------------------------------------------------------------------


def _pairs(
    given: Document | None, what: str, known: tuple[str, ...] | None, mistakes: list[Mistake]
) -> Iterator[tuple[str, Document]]:
    """Yield a mapping's keys and values; anything else, and a key that is not known, is a mistake."""
    if given is None or given.content is None:
        return
    if not isinstance(given.content, dict):
        mistakes.append(Mistake(given.place(), "", f"{what} is made of keys with values, and this is none"))
        return
    for key, value in given.items():
        if known is not None and key not in known:
            mistakes.append(Mistake(value.place(), key, _no_such(key, list(known), "key of a grid")))
        else:
            yield key, value


def _checked(given: Document, kind: type, key: str, mistakes: list[Mistake]) -> Any:
    if isinstance(given.content, kind):
        return given.content
    word = "true or false" if kind is bool else "the name of a variant"
    mistakes.append(Mistake(given.place(), key, f"must be {word}, not {given.content!r}"))
    return kind()


def _no_such(given: str, known: list[str], what: str) -> str:
    meant = nearest(given, known)
    hint = f"did you mean `{meant}`?" if meant else f"there are {', '.join(known) or 'none'}"
    return f"there is no such {what}{'; ' if meant else ': '}{hint}"
