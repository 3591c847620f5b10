"""What is wrong with a recipe, in words that name the line, the key and the way out."""

import difflib
import math
import re
from typing import Any

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from stepwell.recipe.page import ANY, fields_of, sections
from stepwell.recipe.places import Document, Keys, Mistake, Place, spell

_WORDS = {
    "string_type": "must be text",
    **dict.fromkeys(("int_type", "int_from_float"), "must be a whole number"),
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "list_type": "must be a list",
    **dict.fromkeys(("dict_type", "model_type", "model_attributes_type"), "must hold keys with values"),
    "invalid_key": "must be named by text; put the key in quotes",
    "greater_than": "must be above {gt:g}",
    "greater_than_equal": "must be at least {ge:g}",
    "less_than_equal": "must be at most {le:g}",
    "literal_error": "must be {expected}",
    "too_short": "needs at least {min_length}",
}
_PLAIN = (str, int, float, bool, list, dict)


def explain(error: ValidationError, document: Document) -> list[Mistake]:
    """Return the mistakes behind a validation error, one for each key."""
    details = error.errors(include_url=False)
    paths = [_known(document.content, detail["loc"])[0] for detail in details]
    guesses = {
        (keys[:-1], _nearest_here(detail))
        for detail, keys in zip(details, paths, strict=True)
        if detail["type"] == "extra_forbidden"
    }
    texts: dict[tuple[Place, str], list[str]] = {}
    for detail, keys in zip(details, paths, strict=True):
        deeper = any(len(other) > len(keys) and other[: len(keys)] == keys for other in paths)
        if detail["type"] == "literal_error" and deeper:
            continue  # one of several possible types; the other one says more
        if detail["type"] == "missing" and (keys, detail["loc"][-1]) in guesses:
            continue  # it is there, misspelled
        if detail["type"] == "value_error":
            keys = _meant(document.content, keys, str(detail["ctx"]["error"]))
        place = document.place(keys)
        missing = (str(detail["loc"][-1]),) if detail["type"] == "missing" else ()
        texts.setdefault((place, spell((*keys, *missing))), []).append(_text(detail, place.written))
    return [Mistake(place, path, _joined(said)) for (place, path), said in texts.items()]


def nearest(word: str, words: list[str]) -> str | None:
    """Return the word that was probably meant.

    >>> nearest("Candidate", ["alpha", "candidates"]), nearest("depth", ["alpha"])
    ('candidates', None)
    """
    word = word.lower().replace(" ", "_")
    close = difflib.get_close_matches(word, words, 1, 0.6)
    return close[0] if close else next((other for other in words if word and other.startswith(word)), None)


def _known(content: Any, location: Keys) -> tuple[Keys, Any]:
    """Follow a location as far as the content goes, and return its value; pydantic's names of types are no keys."""
    keys: Keys = ()
    for part in location:
        inner: dict[int | str, Any] = {}
        if isinstance(content, list):
            inner = dict(enumerate(content))
        elif isinstance(content, dict):
            inner, part = {str(key): value for key, value in content.items()}, str(part)
        if part in inner:
            keys, content = (*keys, part), inner[part]
    return keys, content


def _fields_at(location: Keys) -> dict[str, FieldInfo]:
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
    home = next((place[0] for place, kind in sections() if place and str(detail["loc"][-1]) in fields_of(kind)), None)
    if home is not None:
        return (
            f"there is no such key here; it belongs to {'a rung of the ladder' if home == 'ladder' else f'`{home}`'}."
        )
    meant, keys = _nearest_here(detail), ", ".join(_fields_at(detail["loc"][:-1]))
    return f"there is no such key; {f'did you mean `{meant}`?' if meant else f'there are {keys}.'}"


def _text(detail: ErrorDetails, written: str) -> str:
    """Return what is wrong with a value, which is shown as it is ``written`` where it is no finite number."""
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
    if kind == "too_short":
        return text
    if not isinstance(given, _PLAIN):
        return f"{text}, and a value of type {type(given).__name__} can't be read"
    hint = "; put it in quotes" if kind == "string_type" and not isinstance(given, list | dict) else ""
    if kind == "literal_error":
        hint = _hint(given, str(context["expected"]))
    endless = isinstance(given, float) and not math.isfinite(given)
    return f"{text}, not {(endless and written) or _show(given)}{hint}"


def _hint(given: Any, expected: str) -> str:
    words = re.findall(r"'([^']+)'", expected)
    meant = nearest(given, words) if isinstance(given, str) else None
    return f"; did you mean {meant}?" if meant else ""


def _show(value: Any) -> str:
    """Return a value in few letters, whatever its size."""
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "keys with values"
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _joined(texts: list[str]) -> str:
    """Join what several possible types say of one value: must be this, or that, not what was given."""
    first, *others = dict.fromkeys(texts)
    for other in others:
        head, comma, tail = first.partition(", not ")
        if comma and other.startswith("must be "):
            first = f"{head} or {other.removeprefix('must be ').partition(', not ')[0]}{comma}{tail}"
    return first


def _meant(content: Any, keys: Keys, text: str) -> Keys:
    """Return what an error of the whole recipe is about: its section, and in it a value that it quotes."""
    rung, teacher = re.match(r"rung (\d+) ", text), re.match(r"teacher '(.+?)'", text)
    if rung:
        keys = ("ladder", int(rung[1]) - 1)
    elif teacher:
        keys = ("teachers", teacher[1])
    elif text.startswith("refine"):
        keys = ("refine",)
    by_value = rung is not None or text.startswith("refine")
    keys, section = _known(content, keys)
    for key, value in section.items() if isinstance(section, dict) else ():
        quoted = isinstance(value, str) and f"'{value}'" in text and (by_value or key == "imitate")
        if quoted or (f"'{key}'" in text and not (by_value or teacher)):
            return (*keys, str(key))
    return keys
