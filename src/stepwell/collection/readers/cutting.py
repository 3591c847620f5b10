"""Cut a text into passages: paragraphs together up to a length, never in the middle of a sentence."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from stepwell.collection.sentences import length, sentences

LONGEST = 150
"""Words of a passage, at most: about what 256 tokens hold. A longer sentence is a passage of its own."""

SHORTEST = 25
"""A rest of fewer words goes with the passage before it, where there is one."""

RUN_ON = 2 * LONGEST
"""Words from which something without a full stop counts as no sentence any more, and is cut between words."""


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
    for level, block in parts:
        if not level:
            blocks.append(block)
            continue
        if blocks:
            yield Section(tuple(text for _, text in path if text), blocks)
        blocks = []
        path = [*(head for head in path if head[0] < level), (level, block.text)]
    if blocks:
        yield Section(tuple(text for _, text in path if text), blocks)


def pack(blocks: Iterable[Block]) -> Iterator[tuple[int, str]]:
    """Yield passages, each with the line it begins at.

    Blocks go together while they fit into ``LONGEST`` words; one that does not fit is cut between lines of code
    or between sentences. What is shorter than ``SHORTEST`` goes with what stands beside it.
    """
    held: tuple[int, str] | None = None  # the last passage, which may still get a rest
    for line, text in _filled(piece for block in blocks for piece in _pieces(block)):
        if held is None:
            held = line, text
        elif length(text) < SHORTEST and length(held[1]) <= LONGEST:
            held = held[0], f"{held[1]}\n\n{text}"
        else:
            yield held
            held = line, text
    if held is not None:
        yield held


def _filled(pieces: Iterable[Block]) -> Iterator[tuple[int, str]]:
    line, texts, count = 1, list[str](), 0
    for piece in pieces:
        more = length(piece.text)
        if count >= SHORTEST and count + more > LONGEST:
            yield line, "\n\n".join(texts)
            texts, count = [], 0
        if not texts:
            line = piece.line
        texts.append(piece.text)
        count += more
    if texts:
        yield line, "\n\n".join(texts)


def _pieces(block: Block) -> Iterator[Block]:
    """Yield a block whole where it fits, else in pieces of whole lines of code or whole sentences."""
    if not block.text.strip():
        return
    if length(block.text) <= LONGEST:
        yield block
        return
    text, count = "", 0
    for between, unit in _units(block):
        more = length(unit)
        if text and count + more > LONGEST:
            yield block._replace(lines=[text])
            text, count = "", 0
        text = f"{text}{between}{unit}" if text else unit
        count += more
    if text:
        yield block._replace(lines=[text])


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
