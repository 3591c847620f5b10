"""The grid of an ablation: from YAML and a recipe to the recipe of each variant, before anything runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from yaml.nodes import MappingNode, Node, ScalarNode

from stepwell.ablations import vocabulary
from stepwell.errors import StepwellError
from stepwell.recipe import Recipe
from stepwell.recipe.mistakes import Mistake, nearest, where
from stepwell.recipe.yaml_file import changed
from stepwell.recipe.yaml_tree import read_tree, value_of

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
    """What an ablation runs.

    Parameters
    ----------
    variants
        In the order of the table.
    reference
        The name of the variant that the others are compared with.
    match_updates
        Whether a shorter ladder is made as long as the reference's, in optimiser steps.
    notes
        Sentences about what was left out.
    """

    variants: tuple[Variant, ...]
    reference: str
    match_updates: bool = False
    notes: tuple[str, ...] = ()


def load_grid(path: str | Path, recipe: Recipe) -> Grid:
    """Read a grid file.

    Raises
    ------
    StepwellError
        When there is no such file, or with every mistake in it, by line.
    """
    path = Path(path)
    if not path.exists():
        raise StepwellError(
            f"there is no grid {path}: give a YAML file of variants (docs/ablations.md), or `--grid paper` for those "
            "that the paper compares."
        )
    return read_grid(None, str(path), recipe, path.resolve().parent)


def read_grid(text: str | None, name: str, recipe: Recipe, home: Path) -> Grid:
    """Return the grid in a YAML text.

    Parameters
    ----------
    text
        ``variants`` with their changes, and how they are run; what is in the file when None.
    name
        The file, for the words about a mistake.
    recipe
        What the variants change.
    home
        Relative directories in the grid are looked for here.

    Raises
    ------
    StepwellError
        With every mistake, by line.
    """
    root, mistakes = read_tree(name, text)
    top = dict(_pairs(root, "a grid", KEYS, mistakes))
    settings = {key: _checked(top[key], kind, key, mistakes) for key, kind in _TOP.items() if key in top}
    mistakes += [] if "variants" in top else [Mistake(where(root), "variants", "is missing; it names what is compared")]
    force = settings.get("force", True)
    variants = []
    for key, node in _pairs(top.get("variants"), "variants", None, mistakes):
        made = _variant(key, node, recipe, force, home, mistakes)
        variants += [made] if made else []
    names = [variant.name for variant in variants]
    reference = settings.get("reference") or (names[0] if names else "")
    if "reference" in top and reference not in names and not mistakes:
        mistakes.append(Mistake(where(top["reference"]), "reference", _no_such(reference, names, "variant")))
    if not (variants or mistakes):
        mistakes.append(Mistake(where(root), "variants", "holds no variant; give at least one"))
    if mistakes:
        raise _refusal(name, mistakes)
    return Grid(tuple(variants), reference, settings.get("match_updates", False))


_TOP: dict[str, type] = {"reference": str, "force": bool, "match_updates": bool}


def _variant(name: str, node: Node, recipe: Recipe, force: bool, home: Path, mistakes: list[Mistake]) -> Variant | None:
    """Return one variant, or None after adding what is wrong with it."""
    before = len(mistakes)
    fields = {field.alias or key for key, field in Recipe.model_fields.items()}
    words: dict[str, Node] = {}
    changes: list[tuple[str, Node]] = []
    for key, value in _pairs(node, f"the variant {name!r}", None, mistakes):
        if key in WORDS:
            words[key] = value
        elif key.partition(".")[0] in fields:
            changes += _leaves(key, value)
        else:
            text = _no_such(key.partition(".")[0], [*WORDS, *sorted(fields)], "word or key of a recipe")
            mistakes.append(Mistake(where(value), f"{name}: {key}", text, value.start_mark.index))
    try:
        made, wrong = changed(recipe, changes, home)
    except StepwellError as error:  # a rung that is not there, a key under a single value
        place, _, text = str(error).partition(": ")
        mistakes.append(Mistake(place, name, text, node.start_mark.index))
        return None
    for mistake in wrong:
        here = where(node).rpartition(":")[0]  # what the recipe itself says is right: the variant's line is to blame
        place = mistake.where if mistake.where.startswith(f"{here}:") else where(node)
        mistakes.append(replace(mistake, where=place, path=f"{name}: {mistake.path}", offset=node.start_mark.index))
    if made is None or len(mistakes) > before:
        return None
    try:
        forced = _word(words, "force", force, _boolean)
        shaped = _shaped(made, words, any(key.startswith("refine") for key, _ in changes))
    except _WordError as error:
        mistakes.append(Mistake(where(error.node), f"{name}: {error.word}", error.text, error.node.start_mark.index))
        return None
    shaped = shaped.model_copy(update={"name": name, "proof": "none"})
    return Variant(name, vocabulary.forced(shaped) if forced else shaped, forced)


def _leaves(key: str, node: Node) -> Iterator[tuple[str, Node]]:
    """Take a partial recipe apart into single values; a list counts as one value."""
    if isinstance(node, MappingNode) and node.value:
        for child, value in node.value:
            yield from _leaves(f"{key}.{child.value}", value)
    else:
        yield key, node


# -- words ------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class _WordError(Exception):
    """A word of the grid that can't be followed, and why."""

    word: str
    node: Node
    text: str


