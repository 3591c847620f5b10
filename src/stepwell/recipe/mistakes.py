"""What is wrong with a recipe, in words that name the line, the key and the way out."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from stepwell.recipe.page import ANY, fields_of, sections

Location = tuple[int | str, ...]

_WORDS = {
    "string_type": "must be text",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "bool_type": "must be true or false",
    "list_type": "must be a list",
    "dict_type": "must hold keys with values",
    "model_type": "must hold keys with values",
    "model_attributes_type": "must hold keys with values",
    "invalid_key": "must be named by text; put the key in quotes",
    "greater_than": "must be above {gt:g}",
    "greater_than_equal": "must be at least {ge:g}",
    "less_than_equal": "must be at most {le:g}",
    "literal_error": "must be {expected}",
    "too_short": "needs at least {min_length}",
}


@dataclass(frozen=True)
class Mistake:
    """One thing to mend: where it stands, the key's path (rungs count from 1), what is wrong, its offset."""

    where: str
    path: str
    text: str
    offset: int = 0

    def __str__(self) -> str:
        named = not self.path or self.where == f"--set {self.path}"
        return f"{self.where}: {self.text if named else f'{self.path}: {self.text}'}"


@dataclass(frozen=True)
class _Found:
    """Where an error's location leads in the file: keys that exist, the last one's node, its value's."""

    keys: Location
    key: Node
    value: Node


def explain(error: ValidationError, root: Node) -> list[Mistake]:
    """Return the mistakes behind a validation error, one for each place."""
    details = error.errors(include_url=False)
    places = [_find(root, detail["loc"]) for detail in details]
    guesses = {
        (found.keys[:-1], _nearest_here(detail))
        for detail, found in zip(details, places, strict=True)
        if detail["type"] == "extra_forbidden"
    }
    texts: dict[tuple[str, str], list[str]] = {}
    order: dict[tuple[str, str], int] = {}
    for detail, found in zip(details, places, strict=True):
        depth = len(found.keys)
        deeper = any(len(other.keys) > depth and other.keys[:depth] == found.keys for other in places)
        if detail["type"] == "literal_error" and deeper:
            continue  # one of several possible types; the other one says more
        if detail["type"] == "missing" and (found.keys, detail["loc"][-1]) in guesses:
            continue  # it is there, misspelled
        if detail["type"] == "value_error":
            found = _meant(root, found, str(detail["ctx"]["error"]))
        missing = (str(detail["loc"][-1]),) if detail["type"] == "missing" else ()
        place = where(found.key), spell((*found.keys, *missing))
        texts.setdefault(place, []).append(_text(detail, found))
        order.setdefault(place, found.key.start_mark.index)
    return [Mistake(*place, _joined(texts[place]), order[place]) for place in texts]


def where(node: Node) -> str:
    """Return ``file:line`` of a node, or the option that set it."""
    mark = node.start_mark
    return str(mark.name) if str(mark.name).startswith("--") else f"{mark.name}:{mark.line + 1}"


def spell(keys: Location) -> str:
    """Return a path as a user writes it for ``--set``: dots, and the things of a list counted from 1.

    Examples
    --------
    >>> spell(("ladder", 0, "epochs"))
    'ladder.1.epochs'
    """
    return ".".join(str(key + 1) if isinstance(key, int) else key for key in keys)


def child(node: Node, key: int | str) -> tuple[Node, Node] | None:
    """Return the (key, value) nodes under ``key``; in a list, both are the thing itself."""
    if isinstance(node, MappingNode):
        pairs = [(k, v) for k, v in node.value if isinstance(k, ScalarNode) and k.value == str(key)]
        return pairs[-1] if pairs else None  # what was merged comes first, and counts less
    if isinstance(node, SequenceNode) and isinstance(key, int) and 0 <= key < len(node.value):
        return node.value[key], node.value[key]
    return None


def nearest(word: str, words: list[str]) -> str | None:
    """Return the word that was probably meant.

    Examples
    --------
    >>> nearest("Candidate", ["alpha", "candidates"]), nearest("depth", ["alpha"])
    ('candidates', None)
    """
    word = word.lower().replace(" ", "_")
    close = difflib.get_close_matches(word, words, 1, 0.6)
    return close[0] if close else next((other for other in words if word and other.startswith(word)), None)


def _find(root: Node, location: Location) -> _Found:
    """Follow an error's location as far as the file goes; pydantic's names of types are no keys."""
    found = _Found((), root, root)
    for part in location:
        pair = child(found.value, part)
        if pair is not None:
            found = _Found((*found.keys, part if isinstance(found.value, SequenceNode) else str(part)), *pair)
    return found


