"""Cut a text into passages: paragraphs together up to a length, never in the middle of a sentence."""

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import NamedTuple

import regex

LONGEST = 150  # words of a passage: about what 256 tokens hold; a longer sentence is a passage of its own
SHORTEST = 25  # a rest of fewer words goes with the passage before it, where there is one
RUN_ON = 2 * LONGEST  # from so many words on, what has no full stop is no sentence and is cut between words

_END = regex.compile(
    r"(?<=[\p{L}\p{N}_)\]'\"”’»][.!?…])\s+(?=[\p{Lu}\p{Lt}\p{Lo}\p{N}`'\"(\[*“‘«¿¡])|(?<=[。！？])\s*(?=\S)"
)
_ABBREVIATION = regex.compile(
    r"(?:\b(?:e\.g|i\.e|etc|cf|vs|resp|approx|fig|eq|eqs|al|no|incl|w\.r\.t|ref|refs|sec|pp?|vol|[A-Z])\.)$",
    regex.IGNORECASE,
)
UNSPACED = regex.compile(r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]")


def sentences(text: str) -> list[str]:
    """Split a paragraph into sentences.

    >>> sentences("Open the lid, e.g. with a coin. Is it dry? Then go on.")
    ['Open the lid, e.g. with a coin.', 'Is it dry?', 'Then go on.']
    """
    found: list[str] = []
    for part in _END.split(text):
        if found and _ABBREVIATION.search(found[-1]):
            found[-1] += f" {part}"
        else:
            found.append(part)
    return found


def length(text: str) -> int:
    """Return how many words a text has; in scripts without blanks, two characters count as one.

    >>> length("two words"), length("検索モデル")
    (2, 3)
    """
    return len(text.split()) + len(UNSPACED.findall(text)) // 2


class Block(NamedTuple):
    """A paragraph, list, table or piece of code: its lines, whether they are code, and where it begins."""

    lines: list[str]
    code: bool = False
    line: int = 1

    @property
    def text(self) -> str:
        """The lines as one text."""
        return "\n".join(self.lines)


class Section(NamedTuple):
    """The headings above some text, from the outermost on, and its blocks."""

    path: tuple[str, ...]
    blocks: Iterable[Block]


def sections_of(parts: Iterable[tuple[int, Block]]) -> Iterator[Section]:
    """Yield the sections that have text, from (level of a heading or 0, block) in order."""
    path: list[tuple[int, str]] = []
    blocks: list[Block] = []
    for level, block in chain(parts, [(1, Block([]))]):  # a heading behind all ends the last section
        if not level:
            blocks.append(block)
            continue
        if blocks:
            yield Section(tuple(text for _, text in path if text), blocks)
        blocks = []
        path = [*(head for head in path if head[0] < level), (level, block.text)]


def pack(blocks: Iterable[Block]) -> Iterator[tuple[int, str]]:
    """Yield passages, each with the line it begins at.

    Blocks go together while they fit into ``LONGEST`` words; one that does not fit is cut between lines of code
    or between sentences. What is shorter than ``SHORTEST`` goes with what stands beside it.
    """
    held: tuple[int, str] | None = None  # the last passage, which may still get a rest
    pieces = ((line, "\n\n", text) for block in blocks for line, text in _pieces(block))
    for line, text in _together(pieces, SHORTEST):
        if held and length(text) < SHORTEST and length(held[1]) <= LONGEST:
            held = held[0], f"{held[1]}\n\n{text}"
            continue
        if held:
            yield held
        held = line, text
    if held:
        yield held


def _pieces(block: Block) -> Iterator[tuple[int, str]]:
    """Yield a block whole where it fits, else in pieces of whole lines of code or whole sentences."""
    if length(block.text) > LONGEST:
        yield from _together(((block.line, between, unit) for between, unit in _units(block)), 0)
    elif block.text.strip():
        yield block.line, block.text


def _together(parts: Iterable[tuple[int, str, str]], least: int) -> Iterator[tuple[int, str]]:
    """Join (line, what stands in front, text) while they fit into ``LONGEST`` words; up to ``least`` in any case."""
    line, joined, count = 1, "", 0
    for begin, between, text in parts:
        more = length(text)
        if joined and count >= least and count + more > LONGEST:
            yield line, joined
            joined, count = "", 0
        line, joined = (line, f"{joined}{between}{text}") if joined else (begin, text)
        count += more
    if joined:
        yield line, joined


def _units(block: Block) -> Iterator[tuple[str, str]]:
    """Yield what is not cut, each with what stands between it and the one before."""
    for line in block.lines:
        between = "\n"
        for unit in [line] if block.code else sentences(line):
            words = unit.split()
            if length(unit) <= RUN_ON or len(words) < 2:
                yield between, unit
            else:
                for start in range(0, len(words), LONGEST):
                    yield between, " ".join(words[start : start + LONGEST])
                    between = " "
            between = " "
