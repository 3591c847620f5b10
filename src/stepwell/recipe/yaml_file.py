"""Reading and writing the recipe as YAML: every mistake with its line, all of them at once."""

from collections.abc import Iterable, Mapping
from functools import reduce
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from stepwell.errors import RecipeError
from stepwell.recipe.ladder import MORE
from stepwell.recipe.mistakes import explain
from stepwell.recipe.places import Document, Dumper, Loader, Mistake, Place, plain_words, read_yaml, reason_of, refusal
from stepwell.recipe.recipe import CollectionSection, Recipe
from stepwell.recipe.training import Section

BUNDLED = {"demo", "demo-full"}
DEMO = Path(__file__).with_name("demo.yaml")
EXTENDS = "extends"

S = TypeVar("S", bound=Section)


def load_recipe(path: str | Path, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """Read a recipe.

    Relative directories (``collection.path``, every ``from``) are those beside the recipe where they exist. A recipe
    that ``extends`` another has all that the other says and it does not say itself: mappings are merged key by key,
    anything else (also a list, such as the ladder) is replaced.
    """
    files, document, mistakes = _with_extended(Path(path))
    changes = [(key, Document(value, {(): Place(f"--set {key}")})) for key, value in (overrides or {}).items()]
    recipe, others = _made(document, changes, [file.parent for file in files])
    known = {(mistake.place, mistake.path) for mistake in mistakes}  # a key that is given twice: one thing to mend
    mistakes += [other for other in others if (other.place, other.path) not in known]
    if recipe is None or mistakes:
        raise refusal(f"recipe {Path(path)}", mistakes, "Nothing was run; docs/recipe.md lists all keys.")
    return recipe


def demo_recipe() -> Recipe:
    """Return the recipe that ``stepwell demo`` runs."""
    return load_recipe(DEMO)


def parse_override(text: str) -> tuple[str, Any]:
    """Return the key and the value of ``--set KEY=VALUE``; the value is read as YAML.

    >>> parse_override("student.layers=2"), parse_override("ladder.1.lr=5e-5")
    (('student.layers', 2), ('ladder.1.lr', 5e-05))
    """
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise RecipeError(f"--set takes KEY=VALUE, as in --set student.layers=2, and was given {text!r}.")
    try:
        return key.strip(), yaml.load(value, Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise RecipeError(f"the value in --set {text} can't be read as YAML: {reason_of(error)}.") from None


def parse_collection(text: str) -> CollectionSection:
    """Return the ``collection`` section that stands in braces: ``{path: DIRECTORY, format: tables}``."""
    try:
        document, mistakes = read_yaml(text, f"collection: {text}")
        mistakes += _made(document, (), [])[1]
        why = [f"{mistake.path}: {mistake.text}" for mistake in mistakes if mistake.path.startswith("collection")]
    except RecipeError:
        why = ["it is no YAML"]
    if why:
        raise RecipeError(
            f"{text} is no `collection` section of a recipe: {'; '.join(why).removesuffix('.')}. Write it as "
            "{path: DIRECTORY, format: tables}, or give the directory alone."
        )
    return CollectionSection.model_validate(document.content["collection"])


def changed(
    recipe: Recipe, changes: Iterable[tuple[str, Document]], home: Path, place: Place
) -> tuple[Recipe | None, list[Mistake]]:
    """Return a copy of a recipe with values put at dotted keys, or None and the mistakes.

    Relative directories are looked for in ``home`` first. A mistake that no change holds stands at ``place``.
    """
    return _made(Document(recipe.model_dump(by_alias=True), {(): place}), changes, [home])


def dump_recipe(recipe: Recipe) -> str:
    """Return the recipe as YAML with every default written out; the same recipe gives the same text.

    >>> dump_recipe(demo_recipe()).splitlines()[:4]
    ['name: demo', 'seed: 13', 'collection:', '  path: demo']
    """
    content = recipe.model_dump(by_alias=True)
    return yaml.dump(content, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=1_000_000)


def _with_extended(path: Path) -> tuple[list[Path], Document, list[Mistake]]:
    """Return a recipe's file and those that it extends, what they say together, and the mistakes in their texts."""
    files: list[Path] = []
    documents: list[Document] = []
    mistakes: list[Mistake] = []
    base: Path | None = path
    while base is not None:
        document, found = read_yaml(str(base))
        if not isinstance(document.content, dict):
            raise RecipeError(
                f"{document.place()}: a recipe is made of keys with values (`collection:`, `student:`, "
                "`ladder:`), and this is none."
            )
        files.append(base.resolve())
        mistakes += found
        base = _extended(base, document, files)
        documents.append(Document({k: v for k, v in document.content.items() if k != EXTENDS}, document.places))
    with plain_words(str(path)):
        return files, reduce(lambda above, below: above.on(below), documents), mistakes


def _extended(path: Path, document: Document, files: list[Path]) -> Path | None:
    """Return the file that a recipe extends, None when it stands alone."""
    if EXTENDS not in document.content:
        return None
    place, value = document.place((EXTENDS,)), document.content[EXTENDS]
    if not isinstance(value, str):
        raise RecipeError(f"{place}: `extends` names one other recipe, a file beside this one.")
    base = path.parent / value
    if not base.is_file():
        raise RecipeError(f"{place}: the recipe that this one extends, {base}, does not exist.")
    if base.resolve() in files:
        raise RecipeError(f"{place}: the recipe extends itself{' by way of others' * (len(files) > 1)}.")
    return base


def _made(
    document: Document, changes: Iterable[tuple[str, Document]], homes: list[Path]
) -> tuple[Recipe | None, list[Mistake]]:
    """Return the recipe that a document is after some changes, None where it is none, and all mistakes."""
    mistakes: list[Mistake] = []
    for key, value in changes:
        try:
            document = document.put(key, value)
        except ValueError as error:
            mistakes.append(Mistake(value.place(), key, str(error)))
    try:
        return _located(Recipe.model_validate(document.content, strict=True), homes), mistakes
    except ValidationError as error:
        return None, mistakes + explain(error, document)


def _located(recipe: Recipe, homes: list[Path]) -> Recipe:
    """Turn relative directories and files that exist beside the recipe, or what it extends, into absolute ones."""

    def locate(text: str) -> str:
        beside = (home / Path(text).expanduser() for home in homes if text and text not in BUNDLED)
        return next((str(place.resolve()) for place in beside if place.exists()), text)

    def moved(section: S, *keys: str) -> S:
        given = {key: getattr(section, key) for key in keys}
        return section.model_copy(update={key: locate(text) for key, text in given.items() if text is not None})

    return recipe.model_copy(
        update={
            "collection": moved(recipe.collection, "path"),
            "student": moved(recipe.student, "base"),
            "teachers": {name: moved(teacher, *teacher.places) for name, teacher in recipe.teachers.items()},
            "ladder": [moved(rung, *MORE.values()) for rung in recipe.ladder],
        }
    )
