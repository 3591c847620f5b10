"""Read HTML as sections: the path of headings, and the blocks of text beneath them."""

from collections.abc import Iterable, Iterator
from html.parser import HTMLParser
from itertools import islice

from stepwell.collection.readers.cutting import Block, Section

LINES = 2_000  # that are read at a time: the parser looks again at a script or comment that goes on

_HEADINGS = ("h1", "h2", "h3", "h4", "h5", "h6")
_UNSEEN = frozenset({"script", "style", "template", "noscript", "svg", "nav", "aside", "footer", "select", "button"})
_AROUND = frozenset({"navigation", "search", "contentinfo", "banner"})  # ARIA roles of what stands on every page
_NAMES = (
    "a abbr b bdi bdo big cite code data del dfn em font i img ins kbd label mark q s samp small span "
    "strike strong sub sup time tt u var wbr"
)
_INLINE = frozenset(_NAMES.split())
_VOID = frozenset({"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track"})


def sections(lines: Iterable[tuple[int, str]]) -> Iterator[Section]:
    """Yield the sections of an HTML page that have text, in order; what stands around it on every page is left out.

    Text before any heading has the page's title. What is seen is kept (also code, as it is), and markup is not.
    """
    page, rest = _Page(), iter(lines)
    while held := [f"{line}\n" for _, line in islice(rest, LINES)]:
        page.feed("".join(held))
        while page.done:
            yield page.done.pop(0)
    page.close()
    page.end_section()
    yield from page.done


class _Page(HTMLParser):
    """Collects sections while it is fed; an element without its end tag ends with what it stands in."""

    def __init__(self) -> None:
        super().__init__()
        self.done: list[Section] = []
        self.title, self.path = "", list[tuple[int, str]]()
        self.blocks: list[Block] = []
        self.parts: list[str] = []
        self.line = 1  # where the parts begin
        self.pre = False
        self.unseen, self.depth = "", 0  # the element that is passed over, and how many of its name are open

    def end_section(self) -> None:
        """End the section that is open."""
        self._end_block()
        if self.blocks:
            path = [text for _, text in self.path if text] or [self.title]
            self.done.append(Section(tuple(part for part in path if part), self.blocks))
        self.blocks = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if self.unseen:
            self.depth += tag == self.unseen
            return
        named = dict(attrs)
        around = named.get("role") in _AROUND or "hidden" in named or "headerlink" in (named.get("class") or "").split()
        if tag in _UNSEEN or (around and tag not in _VOID | {"html", "body", "main"}):
            self.unseen, self.depth = tag, 1
        elif tag == "br":
            self.handle_data("\n")
        elif tag in ("td", "th"):
            self.parts += [" | "] if "".join(self.parts).strip() else []
        elif tag in _HEADINGS:
            self.end_section()
        elif tag not in _INLINE:
            self._end_block()
            self.pre = self.pre or tag == "pre"

    def handle_endtag(self, tag: str) -> None:
        if self.unseen:
            self.depth -= tag == self.unseen
            self.unseen = self.unseen if self.depth else ""
        elif tag in _HEADINGS:
            level, text = int(tag[1]), self._words()
            self.path = [*(head for head in self.path if head[0] < level), (level, text)]
        elif tag == "title":
            self.title = self.title or self._words()
        elif tag not in _INLINE and tag not in ("td", "th"):
            self._end_block()
            self.pre = self.pre and tag != "pre"

    def handle_data(self, data: str) -> None:
        if not self.unseen:
            self.line = self.line if self.parts else self.getpos()[0]
            self.parts.append(data)

    def _words(self) -> str:
        words, self.parts = " ".join("".join(self.parts).split()), []
        return words

    def _end_block(self) -> None:
        if self.pre:
            code = "".join(self.parts).strip("\n")
            self.parts = []
            self.blocks += [Block(code.split("\n"), True, self.line)] if code.strip() else []
        elif words := self._words():
            self.blocks.append(Block([words], False, self.line))
