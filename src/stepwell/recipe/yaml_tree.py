"""The YAML of a recipe as a tree in which every node knows its file and line; recipes that extend others, merged."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from stepwell.errors import StepwellError
from stepwell.recipe.mistakes import Mistake, child, spell, where

LARGEST = 1_000_000
"""Bytes; a longer file is no recipe but, say, a corpus given by mistake."""

EXTENDS = "extends"
_FLOAT = "tag:yaml.org,2002:float"
_EXPONENT = re.compile(r"^[-+]?[0-9][0-9_]*(?:\.[0-9_]*)?[eE][-+]?[0-9]+$")
_DATE = "tag:yaml.org,2002:timestamp"
_MERGE = "tag:yaml.org,2002:merge"
_MAP = "tag:yaml.org,2002:map"
_NULL = "tag:yaml.org,2002:null"
_TEXT = "tag:yaml.org,2002:str"


class Loader(yaml.SafeLoader):
    """Safe YAML in which 5e-5 is a number, as people write it, and a date is text."""

    yaml_implicit_resolvers = {  # noqa: RUF012 (as in the base class)
        letter: [(tag, pattern) for tag, pattern in rules if tag != _DATE]
        for letter, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


Loader.add_implicit_resolver(_FLOAT, _EXPONENT, list("+-0123456789"))


class Dumper(yaml.SafeDumper):
    """Writes what :class:`Loader` reads."""

    yaml_implicit_resolvers = Loader.yaml_implicit_resolvers


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
    with plain_words(name, text):
        return checked(compose(text, name), mistakes), mistakes


def value_of(node: Node) -> Any:
    """Return what a node of :func:`read_tree` holds, as plain Python; StepwellError when it is no plain value."""
    with plain_words(str(node.start_mark.name), ""):
        return Loader("").construct_document(node)


def tree_of(path: Path, mistakes: list[Mistake], above: tuple[Path, ...] = ()) -> tuple[MappingNode, list[Path]]:
    """Return the tree of a recipe on top of what it extends, and the folders of all its files, its own first."""
    text, home = _read(path), path.resolve().parent
    with plain_words(str(path), text):
        root = checked(compose(text, str(path)), mistakes)
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
    below, homes = tree_of(base, mistakes, above)
    own = [other for other in root.value if other[0] is not pair[0]]
    with plain_words(str(path), text):
        return _merged(below, MappingNode(root.tag, own, root.start_mark, root.end_mark)), [home, *homes]


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


def compose(text: str, name: str) -> Node:
    """Return the tree of a YAML text; every node knows its file and line."""
    loader = Loader(text)
    loader.name = name
    root = loader.get_single_node()
    if root is None:
        raise StepwellError(
            f"{name} is empty: a recipe needs at least `collection`, `student` and `ladder`. "
            "`stepwell init` writes one."
        )
    return root


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
def plain_words(name: str, text: str) -> Iterator[None]:
    """Turn what PyYAML raises into a mistake of the file ``name``."""
    try:
        yield
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{name}:{mark.line + 1}" if mark else name
        raise StepwellError(
            f"{place}: this is not the YAML of a recipe: {reason_of(error)}. Nothing was run."
        ) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise StepwellError(
            f"{name}:{line}: the character U+{error.character:04X} is not allowed in YAML; take it out."
        ) from None
    except RecursionError:
        raise StepwellError(f"{name} is nested too deep, or contains itself, and is no recipe.") from None
    except (yaml.YAMLError, ValueError, TypeError) as error:
        raise StepwellError(f"{name}: a value can't be read: {' '.join(str(error).split())}.") from None


def reason_of(error: Exception) -> str:
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


def checked(root: Node, mistakes: list[Mistake], at: str = "") -> Node:
    """Collect what pydantic never sees, and put what ``<<`` merges into its place."""
    seen: set[int] = set()
    flatten = Loader("").flatten_mapping

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


def replaced(node: Node, parts: list[str], depth: int, fresh: Node, option: str) -> Node:
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
        items[number] = replaced(items[number], parts, depth + 1, fresh, option)
        return SequenceNode(node.tag, items, node.start_mark, node.end_mark)
    if not isinstance(node, MappingNode):
        raise StepwellError(
            f"{option}: `{'.'.join(parts[:depth])}` is a single value in the recipe and has no key {part!r}."
        )
    key, value = child(node, part) or (None, MappingNode(_MAP, [], *marks))
    pairs = [pair for pair in node.value if pair[0] is not key]
    if key is None or depth == len(parts) - 1:
        key = ScalarNode(_TEXT, part, *marks)
    pairs.append((key, replaced(value, parts, depth + 1, fresh, option)))
    return MappingNode(node.tag, pairs, node.start_mark, node.end_mark)
