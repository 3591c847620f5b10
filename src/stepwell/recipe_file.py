"""Reading and writing the recipe as YAML: every mistake with its line, all of them at once."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from stepwell.errors import StepwellError
from stepwell.recipe import Recipe
from stepwell.recipe_mistakes import Mistake, child, explain, spell, where

LARGEST = 1_000_000
"""Bytes; a longer file is no recipe but, say, a corpus given by mistake."""

BUNDLED = {"demo", "demo-full"}
EXTENDS = "extends"
_SHOWN = 20
_FLOAT = "tag:yaml.org,2002:float"
_EXPONENT = re.compile(r"^[-+]?[0-9][0-9_]*(?:\.[0-9_]*)?[eE][-+]?[0-9]+$")
_DATE = "tag:yaml.org,2002:timestamp"
_MERGE = "tag:yaml.org,2002:merge"
_MAP = "tag:yaml.org,2002:map"
_NULL = "tag:yaml.org,2002:null"
_TEXT = "tag:yaml.org,2002:str"


class _Loader(yaml.SafeLoader):
    """Safe YAML in which 5e-5 is a number, as people write it, and a date is text."""

    yaml_implicit_resolvers = {  # noqa: RUF012 (as in the base class)
        letter: [(tag, pattern) for tag, pattern in rules if tag != _DATE]
        for letter, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


_Loader.add_implicit_resolver(_FLOAT, _EXPONENT, list("+-0123456789"))


class _Dumper(yaml.SafeDumper):
    """Writes what :class:`_Loader` reads."""

    yaml_implicit_resolvers = _Loader.yaml_implicit_resolvers


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
    tree, homes = _tree(path, mistakes)
    root: Node = tree
    with _plain_words(str(path), ""):
        for key, value in (overrides or {}).items():
            option = f"--set {key}"
            fresh = _checked(_compose(yaml.dump(value, Dumper=_Dumper), option), mistakes, key)
            root = _replaced(root, key.split("."), 0, fresh, option)
        content = _Loader("").construct_document(root)
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
        return key.strip(), yaml.load(value, _Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise StepwellError(f"the value in --set {text} can't be read as YAML: {_reason(error)}.") from None


def read_tree(name: str, text: str | None = None) -> tuple[Node, list[Mistake]]:
    """Return the tree of YAML that changes a recipe, and the mistakes that only its text shows (doubled keys).

    Parameters
    ----------
    name
        The file.
    text
        What is in it; read when None.

    Raises
    ------
    StepwellError
        When it can't be read or is no YAML.
    """
    text = _read(Path(name)) if text is None else text
    mistakes: list[Mistake] = []
    with _plain_words(name, text):
        return _checked(_compose(text, name), mistakes), mistakes


def value_of(node: Node) -> Any:
    """Return what a node of :func:`read_tree` holds, as plain Python; StepwellError when it is no plain value."""
    with _plain_words(str(node.start_mark.name), ""):
        return _Loader("").construct_document(node)


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
    root = _compose(dump_recipe(recipe), "the recipe")
    for key, fresh in changes:
        root = _replaced(root, key.split("."), 0, fresh, f"{where(fresh)}: {key}")
    try:
        made = Recipe.model_validate(value_of(root), strict=True)
    except ValidationError as error:
        return None, explain(error, root)
    return _with_places(made, [home]), []


def dump_recipe(recipe: Recipe) -> str:
    """Return the recipe as YAML with every default written out; the same recipe gives the same text.

    Examples
    --------
    >>> from stepwell.recipe import CollectionSection, Rung, StudentSection
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
    return yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1_000_000)


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST + 1)
    except FileNotFoundError:
        raise StepwellError(
            f"there is no recipe {path}: give the YAML file of a run; "
            "`stepwell init DIRECTORY` writes one for a collection."
        ) from None
    except IsADirectoryError:
        inside = sorted(file.name for pattern in ("*.yaml", "*.yml") for file in path.glob(pattern))
        hint = f"give a file in it ({', '.join(inside[:5])})" if inside else "`stepwell init` writes one"
        raise StepwellError(f"{path} is a directory, and a recipe is a YAML file: {hint}.") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise StepwellError(f"the recipe {path} can't be read: {reason}.") from error
    if len(content) > LARGEST:
        raise StepwellError(
            f"{path} is longer than {LARGEST:,} bytes, which no recipe is; is it the file that you meant?"
        )
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise StepwellError(
            f"{path}:{line}: the byte 0x{content[error.start]:02x} is not UTF-8, which recipes are "
            "written in. Save the file as UTF-8."
        ) from None


