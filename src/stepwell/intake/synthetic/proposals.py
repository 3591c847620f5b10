"""What a passage proposes as a query by itself: its heading and its first sentence."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from stepwell.collection.collection import hash_text, normal
from stepwell.collection.readers.cutting import length, sentences
from stepwell.collection.readers.folder import BETWEEN
from stepwell.collection.source import Text

QUERY_WORDS = (3, 30)
REST_WORDS = 12
"""Words that a passage must keep when its first sentence is taken out."""

SHARED = 5
"""Passages with one heading from which on the heading says too little."""

HEADING, SENTENCE, GENERATED = "heading", "first sentence", "generated"


class Proposal(NamedTuple):
    """A query that a passage proposes, and where it comes from."""

    id: str
    origin: str
    text: str


class Refusal(NamedTuple):
    """A query that was not taken, and why."""

    id: str
    origin: str
    reason: str
    text: str


@dataclass
class Headings:
    """The titles of all passages, by hash: how many share each, and which have others beneath them."""

    counts: Counter[int] = field(default_factory=Counter)
    above: set[int] = field(default_factory=set)
    passages: int = 0

    @classmethod
    def of(cls, texts: Iterable[Text]) -> Headings:
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


def propose(text: Text, headings: Headings, share: float = 1.0) -> list[Proposal | Refusal]:
    """Return the queries that a passage proposes by itself, of a share of all passages, chosen by hash.

    They are the heading, where few passages stand beneath it (each with the same query), and the first sentence, where
    enough is left without it.
    """
    found: list[Proposal | Refusal] = []
    if text.title and headings.is_specific(text.title) and chosen(text.title, share):
        parts = text.title.split(BETWEEN)
        query = parts[-1] if length(parts[-1]) >= QUERY_WORDS[0] else " ".join(parts[-2:])
        key = hashlib.sha256(text.title.encode()).hexdigest()[:12]
        found.append(_checked(Proposal(f"heading:{key}", HEADING, query), without(text, heading=True)))
    first = split_first(text.text) if chosen(text.id, share) else None
    if first is not None:
        found.append(_checked(Proposal(f"sentence:{text.id}", SENTENCE, first[0]), without(text, sentence=True)))
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


def without(text: Text, heading: bool = False, sentence: bool = False) -> Text:
    """Return a passage without what is asked of it: the last heading of its title, its first sentence."""
    title, body = text.title, text.text
    if heading:
        title = BETWEEN.join(title.split(BETWEEN)[:-1])
        asked = text.title.split(BETWEEN)
        if length(asked[-1]) < QUERY_WORDS[0]:  # the query holds the one above too
            title = BETWEEN.join(asked[:-2])
    first = split_first(body) if sentence else None
    return text._replace(title=title, text=first[1] if first else body)


def _checked(proposal: Proposal, searched: Text) -> Proposal | Refusal:
    reason = refusal(proposal.text, searched.joined)
    if reason is None and proposal.origin == SENTENCE and length(searched.text) < REST_WORDS:
        reason = "too little is left without it"
    return proposal if reason is None else Refusal(proposal.id, proposal.origin, reason, proposal.text)


def refusal(query: str, searched: str) -> str | None:
    """Return why a text is no query for a passage, None when it is one.

    >>> refusal("open the lid", "How to open the lid: with a coin.")
    'the passage holds it word for word'
    """
    if not QUERY_WORDS[0] <= length(query) <= QUERY_WORDS[1]:
        return "too short or too long"
    letters = sum(character.isalpha() or character == " " for character in query)
    if letters < 0.8 * len(query) or re.search(r"https?://|:$| \| ", query):
        return "no prose"
    return "the passage holds it word for word" if normal(query) in normal(searched) else None