def _shaped(recipe: Recipe, words: dict[str, Node], refines: bool) -> Recipe:
    """Return the recipe after all words; ``refines`` says that the variant speaks of refine itself."""
    rungs = list(range(len(recipe.ladder)))
    chosen = _word(words, "only", None, lambda node: _rungs(recipe, node))
    left_out = _word(words, "without", [], lambda node: _rungs(recipe, node))
    order = [rung for rung in rungs if (chosen is None or rung in chosen) and rung not in left_out]
    if not order:
        word = "without" if left_out else "only"
        raise _WordError(word, words[word], "leaves no rung to climb")
    if _word(words, "reversed", False, _boolean):
        order.reverse()
    kept = vocabulary.settled(recipe).refine
    together = _word(words, "together", False, _boolean)
    if together or chosen is not None:
        recipe = _together(recipe, order, words["together"]) if together else vocabulary.straight(recipe, order)
        recipe = recipe.model_copy(update={"refine": kept}) if refines else recipe
    elif order != rungs:
        recipe = vocabulary.climbing(recipe, order)
    return recipe if _word(words, "keep", True, _boolean) else vocabulary.without_keep(recipe)


def _together(recipe: Recipe, order: list[int], node: Node) -> Recipe:
    try:
        return vocabulary.together(recipe, order)
    except ValueError as error:
        raise _WordError("together", node, str(error)) from None


def _word(words: dict[str, Node], word: str, default: Any, read: Callable[[Node], Any]) -> Any:
    """Return the value of a word, read from its node, or the default where the variant does not use it."""
    if word not in words:
        return default
    try:
        return read(words[word])
    except ValueError as error:
        raise _WordError(word, words[word], str(error)) from None


def _boolean(node: Node) -> bool:
    value = value_of(node)
    if not isinstance(value, bool):
        raise ValueError(f"must be true or false, not {value!r}")
    return value


def _rungs(recipe: Recipe, node: Node) -> list[int]:
    """Return the rungs that a number (from 1), a teacher's name or a list of them means, from 0."""
    value = value_of(node)
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
    node: Node | None, what: str, known: tuple[str, ...] | None, mistakes: list[Mistake]
) -> Iterator[tuple[str, Node]]:
    """Yield a mapping's keys and values; another kind of node, and a key that is not known, is a mistake."""
    if node is None or (isinstance(node, ScalarNode) and node.tag.endswith(":null")):
        return
    if not isinstance(node, MappingNode):
        mistakes.append(Mistake(where(node), "", f"{what} is made of keys with values, and this is none"))
        return
    for key, value in node.value:
        if known is not None and key.value not in known:
            text = _no_such(key.value, list(known), "key of a grid")
            mistakes.append(Mistake(where(key), key.value, text, key.start_mark.index))
        else:
            yield key.value, value


def _checked(node: Node, kind: type, key: str, mistakes: list[Mistake]) -> Any:
    value = value_of(node)
    if isinstance(value, kind):
        return value
    word = "true or false" if kind is bool else "the name of a variant"
    mistakes.append(Mistake(where(node), key, f"must be {word}, not {value!r}", node.start_mark.index))
    return kind()


def _no_such(given: str, known: list[str], what: str) -> str:
    meant = nearest(given, known)
    hint = f"did you mean `{meant}`?" if meant else f"there are {', '.join(known) or 'none'}"
    return f"there is no such {what}{'; ' if meant else ': '}{hint}"


def _refusal(name: str, mistakes: list[Mistake]) -> StepwellError:
    ordered = sorted(mistakes, key=lambda mistake: mistake.offset)
    end = "Nothing was run; docs/ablations.md lists what a grid may say."
    if len(ordered) == 1:
        return StepwellError(f"{ordered[0]}{'' if ordered[0].text.endswith('?') else '.'} {end}")
    return StepwellError(
        "\n".join([f"The grid {name} has {len(ordered)} mistakes:", *(f"  {m}" for m in ordered), end])
    )
