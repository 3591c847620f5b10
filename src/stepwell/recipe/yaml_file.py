"""Reading and writing the recipe as YAML: every mistake with its line, all of them at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from yaml.nodes import Node

from stepwell.errors import StepwellError
from stepwell.recipe.ladder import MORE
from stepwell.recipe.mistakes import Mistake, explain, where
from stepwell.recipe.recipe import CollectionSection, Recipe
from stepwell.recipe.yaml_tree import (
    Dumper,
    Loader,
    checked,
    compose,
    plain_words,
    read_tree,
    reason_of,
    replaced,
    tree_of,
    value_of,
)

BUNDLED = {"demo", "demo-full"}
_SHOWN = 20


def load_recipe(path: str | Path, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """Read a recipe.

    Relative directories (``collection.path``, every ``from``) are those beside the recipe where they exist. A recipe
    that ``extends`` another has all that the other says and it does not say itself: mappings are merged key by key,
    anything else (also a list, such as the ladder) is replaced.

    Parameters
    ----------
    path
        A YAML file.
    overrides
        Values by the path of their key: ``{"student.layers": 2, "ladder.1.lr": 5e-5}``; rungs count from 1.

    Raises
    ------
    StepwellError
        When the file can't be read, or with every mistake in it, by line.
    """
    path = Path(path)
    mistakes: list[Mistake] = []
    tree, homes = tree_of(path, mistakes)
    root: Node = tree
    with plain_words(str(path), ""):
        for key, value in (overrides or {}).items():
            option = f"--set {key}"
            fresh = checked(compose(yaml.dump(value, Dumper=Dumper), option), mistakes, key)
            root = replaced(root, key.split("."), 0, fresh, option)
        content = Loader("").construct_document(root)
    try:
        recipe = Recipe.model_validate(content, strict=True)
    except ValidationError as error:
        known = {(mistake.where, mistake.path) for mistake in mistakes}
        mistakes += [other for other in explain(error, root) if (other.where, other.path) not in known]
    if mistakes:
        raise _refusal(path, sorted(mistakes, key=lambda mistake: mistake.offset))
    return _with_places(recipe, homes)


def parse_override(text: str) -> tuple[str, Any]:
    """Return the key and the value of ``--set KEY=VALUE``; the value is read as YAML.

    Raises
    ------
    StepwellError
        When there is no ``=`` or no key, or the value is no YAML.

    Examples
    --------
    >>> parse_override("student.layers=2"), parse_override("ladder.1.lr=5e-5")
    (('student.layers', 2), ('ladder.1.lr', 5e-05))
    """
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise StepwellError(f"--set takes KEY=VALUE, as in --set student.layers=2, and was given {text!r}.")
    try:
        return key.strip(), yaml.load(value, Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise StepwellError(f"the value in --set {text} can't be read as YAML: {reason_of(error)}.") from None


def parse_collection(text: str) -> CollectionSection:
    """Return the ``collection`` section that stands in braces: ``{path: DIRECTORY, format: tables}``.

    Raises
    ------
    StepwellError
        With every mistake in it.
    """
    try:
        tree, mistakes = read_tree(text, f"collection: {text}")
    except StepwellError:
        raise _no_section(text, "it is no YAML") from None
    try:
        content = value_of(tree)
        Recipe.model_validate(content, strict=True)
    except ValidationError as error:
        mistakes += explain(error, tree)
    own = [mistake for mistake in mistakes if mistake.path.startswith("collection")]
    if own:
        raise _no_section(text, "; ".join(f"{mistake.path}: {mistake.text}" for mistake in own))
    return CollectionSection.model_validate(content["collection"])


def _no_section(text: str, why: str) -> StepwellError:
    return StepwellError(
        f"{text} is no `collection` section of a recipe: {why.removesuffix('.')}. Write it as "
        "{path: DIRECTORY, format: tables}, or give the directory alone."
    )


def changed(recipe: Recipe, changes: Iterable[tuple[str, Node]], home: Path) -> tuple[Recipe | None, list[Mistake]]:
    """Put values into a recipe.

    Parameters
    ----------
    recipe
        The recipe to start from; it stays as it is.
    changes
        The path of each key, as for ``--set``, and the node of its value, which knows its file and line.
    home
        Relative directories are looked for here first.

    Returns
    -------
    tuple
        The new recipe and no mistakes, or None and the mistakes.
    """
    root = compose(dump_recipe(recipe), "the recipe")
    for key, fresh in changes:
        root = replaced(root, key.split("."), 0, fresh, f"{where(fresh)}: {key}")
    try:
        made = Recipe.model_validate(value_of(root), strict=True)
    except ValidationError as error:
        return None, explain(error, root)
    return _with_places(made, [home]), []


def dump_recipe(recipe: Recipe) -> str:
    """Return the recipe as YAML with every default written out; the same recipe gives the same text.

    Examples
    --------
    >>> from stepwell.recipe.recipe import CollectionSection, Rung, StudentSection
    >>> recipe = Recipe(
    ...     collection=CollectionSection(path="demo"),
    ...     student=StudentSection(base="demo"),
    ...     teachers={"de": {"kind": "dual-encoder", "from": "demo"}},
    ...     ladder=[Rung(teacher="de", loss="embedding")],
    ... )
    >>> dump_recipe(recipe).splitlines()[:4]
    ['name: stepwell', 'seed: 13', 'collection:', '  path: demo']
    """
    content = recipe.model_dump(by_alias=True)
    return yaml.dump(content, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=1_000_000)


def _refusal(path: Path, mistakes: list[Mistake]) -> StepwellError:
    end = "Nothing was run; docs/recipe.md lists all keys."
    if len(mistakes) == 1:
        stop = "" if mistakes[0].text.endswith((".", "?")) else "."
        return StepwellError(f"{mistakes[0]}{stop} {end}")
    lines = [f"  {mistake}" for mistake in mistakes[:_SHOWN]]
    if len(mistakes) > _SHOWN:
        lines.append(f"  (and {len(mistakes) - _SHOWN} more)")
    return StepwellError("\n".join([f"The recipe {path} has {len(mistakes)} mistakes:", *lines, end]))


def _with_places(recipe: Recipe, homes: list[Path]) -> Recipe:
    """Turn relative directories and files that exist beside the recipe, or what it extends, into absolute ones."""

    def place(text: str) -> str:
        if text in BUNDLED:
            return text
        beside = (home / Path(text).expanduser() for home in homes)
        return next((str(place.resolve()) for place in beside if text and place.exists()), text)

    return recipe.model_copy(
        update={
            "collection": recipe.collection.model_copy(update={"path": place(recipe.collection.path)}),
            "student": recipe.student.model_copy(update={"base": place(recipe.student.base)}),
            "teachers": {
                name: teacher.model_copy(update={key: place(getattr(teacher, key)) for key in [teacher.place] if key})
                for name, teacher in recipe.teachers.items()
            },
            "ladder": [
                rung.model_copy(update={key: place(file) for key in MORE.values() if (file := getattr(rung, key))})
                for rung in recipe.ladder
            ],
        }
    )
