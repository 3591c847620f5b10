"""Questions and answers out of docstrings, read from source without importing anything.

The first sentence of a docstring says what a thing does: the query. The prose that follows says how: the
passage, which no longer holds the first sentence.
"""

import ast
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from stepwell.collection.readers.cutting import sentences

QUERY_WORDS = (4, 30)
PASSAGE_WORDS = (12, 45)

SKIPPED_FOLDERS = frozenset(
    ["_externals", "_vendor", "benchmarks", "conftest", "dist-packages", "ensurepip", "examples", "externals"]
    + ["idlelib", "lib2to3", "site-packages", "test", "testing", "tests", "turtledemo", "vendor"]
)
_DOCUMENTED = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


class Pair(NamedTuple):
    """A documented thing: its dotted name, what it does, and the rest of its documentation."""

    name: str
    query: str
    passage: str


def read_package(root: Path, package: str, skip: tuple[str, ...] = ()) -> list[Pair]:
    """Return the pairs of a package in a stable order: files by path, then as they stand in the file.

    ``package`` stands in front of all names (empty for a directory of top-level modules); ``skip`` are paths below
    ``root`` to leave out.
    """
    pairs = []
    for file in sorted(root.rglob("*.py"), key=lambda file: file.relative_to(root).parts):
        within = file.relative_to(root).with_suffix("")
        if SKIPPED_FOLDERS.intersection(within.parts) or any(within.is_relative_to(part) for part in skip):
            continue
        parts = [part for part in (package, *within.parts) if part and part != "__init__"]
        try:
            with warnings.catch_warnings(action="ignore"):  # of odd escapes in other people's code
                tree = ast.parse(file.read_bytes())
        except (SyntaxError, ValueError, OSError, RecursionError):
            continue  # a template or a file for another Python
        pairs += [split_docstring(*documented) for documented in _documented(tree, ".".join(parts))]
    return [pair for pair in pairs if pair is not None]


def _documented(tree: ast.Module | ast.ClassDef, prefix: str) -> Iterator[tuple[str, str]]:
    """Yield (dotted name, docstring) of public classes, functions and methods."""
    for node in tree.body:
        if isinstance(node, _DOCUMENTED) and not node.name.startswith("_"):
            name = f"{prefix}.{node.name}"
            if docstring := ast.get_docstring(node):
                yield name, docstring
            if isinstance(node, ast.ClassDef):
                yield from _documented(node, name)


def split_docstring(name: str, docstring: str) -> Pair | None:
    r"""Split a docstring into query and passage; None when either is too short, too long or not prose.

    >>> pair = split_docstring("os.walk", "Walk a tree of folders. For each folder of the tree, yield "
    ...     "its path, its folders and its files; links are not followed.\n\nArgs:\n    top: Where to begin.")
    >>> pair.query
    'Walk a tree of folders.'
    >>> pair.passage
    'For each folder of the tree, yield its path, its folders and its files; links are not followed.'
    """
    found = [sentence for paragraph in _prose(docstring) for sentence in sentences(paragraph)]
    if not found:
        return None
    query = found[0]
    passage = _cut([sentence for sentence in found[1:] if sentence != query])
    for text, (least, most) in ((query, QUERY_WORDS), (passage, PASSAGE_WORDS)):
        if not (least <= len(text.split()) <= most and _is_prose(text)):
            return None
    return Pair(name, query, passage)


