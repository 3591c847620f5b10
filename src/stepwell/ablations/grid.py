"""The grid of an ablation: from YAML and a recipe to the recipe of each variant, before anything runs."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from stepwell.ablations import vocabulary
from stepwell.errors import RecipeError
from stepwell.recipe import Recipe
from stepwell.recipe.mistakes import nearest
from stepwell.recipe.places import Document, Mistake, read_yaml
from stepwell.recipe.yaml_file import changed

KEYS = ("reference", "force", "match_updates", "variants")
WORDS = ("without", "only", "reversed", "together", "keep", "force")


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
    top = dict(_pairs(root, "a grid", KEYS, mistakes))
    settings = {key: _checked(top[key], kind, key, mistakes) for key, kind in _TOP.items() if key in top}
    mistakes += (
        [] if "variants" in top else [Mistake(root.place(), "variants", "is missing; it names what is compared")]
    )
    force = settings.get("force", True)
    variants = []
    for key, given in _pairs(top.get("variants"), "variants", None, mistakes):
        made = _variant(key, given, recipe, force, home, mistakes)
        variants += [made] if made else []
    names = [variant.name for variant in variants]
    reference = settings.get("reference") or (names[0] if names else "")
    if "reference" in top and reference not in names and not mistakes:
        mistakes.append(Mistake(top["reference"].place(), "reference", _no_such(reference, names, "variant")))
    if not (variants or mistakes):
        mistakes.append(Mistake(root.place(), "variants", "holds no variant; give at least one"))
    if mistakes:
        raise _refusal(name, mistakes)
    return Grid(tuple(variants), reference, settings.get("match_updates", False))


_TOP: dict[str, type] = {"reference": str, "force": bool, "match_updates": bool}


def _variant(
    name: str, given: Document, recipe: Recipe, force: bool, home: Path, mistakes: list[Mistake]
) -> Variant | None:
    """Return one variant, or None after adding what is wrong with it."""
    before = len(mistakes)
    fields = {field.alias or key for key, field in Recipe.model_fields.items()}
    words: dict[str, Document] = {}
    changes: list[tuple[str, Document]] = []
    for key, value in _pairs(given, f"the variant {name!r}", None, mistakes):
        if key in WORDS:
            words[key] = value
        elif key.partition(".")[0] in fields:
            changes += _leaves(key, value)
        else:
            text = _no_such(key.partition(".")[0], [*WORDS, *sorted(fields)], "word or key of a recipe")
            mistakes.append(Mistake(value.place(), f"{name}: {key}", text))
    made, wrong = changed(recipe, changes, home, given.place())  # the recipe is right: the variant is to blame
    mistakes += [replace(mistake, path=f"{name}: {mistake.path}") for mistake in wrong]
    if made is None or len(mistakes) > before:
        return None
    try:
        forced = _word(words, "force", force, _boolean)
        shaped = _shaped(made, words, any(key.startswith("refine") for key, _ in changes))
    except _WordError as error:
        mistakes.append(Mistake(words[error.word].place(), f"{name}: {error.word}", error.text))
        return None
    shaped = shaped.model_copy(update={"name": name, "proof": "none"})
    return Variant(name, vocabulary.forced(shaped) if forced else shaped, forced)


def _leaves(key: str, given: Document) -> Iterator[tuple[str, Document]]:
    """Take a partial recipe apart into single values; a list counts as one value."""
    if isinstance(given.content, dict) and given.content:
        for inner, value in given.items():
            yield from _leaves(f"{key}.{inner}", value)
    else:
        yield key, given


# -- words ------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class _WordError(Exception):
    """A word of the grid that can't be followed, and why."""

    word: str
    text: str


def _shaped(recipe: Recipe, words: dict[str, Document], refines: bool) -> Recipe:
    """Return the recipe after all words; ``refines`` says that the variant speaks of refine itself."""
    rungs = list(range(len(recipe.ladder)))
    chosen = _word(words, "only", None, lambda value: _rungs(recipe, value))
    left_out = _word(words, "without", [], lambda value: _rungs(recipe, value))
    order = [rung for rung in rungs if (chosen is None or rung in chosen) and rung not in left_out]
    if not order:
        word = "without" if left_out else "only"
        raise _WordError(word, "leaves no rung to climb")
    if _word(words, "reversed", False, _boolean):
        order.reverse()
    kept = vocabulary.settled(recipe).refine
    together = _word(words, "together", False, _boolean)
    if together or chosen is not None:
        recipe = _together(recipe, order) if together else vocabulary.straight(recipe, order)
        recipe = recipe.model_copy(update={"refine": kept}) if refines else recipe
    elif order != rungs:
        recipe = vocabulary.climbing(recipe, order)
    return recipe if _word(words, "keep", True, _boolean) else vocabulary.without_keep(recipe)


def _together(recipe: Recipe, order: list[int]) -> Recipe:
    try:
        return vocabulary.together(recipe, order)
    except ValueError as error:
        raise _WordError("together", str(error)) from None


def _word(words: dict[str, Document], word: str, default: Any, read: Callable[[Any], Any]) -> Any:
    """Return the value of a word, checked, or the default where the variant does not use it."""
    if word not in words:
        return default
    try:
        return read(words[word].content)
    except ValueError as error:
        raise _WordError(word, str(error)) from None


def _boolean(value: Any) -> bool:
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


def _refusal(name: str, mistakes: list[Mistake]) -> RecipeError:
    ordered = sorted(mistakes, key=lambda mistake: mistake.place.line)
    end = "Nothing was run; docs/ablations.md lists what a grid may say."
    if len(ordered) == 1:
        return RecipeError(f"{ordered[0]}{'' if ordered[0].text.endswith('?') else '.'} {end}")
    return RecipeError("\n".join([f"The grid {name} has {len(ordered)} mistakes:", *(f"  {m}" for m in ordered), end]))
