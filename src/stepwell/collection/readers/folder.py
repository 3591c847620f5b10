"""Read a folder of text files as passages: Markdown, HTML, reStructuredText and plain text, cut at headings.

A passage's title is its path of headings ("Guide > Install"), its id the file and a number ("guide.md#3"). There are
no queries: ``stepwell init`` makes some.
"""

import math
import os
import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from stepwell.collection.readers import html_page, markdown
from stepwell.collection.readers.cutting import Block, Section, pack, sections_of
from stepwell.collection.readers.lines import BadLineError, checked_id, read_lines
from stepwell.collection.source import Kind, Problem, Report, Source, Text

MARKDOWN = (".md", ".markdown")
HTML = (".html", ".htm")
ENDINGS = (*MARKDOWN, *HTML, ".rst", ".txt")
BETWEEN = " > "  # what stands between the headings of a title
SIGN = f"files with the ending {', '.join(ENDINGS)}, also in folders below"
LARGEST = 1 << 24  # bytes of a Markdown file that is parsed as such; a larger one is read as plain text

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


class Folder(Source):
    """A folder of text files; what can't be read is reported."""

    def find(self, report: Report) -> None:
        """Find the files."""
        self.files["passage"] = list(text_files(self.home))
        self.labels["passage"] = f"{self.home.name} ({', '.join(ENDINGS)})"

    def read(self, kind: Kind, report: Report) -> Iterator[Text] | None:
        """Yield the passages, file by file."""
        if kind == "query":
            return None
        return (text for file in self.files["passage"] for text in self._passages(file, report))

    def _passages(self, file: Path, report: Report) -> Iterator[Text]:
        name = file.relative_to(self.home).as_posix()
        try:
            checked_id(name.encode().decode(), "passage")
        except (UnicodeEncodeError, BadLineError):
            shown = name.encode(errors="backslashreplace").decode()
            message = "the name holds a tab, a line break or what is no UTF-8, so no passage can be named after it."
            report(Problem("error", shown, None, "id", f"{message} Rename the file."))
            return
        lines = read_lines(file, name, report, blanks=True)
        number = 0
        for section in self._sections(file, name, lines, report):
            for number, (line, text) in enumerate(pack(section.blocks), start=number + 1):  # noqa: B020
                yield Text(line, f"{name}#{number}", BETWEEN.join(section.path), text, name)

    def _sections(self, file: Path, name: str, lines: Iterator[Located], report: Report) -> Iterator[Section]:
        ending = file.suffix.lower()
        if ending in MARKDOWN and file.stat().st_size > LARGEST:
            message = f"has more than {LARGEST >> 20} MB and is read as plain text; its headings are not seen."
            report(Problem("warning", name, None, "large", message))
            ending = ".txt"
        if ending in MARKDOWN:
            return markdown.sections([line for _, line in lines])
        if ending in HTML:
            return html_page.sections(lines)
        if ending == ".rst":
            return sections_of(_underlined(lines))
        return iter([Section((), (_paragraph(held, begin) for begin, held in _stretches(lines, _LINES)))])


def _paragraph(lines: list[str], begin: int) -> Block:
    """Return lines as a paragraph; indented ones stay as they are."""
    if all(line[:1].isspace() for line in lines):
        return Block(lines, True, begin)
    return Block([" ".join(" ".join(lines).split())], False, begin)


def _underlined(lines: Iterator[Located]) -> Iterator[tuple[int, Block]]:
    """Yield (level of a heading or 0, block) of reStructuredText: a heading's level is that of its underline."""
    levels: list[tuple[str, bool]] = []
    for begin, held in _stretches(lines):
        found = _heading(held)
        if found is not None:
            style, text, taken = found
            levels += [] if style in levels else [style]
            yield levels.index(style) + 1, Block([text])
            held, begin = held[taken:], begin + taken
        if held and not (len(held) == 1 and _RULE.fullmatch(held[0])):
            yield 0, _paragraph(held, begin)


def _stretches(lines: Iterator[Located], longest: float = math.inf) -> Iterator[tuple[int, list[str]]]:
    """Yield what stands between empty lines, and the number of its first line."""
    begin, held = 1, list[str]()
    for number, line in chain(lines, [(0, "")]):
        if line.strip():
            begin = begin if held else number
            held.append(line)
        if held and (not line.strip() or len(held) == longest):
            yield begin, held
            held = []


def _heading(lines: list[str]) -> tuple[tuple[str, bool], str, int] | None:
    """Return style, text and number of lines of a heading that begins a stretch of lines."""
    over = len(lines) > 2 and _RULE.fullmatch(lines[0]) is not None
    text, rule = lines[1:3] if over else [*lines, ""][:2]
    if _RULE.fullmatch(rule) is None or _RULE.fullmatch(text) or len(rule.rstrip()) < len(text.strip()):
        return None
    if over and lines[0].rstrip() != rule.rstrip():
        return None
    return (rule[0], over), " ".join(text.split()), 3 if over else 2
