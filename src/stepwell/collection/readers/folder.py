"""Read a folder of text files as passages: Markdown, HTML, reStructuredText and plain text, cut at headings.

A passage's title is its path of headings ("Guide > Install"), its id the file and a number ("guide.md#3"). There are
no queries: ``stepwell init`` makes some.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from stepwell.collection.readers import html_page, markdown
from stepwell.collection.readers.cutting import Block, pack
from stepwell.collection.readers.lines import read_all_lines
from stepwell.collection.source import (
    BadLineError,
    Join,
    Judgement,
    Kind,
    Problem,
    Report,
    Source,
    Text,
    checked_id,
    stamp_files,
    with_content,
)

MARKDOWN = (".md", ".markdown")
HTML = (".html", ".htm")
ENDINGS = (*MARKDOWN, *HTML, ".rst", ".txt")
BETWEEN = " > "
"""What stands between the headings of a title."""

LARGEST = 1 << 24
"""Bytes of a Markdown file that is parsed as such; a larger one is read as plain text, a paragraph at a time."""

_LINES = 1000  # of a paragraph; what goes on for longer is no paragraph
_RULE = re.compile(r"([=\-`:.'\"~^_*+#])\1{2,}\s*")

Located = tuple[int, str]


def text_files(directory: Path) -> Iterator[Path]:
    """Yield the text files below a directory in order; what is hidden and links to folders are passed over."""
    for folder, folders, files in os.walk(directory):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            path = Path(folder, name)
            if not name.startswith(".") and path.suffix.lower() in ENDINGS and path.is_file():
                yield path


def is_there(directory: Path) -> bool:
    """Tell whether there is a text file below a directory."""
    return next(text_files(directory), None) is not None


class Folder(Source):
    """A folder of text files; what can't be read is reported."""

    def __init__(self, directory: Path, join: Join) -> None:
        self.name, self.home, self.join = directory.name, directory, join
        self.files = list(text_files(directory))

    def stamp(self) -> dict[str, Any]:
        """Return sizes and times of the files."""
        return stamp_files(self.home, self.files)

    def label(self, kind: Kind) -> str:
        """Return what is read."""
        return f"{self.name} ({', '.join(ENDINGS)})" if kind == "passage" else self.name

    def texts(self, kind: Kind, report: Report) -> Iterator[Text]:
        """Yield the passages, file by file."""
        if kind == "query":
            return iter(())
        found = (text for file in self.files for text in self._passages(file, report))
        return with_content(found, kind, self.label(kind), report)

    @property
    def splits(self) -> dict[str, str]:
        """There are none."""
        return {}

    def judgements(self, split: str, report: Report) -> Iterator[Judgement]:
        """Yield nothing."""
        return iter(())

    def _passages(self, file: Path, report: Report) -> Iterator[Text]:
        name = file.relative_to(self.home).as_posix()
        try:
            checked_id(name.encode().decode(), "passage")
        except (UnicodeEncodeError, BadLineError):
            shown = name.encode(errors="backslashreplace").decode()
            message = "the name holds a tab, a line break or what is no UTF-8, so no passage can be named after it."
            report(Problem("error", shown, None, "id", f"{message} Rename the file."))
            return
        lines = read_all_lines(file, name, report)
        number = 0
        for title, blocks in self._sections(file, name, lines, report):
            for number, (line, text) in enumerate(pack(blocks), start=number + 1):  # noqa: B020
                yield Text(line, f"{name}#{number}", title, text, name)

    def _sections(
        self, file: Path, name: str, lines: Iterator[Located], report: Report
    ) -> Iterator[tuple[str, Iterable[Block]]]:
        if file.suffix.lower() in HTML:
            for section in html_page.sections(lines):
                yield BETWEEN.join(section.path), section.blocks
        elif file.suffix.lower() not in MARKDOWN:
            yield from _underlined(lines) if file.suffix.lower() == ".rst" else [("", _paragraphs(lines))]
        elif file.stat().st_size > LARGEST:
            message = f"has more than {LARGEST >> 20} MB and is read as plain text; its headings are not seen."
            report(Problem("warning", name, None, "large", message))
            yield "", _paragraphs(lines)
        else:
            for section in markdown.sections([line for _, line in lines]):
                yield BETWEEN.join(section.path), section.blocks


def _paragraphs(lines: Iterator[Located]) -> Iterator[Block]:
    """Yield what stands between empty lines; indented lines stay as they are."""
    begin, held = 1, list[str]()
    for number, line in lines:
        if line.strip():
            begin = begin if held else number
            held.append(line)
        if held and (not line.strip() or len(held) == _LINES):
            yield _paragraph(held, begin)
            held = []
    if held:
        yield _paragraph(held, begin)


def _paragraph(lines: list[str], begin: int) -> Block:
    if all(line[:1].isspace() for line in lines):
        return Block(lines, True, begin)
    return Block([" ".join(" ".join(lines).split())], False, begin)


def _underlined(lines: Iterator[Located]) -> Iterator[tuple[str, list[Block]]]:
    """Yield sections of reStructuredText: headings are underlined, their level is told by the line's character."""
    levels: list[tuple[str, bool]] = []
    path: list[tuple[int, str]] = []
    blocks: list[Block] = []
    for begin, held in _stretches(lines):
        found = _heading(held)
        if found is not None:
            style, text, taken = found
            if blocks:
                yield BETWEEN.join(head for _, head in path), blocks
            blocks = []
            level = levels.index(style) if style in levels else len(levels)
            levels += [style] if level == len(levels) else []
            path = [*(head for head in path if head[0] < level), (level, text)]
            held, begin = held[taken:], begin + taken
        if held and not (len(held) == 1 and _RULE.fullmatch(held[0])):
            blocks.append(_paragraph(held, begin))
    if blocks:
        yield BETWEEN.join(head for _, head in path), blocks


def _stretches(lines: Iterator[Located]) -> Iterator[tuple[int, list[str]]]:
    begin, held = 1, list[str]()
    for number, line in lines:
        if line.strip():
            begin = begin if held else number
            held.append(line)
        elif held:
            yield begin, held
            held = []
    if held:
        yield begin, held


def _heading(lines: list[str]) -> tuple[tuple[str, bool], str, int] | None:
    """Return style, text and number of lines of a heading that begins a stretch of lines."""
    over = len(lines) > 2 and _RULE.fullmatch(lines[0]) is not None
    text, rule = (lines[1], lines[2]) if over else (lines[0], lines[1] if len(lines) > 1 else "")
    if _RULE.fullmatch(rule) is None or _RULE.fullmatch(text) or len(rule.rstrip()) < len(text.strip()):
        return None
    if over and lines[0].rstrip() != rule.rstrip():
        return None
    return (rule[0], over), " ".join(text.split()), 3 if over else 2
