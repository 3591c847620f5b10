"""YAML as plain values and a map of places: where each key stands, and what only the text of a file shows."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from stepwell.errors import RecipeError

LARGEST = 1_000_000
"""Bytes; a longer file is no recipe but, say, a corpus given by mistake."""

Keys = tuple[int | str, ...]
"""The path of a value: keys, and in a list numbers from 0."""

_SHOWN = 20  # mistakes that an error lists
_MOST_PLACES = 10_000  # a bomb of aliases has more paths than a computer has memory
_FLOAT = "tag:yaml.org,2002:float"
_EXPONENT = re.compile(r"^[-+]?[0-9][0-9_]*(?:\.[0-9_]*)?[eE][-+]?[0-9]+$")
_DATE = "tag:yaml.org,2002:timestamp"
_MERGE = "tag:yaml.org,2002:merge"


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


class Place(NamedTuple):
    """Where a key stands: a file and its line, or an option (line 0); and how a single value is written there."""

    name: str
    line: int = 0
    written: str = ""

    def __str__(self) -> str:
        return f"{self.name}:{self.line}" if self.line else self.name


@dataclass(frozen=True)
class Mistake:
    """One thing to mend: where it stands, the key's path as users write it, what is wrong."""

    place: Place
    path: str
    text: str

    def __str__(self) -> str:
        named = not self.path or str(self.place) == f"--set {self.path}"
        return f"{self.place}: {self.text if named else f'{self.path}: {self.text}'}"


def refusal(what: str, mistakes: list[Mistake], end: str) -> RecipeError:
    """Return the error about the mistakes of a file, in the order of its lines; of a great many the first ones."""
    ordered = sorted(mistakes, key=lambda mistake: mistake.place.line)
    if len(ordered) == 1:
        return RecipeError(f"{ordered[0]}{'' if ordered[0].text.endswith(('.', '?')) else '.'} {end}")
    lines = [f"The {what} has {len(ordered)} mistakes:", *(f"  {mistake}" for mistake in ordered[:_SHOWN])]
    more = [f"  (and {len(ordered) - _SHOWN} more)"] if len(ordered) > _SHOWN else []
    return RecipeError("\n".join([*lines, *more, end]))


@dataclass(frozen=True)
class Document:
    """Plain values, and the place of each key by its path; the empty path is the whole."""

    content: Any
    places: dict[Keys, Place]

    def place(self, keys: Keys = ()) -> Place:
        """Return where a value stands, or else the nearest thing that holds it."""
        return next(self.places[keys[:n]] for n in range(len(keys), -1, -1) if keys[:n] in self.places)

    def items(self) -> Iterator[tuple[str, "Document"]]:
        """Yield the keys of a mapping with their values; nothing else has any."""
        for key, value in self.content.items() if isinstance(self.content, dict) else ():
            inner = {keys[1:]: place for keys, place in self.places.items() if keys[:1] == (str(key),)}
            yield str(key), Document(value, {(): self.place()} | inner)

    def on(self, below: "Document") -> "Document":
        """Return all that ``below`` says and this does not: mappings are merged, anything else is replaced."""
        return Document(_merged(below.content, self.content), below.places | self.places)

    def put(self, key: str, value: "Document") -> "Document":
        """Return a copy with a value at a dotted key; the things of a list count from 1. ValueError says why not."""
        keys = self._keys(key.split("."))
        places = {other: place for other, place in self.places.items() if other[: len(keys)] != keys}
        for length in range(1, len(keys)):
            places.setdefault(keys[:length], value.place())
        inner = {(*keys, *other): place for other, place in value.places.items()}
        return Document(_replaced(self.content, keys, value.content), places | inner)

    def _keys(self, parts: list[str]) -> Keys:
        """Return the path that a dotted key means here; what is missing or empty can be filled."""
        content, keys = self.content, list[int | str]()
        for depth, part in enumerate(parts):
            above = ".".join(parts[:depth])
            if isinstance(content, list):
                number = int(part) - 1 if part.isdecimal() else -1
                if not 0 <= number < len(content):
                    raise ValueError(f"`{above}` has the numbers 1 to {len(content)}, and {part!r} is none of them.")
                keys.append(number)
                content = content[number]
            elif content is None or isinstance(content, dict):
                keys.append(part)
                content = (content or {}).get(part)
            else:
                raise ValueError(f"`{above}` is a single value in the recipe and has no key {part!r}.")
        return tuple(keys)


def _merged(below: Any, above: Any) -> Any:
    if not (isinstance(below, dict) and isinstance(above, dict)):
        return above
    return below | {key: _merged(below.get(key), value) for key, value in above.items()}


def _replaced(content: Any, keys: Keys, value: Any) -> Any:
    """Return a copy with another value at a path; what an alias shares stays as it is elsewhere."""
    if not keys:
        return value
    key, *others = keys
    copy: dict[Any, Any] = dict(enumerate(content)) if isinstance(content, list) else dict(content or {})
    copy[key] = _replaced(copy.get(key), tuple(others), value)
    return list(copy.values()) if isinstance(content, list) else copy