def _compose(text: str, name: str) -> Node:
    """Return the tree of a YAML text; every node knows its file and line."""
    loader = _Loader(text)
    loader.name = name
    root = loader.get_single_node()
    if root is None:
        raise StepwellError(
            f"{name} is empty: a recipe needs at least `collection`, `student` and `ladder`. "
            "`stepwell init` writes one."
        )
    return root


def _tree(path: Path, mistakes: list[Mistake], above: tuple[Path, ...] = ()) -> tuple[MappingNode, list[Path]]:
    """Return the tree of a recipe on top of what it extends, and the folders of all its files, its own first."""
    text, home = _read(path), path.resolve().parent
    with _plain_words(str(path), text):
        root = _checked(_compose(text, str(path)), mistakes)
    if not isinstance(root, MappingNode):
        raise StepwellError(
            f"{where(root)}: a recipe is made of keys with values (`collection:`, `student:`, "
            "`ladder:`), and this is none."
        )
    pair = child(root, EXTENDS)
    if pair is None:
        return root, [home]
    value = pair[1]
    if not isinstance(value, ScalarNode) or value.tag != _TEXT:
        raise StepwellError(f"{where(value)}: `extends` names one other recipe, a file beside this one.")
    base = path.parent / value.value
    if not base.is_file():
        raise StepwellError(f"{where(value)}: the recipe that this one extends, {base}, does not exist.")
    above = (*above, path.resolve())
    if base.resolve() in above:
        raise StepwellError(f"{where(value)}: the recipe extends itself{' by way of others' * (len(above) > 1)}.")
    below, homes = _tree(base, mistakes, above)
    own = [other for other in root.value if other[0] is not pair[0]]
    with _plain_words(str(path), text):
        return _merged(below, MappingNode(root.tag, own, root.start_mark, root.end_mark)), [home, *homes]


def _merged(below: MappingNode, above: MappingNode) -> MappingNode:
    """Return the keys of both, those of ``above`` counting more; mappings under the same key are merged."""
    pairs = {key.value: (key, value) for key, value in below.value}
    for key, value in above.value:
        _, other = pairs.get(key.value, (None, None))
        if isinstance(other, MappingNode) and isinstance(value, MappingNode):
            value = _merged(other, value)
        pairs[key.value] = (key, value)
    return MappingNode(above.tag, list(pairs.values()), above.start_mark, above.end_mark)


@contextmanager
def _plain_words(name: str, text: str) -> Iterator[None]:
    """Turn what PyYAML raises into a mistake of the file ``name``."""
    try:
        yield
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{name}:{mark.line + 1}" if mark else name
        raise StepwellError(f"{place}: this is not the YAML of a recipe: {_reason(error)}. Nothing was run.") from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise StepwellError(
            f"{name}:{line}: the character U+{error.character:04X} is not allowed in YAML; take it out."
        ) from None
    except RecursionError:
        raise StepwellError(f"{name} is nested too deep, or contains itself, and is no recipe.") from None
    except (yaml.YAMLError, ValueError, TypeError) as error:
        raise StepwellError(f"{name}: a value can't be read: {' '.join(str(error).split())}.") from None


