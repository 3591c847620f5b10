"""Where the words of a query stand in a passage, for highlighting: as BM25 sees words, plurals and all."""

from __future__ import annotations

import re
from collections.abc import Callable

from stepwell.retrieval.bm25 import singular, words_of

Spans = list[tuple[int, int]]
"""Characters (Unicode code points) from the first to behind the last of each match, in order."""


def matcher(query: str) -> Callable[[str], Spans]:
    """Return what finds the words of a query in a text.

    Examples
    --------
    >>> matcher("which queries?")("A query, two QUERIES; queried.")
    [(2, 7), (13, 20)]
    """
    wanted = set(words_of(query))
    if not wanted:
        return lambda text: []
    stems = sorted({word[:-1] if word.endswith("y") else word for word in wanted}, key=len, reverse=True)
    word = re.compile(rf"(?:{'|'.join(map(re.escape, stems))})[^\W_]*")

    def find(text: str) -> Spans:
        lowered = text.lower()
        if len(lowered) != len(text):  # a few letters become two
            lowered = "".join(letter.lower()[0] for letter in text)
        return [
            match.span()
            for match in word.finditer(lowered)
            if singular(match[0]) in wanted and not (match.start() and lowered[match.start() - 1].isalnum())
        ]

    return find
