"""Read Markdown as sections: the path of headings, and the blocks of text beneath them."""

import tomllib
from collections.abc import Callable, Iterator, Sequence
from html.parser import HTMLParser
from typing import Any

import yaml
from markdown_it import MarkdownIt
from markdown_it.token import Token

from stepwell.collection.readers.cutting import Block, Section, sections_of

_FRONT: dict[str, Callable[[str], Any]] = {"---": yaml.safe_load, "+++": tomllib.loads}
_UNSEEN = frozenset({"script", "style", "template"})


def sections(lines: Sequence[str]) -> Iterator[Section]:
    """Yield the sections of a Markdown file (lines without their ends) that have text, in order.

    Front matter is left out; its ``title`` heads the path unless the first heading says the same. What is seen on the
    page is kept (also code, and the words of HTML), and markup is not.
    """
    title, first = _front_matter(lines)
    for path, blocks in sections_of(_blocks("\n".join(lines[first:]), first)):
        yield Section((title, *path) if title and path[:1] != (title,) else path, blocks)


def _front_matter(lines: Sequence[str]) -> tuple[str, int]:
    """Return the title that front matter gives, and the number of lines it takes."""
    fence = lines[0].rstrip() if lines else ""
    end = next((at for at, line in enumerate(lines[1:], start=1) if line.rstrip() in (fence, "...")), 0)
    if fence not in _FRONT or not end:
        return "", 0
    try:
        fields = _FRONT[fence]("\n".join(lines[1:end]))
    except (yaml.YAMLError, ValueError):  # also of a day that is in no calendar
        return "", end + 1
    title = fields.get("title") if isinstance(fields, dict) else None
    return (" ".join(title.split()) if isinstance(title, str) else ""), end + 1


def _blocks(text: str, offset: int) -> Iterator[tuple[int, Block]]:
    """Yield (level of a heading or 0, block) for everything that stands at the outermost level."""
    lines: list[str] = []
    row: list[str] | None = None  # the cells of a table's row
    heading, begin = 0, 1
    for token in MarkdownIt("commonmark").enable("table").parse(text):
        if token.map is not None and token.level == 0:
            begin = offset + token.map[0] + 1
        if token.type in ("fence", "code_block"):
            code = token.content.rstrip("\n").split("\n")
            if token.level == 0:
                yield 0, Block(code, True, begin)
            else:
                lines += code
        elif token.type == "html_block":
            lines += [" ".join(part.split()) for part in _words_of(token.content).splitlines()]
        elif token.type == "tr_open":
            row = []
        elif token.type == "tr_close":
            lines.append(" | ".join(row or []))
            row = None
        elif token.type == "heading_open" and token.level == 0:
            heading = int(token.tag[1:])
        elif token.type == "inline":
            (lines if row is None else row).append(_seen(token.children or []))
        if token.level == 0 and token.nesting <= 0:
            lines = [line for line in lines if line.strip()]
            if lines or heading:
                yield heading, Block(lines, False, begin)
            lines, heading = [], 0


def _seen(children: Sequence[Token]) -> str:
    """Return the words of inline Markdown, without markup."""
    shown = [child for child in children if child.type != "html_inline"]
    words = "".join(" " if child.type in ("softbreak", "hardbreak") else child.content for child in shown)
    return " ".join(words.split())


class _Words(HTMLParser):
    """Collects what a browser shows."""

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[str] = []
        self.unseen = 0

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.unseen += tag in _UNSEEN

    def handle_endtag(self, tag: str) -> None:
        self.unseen -= tag in _UNSEEN and self.unseen > 0

    def handle_data(self, data: str) -> None:
        if not self.unseen:
            self.parts.append(data)


def _words_of(html: str) -> str:
    parser = _Words()
    parser.feed(html)
    parser.close()
    return "".join(parser.parts)
