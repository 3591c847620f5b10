"""Where the words of a query stand in a passage, for highlighting: as BM25 sees words, plurals and all."""

import re
from collections.abc import Callable

from stepwell.retrieval.bm25 import singular, words_of

_WORD = re.compile(r"[^\W_]+")

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
    stems = {word[:-1] if word.endswith("y") and word != "y" else word for word in wanted}

    def find(text: str) -> Spans:
        lowered = text.lower()
        if len(lowered) != len(text):  # a few letters become two
            lowered = "".join(letter.lower()[0] for letter in text)
        spans = dict[int, int]()
        for stem in stems:
            start = lowered.find(stem)
            while start >= 0:
                if not start or not lowered[start - 1].isalnum():
                    word = _WORD.match(lowered, start)
                    if word and singular(word[0]) in wanted:
                        spans[start] = word.end()
                start = lowered.find(stem, start + 1)
        return sorted(spans.items())

    return find