# Words that head a section of a docstring, as in NumPy ("Notes" over a rule) and Google style ("Args:").
_SECTIONS = (
    "args arguments parameters params return returns yield yields raise raises attributes example examples "
    "note notes references see also usage warns warning warnings methods keyword kwargs input inputs output "
    "outputs shape explanation description options todo default constants tip caution important properties "
    "fields supported"
)
_PROSE_SECTIONS = frozenset({"explanation", "description", "notes", "note"})
_HEADER = re.compile(rf"^\W*((?:{'|'.join(sorted(set(_SECTIONS.split())))}|\s)+?)\W*$", re.IGNORECASE)
_RULE = re.compile(r"^\s*[-=~^*\"'`+#]{3,}\s*$")
_NOT_PROSE = re.compile(r"^(\s|>>>|\.\. |```|~~~|:\w[\w ]*:|[-*+|#>@\\<\[$]|\(?\d+[.)]|\w+\s*:\s|In \[\d|\w+\s*=)")
_BREAK = re.compile(
    r"^\s*(>>>|```|:(param|type|returns?|rtype|raises?|arg)\b|\.\. |[-*+] |\d+[.)] |[@\\](param|return))"
    r"|^\s{2,}\S|[^.!?:\s] {2,}\S"
)
_ROLE = re.compile(r":[a-zA-Z][\w:+-]*:`~?\.?([^`<]*?)(?:\s*<[^`>]*>)?`")
_LINK = re.compile(r"\[([^\]]+)\]\((?:[^)]*)\)|`([^`<]+?)\s*<[^`>]*>`_{1,2}")
_CITATION = re.compile(r"\b(?!(?:by|from|in|of|on|see|to)\b)(\w+)\s*\[\d+\]_")
# Sentences that lean on something that is not there: a reference, a link, an example.
_LEANING = re.compile(
    r":$|https?://|\]_|\s[.,;]|\b(see|refer to|read more)\b.*\b(guide|docs|documentation|below|above)\b", re.IGNORECASE
)


def _prose(docstring: str) -> list[str]:
    """Return the paragraphs of plain prose, cleaned of markup: no parameters, lists, code or formulas."""
    kept: list[str] = []
    skipping = ""  # the kind of section that is being passed over
    for block in re.split(r"\n\s*\n", docstring):
        lines = block.split("\n")
        header, style = _header(lines)
        if header is not None:
            skipping = "" if header in _PROSE_SECTIONS else style
            lines = lines[2 if style == "ruled" else 1 :]
            if style == "indented":  # Google style: the section is what is indented below its word
                continue
        elif skipping == "indented" and not block[:1].isspace():
            skipping = ""
        if skipping or not lines or _NOT_PROSE.match(lines[0]):
            if not kept and header is None:
                break  # it begins with something else than prose: no first sentence
            continue
        breaks = (at for at in range(1, len(lines)) if _BREAK.search(lines[at]) or _header(lines[at:])[0] is not None)
        end = next(breaks, len(lines))  # where a list, a table, code or a section begins in the middle
        text = _clean(" ".join(lines[:end]))
        if end < len(lines) and not text.endswith((".", "!", "?")):
            text = " ".join(sentences(text)[:-1])  # the last one runs into what is cut off
        if text:
            kept.append(text)
        if end < len(lines):
            break  # what follows a list, a table or code leans on it
    return kept


def _header(lines: list[str]) -> tuple[str | None, str]:
    """Return the section that begins at the first line, if one does, and whether it is ruled or indented."""
    if len(lines) > 1 and _RULE.match(lines[1]):
        return lines[0].strip().lower(), "ruled"
    if lines[0].rstrip().endswith(":") and (word := _HEADER.match(lines[0])):
        return word[1].strip().lower(), "indented"
    return None, ""


def _clean(text: str) -> str:
    text = _LINK.sub(lambda match: match[1] or match[2], _ROLE.sub(r"\1", text))
    text = re.sub(r"`{1,2}([^`]*)`{1,2}_{0,2}", r"\1", text)
    text = re.sub(r"\*{1,2}(\S[^*]*?)\*{1,2}", r"\1", text)
    text = _CITATION.sub(r"\1", text)
    text = re.sub(r"::\s*$", ":", text)
    return " ".join(text.split())


def _cut(found: list[str]) -> str:
    """Join the first sentences that fit, without those that only introduce what was left out."""
    words: list[str] = []
    for sentence in found:
        if _LEANING.search(sentence):
            continue
        more = sentence.split()
        if words and len(words) + len(more) > PASSAGE_WORDS[1]:
            break
        words += more
    return " ".join(words[: PASSAGE_WORDS[1]])


def _is_prose(text: str) -> bool:
    """Say whether a text is words rather than code, a signature or a formula."""
    letters = sum(character.isalpha() or character == " " for character in text)
    return letters >= 0.85 * len(text) and not re.search(
        r"^\S+\(.*\)|->|\\[a-z]+|\{|\w = |\$\$|^\W*(TODO|XXX|FIXME)", text
    )