def _fields_at(location: Location) -> dict[str, FieldInfo]:
    """Return the fields, by key, of the section at an error's location."""
    for place, section in sections():
        fits = (part in (ANY, str(given)) for part, given in zip(place, location, strict=False))
        if len(place) == len(location) and all(fits):
            return fields_of(section)
    return {}


def _nearest_here(detail: ErrorDetails) -> str | None:
    return nearest(str(detail["loc"][-1]), list(_fields_at(detail["loc"][:-1])))


def _unknown(detail: ErrorDetails) -> str:
    """Say of an unknown key which one was meant: the same key in another section, or one like it in this."""
    homes = [place[0] for place, section in sections() if place and str(detail["loc"][-1]) in fields_of(section)]
    if homes:
        named = "a rung of the ladder" if homes[0] == "ladder" else f"`{homes[0]}`"
        return f"there is no such key here; it belongs to {named}."
    meant = _nearest_here(detail)
    if meant is not None:
        return f"there is no such key; did you mean `{meant}`?"
    return f"there is no such key; there are {', '.join(_fields_at(detail['loc'][:-1]))}."


def _text(detail: ErrorDetails, found: _Found) -> str:
    kind, given, context = detail["type"], detail["input"], detail.get("ctx", {})
    match kind:
        case "extra_forbidden":
            return _unknown(detail)
        case "missing":
            field = _fields_at(detail["loc"][:-1]).get(str(detail["loc"][-1]))
            return f"is missing. {(field.description if field else None) or 'It has no default.'}"
        case "union_tag_not_found":
            places = [place for place, _ in sections() if place[:-1] == ("teachers", ANY)]
            return "needs " + " or ".join(f"`kind: {place[-1]}`" for place in places)
        case "union_tag_invalid":
            given, kinds = context["tag"], str(context["expected_tags"])
            return f"the kind {_show(given)} does not exist; there are {kinds}{_hint(given, kinds)}"
        case "value_error":
            return str(context["error"])
    if detail["loc"][-1:] == ("[key]",):
        kinds = str(context.get("expected", ""))
        return f"there is no such key; there are {kinds}{_hint(given, kinds)}" if kinds else _WORDS["invalid_key"]
    words = _WORDS.get(kind)
    if words is None:
        message = str(detail["msg"])
        return f"{message[0].lower()}{message[1:]}"
    text = words.format(**context)
    if given is None:
        return f"{text}, and it is empty"
    if kind == "string_type" and isinstance(found.value, ScalarNode):
        return f"{text}, not {_show(given)}; put it in quotes"
    hint = _hint(given, str(context["expected"])) if kind == "literal_error" else ""
    return text if kind == "too_short" else f"{text}, not {_show(given)}{hint}"


def _hint(given: Any, expected: str) -> str:
    words = re.findall(r"'([^']+)'", expected)
    meant = nearest(given, words) if isinstance(given, str) else None
    return f"; did you mean {meant}?" if meant else ""


def _show(value: Any) -> str:
    """Return a value in few letters, whatever its size."""
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "keys with values"
    if isinstance(value, bool):
        return str(value).lower()
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _joined(texts: list[str]) -> str:
    """Join what several possible types say of one value: must be this, or that, not what was given."""
    first, *others = dict.fromkeys(texts)
    for other in others:
        head, comma, tail = first.partition(", not ")
        if comma and other.startswith("must be "):
            first = f"{head} or {other.removeprefix('must be ').partition(', not ')[0]}{comma}{tail}"
    return first


def _meant(root: Node, found: _Found, text: str) -> _Found:
    """Find what an error of the whole recipe is about: its section, and in it a value that it quotes."""
    rung = re.match(r"rung (\d+) ", text)
    teacher = re.match(r"teacher '(.+?)'", text)
    if rung:
        found = _find(root, ("ladder", int(rung[1]) - 1))
    elif teacher:
        found = _find(root, ("teachers", teacher[1]))
    elif text.startswith("refine"):
        found = _find(root, ("refine",))
    by_value = rung is not None or text.startswith("refine")
    pairs = found.value.value if isinstance(found.value, MappingNode) else []
    for key, value in pairs:
        if isinstance(value, ScalarNode) and f"'{value.value}'" in text and (by_value or key.value == "imitate"):
            return _Found((*found.keys, key.value), value, value)
        if f"'{key.value}'" in text and not (by_value or teacher):
            return _Found((*found.keys, key.value), key, value)
    return found
