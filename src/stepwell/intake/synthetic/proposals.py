"""What a passage proposes as a query by itself: its heading and its first sentence."""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple, Self

import regex

from stepwell.collection.collection import hash_text, normal
from stepwell.collection.readers.cutting import UNSPACED, length, sentences
from stepwell.collection.readers.folder import BETWEEN
from stepwell.collection.source import Text

QUERY_WORDS = (3, 30)
REST_WORDS = 12  # that a passage must keep when its first sentence is taken out
SHARED = 5  # passages with one heading from which on the heading says too little

COPIED = 0.8
"""The share of a query's words in one stretch of its passage, as long as the query, from which on it is a copy.

Of what people asked, 1.3 % are as near (1,258 claims of SciFact and their abstracts), 1.0 % in Cranfield (415)."""

UNLABELLED = "unlabelled_queries.txt"
"""A generator's queries whose passage does not come back: texts without labels for the embedding rung, one a line."""

_WORD = regex.compile(rf"{UNSPACED.pattern}|\w+")  # in scripts without blanks, a character

HEADING, SENTENCE, GENERATED = "heading", "first sentence", "generated"


class Proposal(NamedTuple):
    """A query that a passage proposes."""

    id: str
    origin: str
    text: str
    refusal: str | None = None  # why it is not taken


@dataclass
class Headings:
    """The titles of all passages, by hash: how many share each, and which have others beneath them."""

    counts: Counter[int] = field(default_factory=Counter)
    above: set[int] = field(default_factory=set)
    passages: int = 0

    @classmethod
    def of(cls, texts: Iterable[Text]) -> Self:
        """Count the titles of all passages."""
        found, last = cls(), ""
        for text in texts:
            found.passages += 1
            if not text.title:
                continue
            found.counts[hash_text(text.title)] += 1
            if text.title != last:
                parts = text.title.split(BETWEEN)
                found.above.update(hash_text(BETWEEN.join(parts[:at])) for at in range(1, len(parts)))
            last = text.title
        return found

    def is_specific(self, title: str) -> bool:
        """Say whether a title belongs to few passages and to no section with others beneath it."""
        hashed = hash_text(title)
        return self.counts[hashed] < SHARED and hashed not in self.above


def propose(text: Text, headings: Headings, share: float = 1.0) -> list[Proposal]:
    """Return the queries that a passage proposes by itself, of a share of all passages, chosen by hash.

    They are the heading, where few passages stand beneath it (each with the same query), and the first sentence, where
    enough is left without it.
    """
    found: list[Proposal] = []
    if text.title and headings.is_specific(text.title) and chosen(text.title, share):
        parts = text.title.split(BETWEEN)
        query = " ".join(parts[-_asked(parts) :])
        key = hashlib.sha256(text.title.encode()).hexdigest()[:12]
        reason = refusal(query, without(text, HEADING).joined)
        found.append(Proposal(f"heading:{key}", HEADING, query, reason))
    first = split_first(text.text) if chosen(text.id, share) else None
    if first is not None:
        searched = without(text, SENTENCE)
        reason = refusal(first[0], searched.joined)
        if reason is None and length(searched.text) < REST_WORDS:
            reason = "too little is left without it"
        found.append(Proposal(f"sentence:{text.id}", SENTENCE, first[0], reason))
    return found


def chosen(name: str, share: float) -> bool:
    """Say whether a name is among a share of all, by its hash."""
    return share >= 1 or hash_text(f"asked {name}") < share * 2**64


def split_first(text: str) -> tuple[str, str] | None:
    """Return the first sentence of a passage and the rest; None where it begins with no sentence of prose.

    >>> split_first("Close the valve first. " + "Then wait until the gauge has come down to zero and open the lid. ")
    ('Close the valve first.', 'Then wait until the gauge has come down to zero and open the lid.')
    """
    paragraph, between, more = text.strip().partition("\n")
    found = sentences(paragraph)
    first = " ".join(found[0].split())
    rest = f"{paragraph[len(found[0]) :]}{between}{more}".strip()
    return (first, rest) if first.endswith((".", "!", "?", "…", "。", "！", "？")) and rest else None


def without(text: Text, *origins: str) -> Text:
    """Return a passage without what is asked of it: the last heading of its title, its first sentence."""
    if HEADING in origins:
        parts = text.title.split(BETWEEN)
        text = text._replace(title=BETWEEN.join(parts[: -_asked(parts)]))
    first = split_first(text.text) if SENTENCE in origins else None
    return text._replace(text=first[1]) if first else text


def _asked(parts: list[str]) -> int:
    """Return how many of the last headings make a query: of a short one, the one above too."""
    return 1 if length(parts[-1]) >= QUERY_WORDS[0] else 2


def refusal(query: str, searched: str, fewest: int = QUERY_WORDS[0]) -> str | None:
    """Return why a text is no query for a passage, None when it is one; ``fewest`` words are enough.

    >>> refusal("open the lid", "How to open the lid: with a coin.")
    'the passage holds it word for word'
    """
    if not fewest <= length(query) <= QUERY_WORDS[1]:
        return "too short or too long"
    letters = sum(character.isalpha() or character == " " for character in query)
    if letters < 0.8 * len(query) or re.search(r"https?://|:$| \| ", query):
        return "no prose"
    return "the passage holds it word for word" if normal(query) in normal(searched) else None


def copied(query: str, passage: str) -> float:
    """Return the largest share of a query's words that one stretch of a passage has, as long as the query, 0..1.

    >>> copied("must I keep the engine dry", "Everybody must keep the engine very dry, and look after it.")
    0.8333333333333334
    """
    left, words = Counter(_WORD.findall(query.lower())), _WORD.findall(passage.lower())
    asked = left.total()
    most = common = 0
    for at, word in enumerate(words):
        common += left[word] > 0
        left[word] -= 1
        if at >= asked:
            gone = words[at - asked]
            left[gone] += 1
            common -= left[gone] > 0
        most = max(most, common)
    return most / asked if asked else 0.0