def _reason(error: Exception) -> str:
    """Return a YAML error in plain words."""
    problem = str(getattr(error, "problem", None) or error)
    if "'\\t'" in problem or "tab" in problem.split():
        return "there is a tab; YAML is indented with spaces"
    if "mapping values are not allowed" in problem:
        return "there is a `:` too many here, or the line is indented wrongly; text with a colon needs quotes"
    if "expected <block end>" in problem or "could not find expected ':'" in problem:
        return "the line is indented wrongly, or a `:` is missing after a key"
    if "expected a single document" in str(getattr(error, "context", "")):
        return "a second document begins here (`---`), and a recipe is one"
    return " ".join(problem.split())


def _checked(root: Node, mistakes: list[Mistake], at: str = "") -> Node:
    """Collect what pydantic never sees, and put what ``<<`` merges into its place."""
    seen: set[int] = set()
    flatten = _Loader("").flatten_mapping

    def check(node: Node, keys: tuple[int | str, ...]) -> None:
        if id(node) in seen:
            return
        seen.add(id(node))
        if isinstance(node, SequenceNode):
            for number, item in enumerate(node.value):
                check(item, (*keys, number))
        elif isinstance(node, MappingNode):
            mistakes.extend(_wrong_keys(node, keys))
            for key, value in node.value:
                check(value, (*keys, key.value) if isinstance(key, ScalarNode) else keys)
            flatten(node)
        elif node.tag == _FLOAT and not _finite(node.value):
            text = f"must be a finite number, not {node.value}"
            mistakes.append(Mistake(where(node), spell(keys), text, node.start_mark.index))

    check(root, tuple(at.split(".")) if at else ())
    return root


def _wrong_keys(node: MappingNode, keys: tuple[int | str, ...]) -> Iterator[Mistake]:
    first: dict[str, Node] = {}
    for key, _ in node.value:
        if not isinstance(key, ScalarNode):
            raise StepwellError(f"{where(key)}: a list or a mapping can't be a key; put text before the `:`.")
        elif key.value in first and key.tag != _MERGE:
            line = where(first[key.value]).rpartition(":")[2]
            text = f"is given twice (first in line {line}); keep one"
            yield Mistake(where(key), spell((*keys, key.value)), text, key.start_mark.index)
        else:
            first[key.value] = key


def _finite(text: str) -> bool:
    try:
        return math.isfinite(float(text.replace("_", "")))
    except ValueError:
        return not text.lower().lstrip("+-").startswith((".inf", ".nan"))


def _replaced(node: Node, parts: list[str], depth: int, fresh: Node, option: str) -> Node:
    """Return a copy of the tree with ``fresh`` at the path; what an alias shares stays as it is elsewhere."""
    if depth == len(parts):
        return fresh
    part, marks = parts[depth], (fresh.start_mark, fresh.end_mark)
    if isinstance(node, ScalarNode) and node.tag == _NULL:
        node = MappingNode(_MAP, [], *marks)
    if isinstance(node, SequenceNode):
        number = int(part) - 1 if part.isdecimal() else -1
        if not 0 <= number < len(node.value):
            raise StepwellError(
                f"{option}: `{'.'.join(parts[:depth])}` has the numbers 1 to {len(node.value)}, and "
                f"{part!r} is none of them."
            )
        items = list(node.value)
        items[number] = _replaced(items[number], parts, depth + 1, fresh, option)
        return SequenceNode(node.tag, items, node.start_mark, node.end_mark)
    if not isinstance(node, MappingNode):
        raise StepwellError(
            f"{option}: `{'.'.join(parts[:depth])}` is a single value in the recipe and has no key {part!r}."
        )
    key, value = child(node, part) or (None, MappingNode(_MAP, [], *marks))
    pairs = [pair for pair in node.value if pair[0] is not key]
    if key is None or depth == len(parts) - 1:
        key = ScalarNode(_TEXT, part, *marks)
    pairs.append((key, _replaced(value, parts, depth + 1, fresh, option)))
    return MappingNode(node.tag, pairs, node.start_mark, node.end_mark)


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
        }
    )