def spell(keys: Keys) -> str:
    """Return a path as a user writes it for ``--set``: dots, and the things of a list counted from 1.

    >>> spell(("ladder", 0, "epochs"))
    'ladder.1.epochs'
    """
    return ".".join(str(key + 1) if isinstance(key, int) else key for key in keys)


def read_yaml(name: str, text: str | None = None) -> tuple[Document, list[Mistake]]:
    """Read a file, or ``text`` as if it were in it; also return the mistakes that only a text has (doubled keys)."""
    text = _read(Path(name)) if text is None else text
    with plain_words(name, text):
        loader = Loader(text)
        root = loader.get_single_node()
        if root is None:
            raise RecipeError(
                f"{name} is empty: a recipe needs at least `collection`, `student` and `ladder`. "
                "`stepwell init` writes one."
            )
        survey = _Survey(root, name, loader)
        return Document(loader.construct_document(root), survey.places), survey.mistakes


class _Survey:
    """Walks a tree of nodes for the place of each key and the keys that are given twice, and follows every ``<<``."""

    def __init__(self, root: Node, name: str, loader: Loader) -> None:
        self.mistakes: list[Mistake] = []
        self._name, self._loader = name, loader
        self._seen: set[int] = set()
        self._holders: set[int] = set()  # the nodes around the one that is visited: an alias may name one of them
        self.places: dict[Keys, Place] = {(): self._place(root, root)}
        self._visit(root, ())

    def _place(self, key: Node, value: Node) -> Place:
        written = value.value if isinstance(value, ScalarNode) else ""
        return Place(self._name, key.start_mark.line + 1, written)

    def _visit(self, node: Node, keys: Keys) -> None:
        new = id(node) not in self._seen
        if id(node) in self._holders or not (new or len(self.places) < _MOST_PLACES):
            return
        self._seen.add(id(node))
        self._holders.add(id(node))
        pairs: list[tuple[int | str, Node, Node]] = []
        if isinstance(node, MappingNode):
            if new:
                self._check_keys(node, keys)
            pairs = [(key.value, key, value) for key, value in node.value]  # what was merged comes first
        elif isinstance(node, SequenceNode):
            pairs = [(number, item, item) for number, item in enumerate(node.value)]
        for part, key, value in pairs:
            self.places[*keys, part] = self._place(key, value)
            self._visit(value, (*keys, part))
        self._holders.discard(id(node))

    def _check_keys(self, node: MappingNode, keys: Keys) -> None:
        """Note the keys that are given twice, and put what ``<<`` merges beside them."""
        first: dict[str, int] = {}
        for key, value in node.value:
            place = self._place(key, value)
            if not isinstance(key, ScalarNode):
                raise RecipeError(f"{place}: a list or a mapping can't be a key; put text before the `:`.")
            if key.tag == _MERGE:
                self._visit(value, (*keys, key.value))
            elif key.value in first:
                text = f"is given twice (first in line {first[key.value]}); keep one"
                self.mistakes.append(Mistake(place, spell((*keys, key.value)), text))
            first.setdefault(key.value, place.line)
        self._loader.flatten_mapping(node)


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST + 1)
    except FileNotFoundError:
        raise RecipeError(
            f"there is no recipe {path}: give the YAML file of a run; "
            "`stepwell init DIRECTORY` writes one for a collection."
        ) from None
    except IsADirectoryError:
        inside = sorted(file.name for pattern in ("*.yaml", "*.yml") for file in path.glob(pattern))
        hint = f"give a file in it ({', '.join(inside[:5])})" if inside else "`stepwell init` writes one"
        raise RecipeError(f"{path} is a directory, and a recipe is a YAML file: {hint}.") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise RecipeError(f"the recipe {path} can't be read: {reason}.") from error
    if len(content) > LARGEST:
        raise RecipeError(
            f"{path} is longer than {LARGEST:,} bytes, which no recipe is; is it the file that you meant?"
        )
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise RecipeError(
            f"{path}:{line}: the byte 0x{content[error.start]:02x} is not UTF-8, which recipes are "
            "written in. Save the file as UTF-8."
        ) from None


@contextmanager
def plain_words(name: str, text: str = "") -> Iterator[None]:
    """Turn what PyYAML raises into a mistake of the file ``name``."""
    try:
        yield
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = Place(name, mark.line + 1 if mark else 0)
        raise RecipeError(f"{place}: this is not the YAML of a recipe: {reason_of(error)}. Nothing was run.") from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise RecipeError(
            f"{name}:{line}: the character U+{error.character:04X} is not allowed in YAML; take it out."
        ) from None
    except RecursionError:
        raise RecipeError(f"{name} is nested too deep, or contains itself, and is no recipe.") from None
    except (yaml.YAMLError, ValueError, TypeError) as error:
        raise RecipeError(f"{name}: a value can't be read: {' '.join(str(error).split())}.") from None


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
