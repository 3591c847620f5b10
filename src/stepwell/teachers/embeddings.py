"""An embedding model behind an OpenAI-compatible ``/v1/embeddings``: every text is sent once, ever.

A request is ``{"input": [...], "model": ...}``; an answer is ``{"data": [{"index": i, "embedding": [...]}]}``.
"""

import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Any, NamedTuple

import numpy as np

from stepwell.display import SILENT, Progress, warn
from stepwell.endpoint import RefusedError
from stepwell.errors import RunError, StepwellError
from stepwell.files import cache
from stepwell.recipe.teachers import EmbeddingsTeacher
from stepwell.retrieval.run import Floats
from stepwell.teachers.client import Client, Words
from stepwell.teachers.text_vectors import TextVectors, keys_of
from stepwell.teachers.vector_files import Shape

WORDS = Words("vectors", "api_key_env", "`url`, `model` and `extra`")
WINDOW = 16  # requests that are handed to each of the parallel ones at a time

TOO_MUCH = (400, 413, 422)  # what a server says to a request that is too large, or that holds a text it can't take

Asked = tuple[str, ...]
Blocks = Iterable[Sequence[str]]
"""Texts, some at a time."""


class Bill(NamedTuple):
    """What a teacher would be sent, and what that costs."""

    teacher: str
    url: str
    texts: int
    characters: int
    price: float | None  # of a million tokens, where it is known
    paid: bool  # whether it costs anything, as far as that is known

    def tokens(self, a_character: float) -> float:
        """Return about how many tokens the texts have, at so many ``a_character``."""
        return self.characters * a_character

    def cost(self, a_character: float) -> float | None:
        """Return about what it costs; None where no price is given."""
        return None if self.price is None else self.tokens(a_character) * self.price / 1e6

    def line(self, a_character: float) -> str:
        """Return it in a sentence."""
        cost = self.cost(a_character)
        small = "less than 0.01" if cost else "nothing"
        about = "" if cost is None else f"about {cost:,.2f}" if cost >= 0.01 else small
        priced = about and f", which costs {about} at {self.price:g} a million"
        return (
            f"{self.teacher} would be sent {self.texts:,} texts with about {self.tokens(a_character):,.0f} tokens "
            f"({self.url}){priced}."
        )


class Sent(NamedTuple):
    """What was sent: texts, requests, and tokens by the server's own count (0 where it gives none)."""

    texts: int = 0
    requests: int = 0
    tokens: int = 0


class Embeddings:
    """The vectors of texts under a hosted model; ``wait`` sleeps so many seconds between two attempts."""

    def __init__(self, section: EmbeddingsTeacher, wait: Callable[[float], None] = time.sleep) -> None:
        self.section, self.wait = section, wait
        self.shape = Shape(section.similarity, section.dimensions)
        self.kept = TextVectors(cache() / "embeddings", section.facts())

    def missing(self, blocks: Blocks) -> Iterator[str]:
        """Yield the texts that were never sent, each once."""
        seen = set[bytes]()
        for block in blocks:
            keys = keys_of(block)
            for at in np.flatnonzero(~self.kept.has(keys)).tolist():
                if (key := bytes(keys[at])) not in seen:
                    seen.add(key)
                    yield block[at]

    def bill(self, name: str, blocks: Blocks) -> Bill:
        """Return what sending the texts that were never sent would take."""
        lengths = [len(text) for text in self.missing(blocks)]
        section = self.section
        paid = bool(section.price_per_million) or (section.price_per_million is None and section.key_name is not None)
        return Bill(name, section.url, len(lengths), sum(lengths), section.price_per_million, paid)

    def fetch(self, blocks: Callable[[], Blocks], progress: Progress = SILENT) -> Sent:
        """Have every text embedded that was not yet; each answer is on the disk before the next is waited for.

        ``blocks`` are asked for twice where the disk has damaged vectors: these texts are sent again.
        """
        sent = Sent()
        with self.kept.writing():
            sent = self._send(self.missing(blocks()), progress)
            damaged = [text for block in blocks() for text in self._damaged(block)]
            if damaged:
                warn(f"{len(damaged):,} vectors in {self.kept.folder} are damaged, and are asked for again.")
                again = self._send(iter(dict.fromkeys(damaged)), progress)
                sent = Sent(*map(sum, zip(sent, again, strict=True)))
        return sent

    def read(self, texts: Sequence[str]) -> Floats:
        """Return the vectors of texts that were embedded, cut and normalised as the recipe says: (B, D)."""
        vectors, whole = self.kept.read(keys_of(texts))
        if not whole.all():
            raise RunError(
                f"vectors that were just written are not in {self.kept.folder}; another program may have removed them, "
                "or the disk is failing."
            )
        found = self.shape.of(vectors)
        if not np.isfinite(found).all():
            text = texts[int(np.flatnonzero(~np.isfinite(found).all(axis=1))[0])]
            raise RunError(
                f"the vector that {self.section.url} gave of {text[:80]!r} is 0 in its first {found.shape[1]:,} "
                "numbers and can't be cut to them: raise `dimensions` of the teacher, or leave it out."
            )
        return found

    def _damaged(self, block: Sequence[str]) -> list[str]:
        _, whole = self.kept.read(keys_of(block))
        return [block[at] for at in np.flatnonzero(~whole).tolist()]

    def _send(self, texts: Iterator[str], progress: Progress) -> Sent:
        first = next(texts, None)
        if first is None:
            return Sent()
        client, sent = Client(self.section, WORDS, self.wait), Sent()

        def ask(asked: Asked) -> tuple[Floats, int]:
            try:
                return self._read(client, client.post({"input": list(asked)}), len(asked))
            except RefusedError as error:
                refused.setdefault(error, asked)
                raise

        rest, refused = chain([first], texts), dict[RefusedError, Asked]()
        requests: Iterator[Asked] = iter(lambda: tuple(islice(rest, self.section.batch)), ())
        usual = WINDOW * self.section.parallel
        window = 1 if self.kept.width is None else usual  # alone, the first of all shows what is wrong
        while now := list(islice(requests, window)):
            try:
                for asked, (vectors, tokens) in client.all(tuple(now), ask):
                    now.remove(asked)
                    self.kept.add(keys_of(asked), vectors)
                    sent = Sent(sent.texts + len(asked), sent.requests + 1, sent.tokens + tokens)
                    progress.advance(len(asked))
            except RefusedError as error:
                halves = _halves(refused[error], error)
                now.remove(refused[error])
                requests = chain(halves, now, requests)
                continue
            self.shape.width(self.kept.width or 0, self.section.url)  # before more is paid for
            window = usual
        return sent

    def _read(self, client: Client, data: bytes, count: int) -> tuple[Floats, int]:
        """Return the vectors (B, W) in the order of the texts, and the tokens that the server has counted."""
        try:
            answer = json.loads(data)
            found = {int(item["index"]): item["embedding"] for item in answer["data"]}
            if sorted(found) != list(range(count)) or len(answer["data"]) != count:
                raise ValueError(f"{len(answer['data'])} vectors of {count} texts")
            lengths = sorted({len(vector) for vector in found.values()})
            if len(lengths) > 1 or not lengths[0]:
                raise ValueError(f"vectors with {' and '.join(map(str, lengths))} numbers")
            vectors = np.array([found[place] for place in range(count)], dtype=np.float32)
            if vectors.ndim != 2:
                raise ValueError("vectors that are no lists of numbers")
            wrong = np.flatnonzero(~np.isfinite(vectors).all(axis=1) | ~vectors.any(axis=1))
            if len(wrong):
                raise ValueError(f"a vector with NaN, infinity or nothing but 0 for text {wrong[0] + 1} of {count}")
            return vectors, _tokens(answer.get("usage"))
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            why = client.shown(f"{type(error).__name__}: {error}".encode())
            raise StepwellError(
                f"the hosted teacher at {self.section.url} gives something else than a vector for each text "
                f"({why}): {client.shown(data)!r}. Nothing of this answer is kept. What is "
                'understood is what OpenAI\'s API answers: {"data": [{"index": 0, "embedding": [...]}]}; the url of '
                "such an API ends in /v1/embeddings."
            ) from None


def _halves(asked: Asked, error: RefusedError) -> tuple[Asked, Asked]:
    """Return the halves of a request that was too much for the server; raise where that is one text alone."""
    if error.status not in TOO_MUCH:
        raise error
    if len(asked) == 1:
        raise StepwellError(
            f"{error} That was its answer to one text alone, with {len(asked[0]):,} characters: {asked[0][:80]!r}. If "
            "the text is what it can't take (too long, or empty), change it in the collection or take it out."
        ) from None
    return asked[: len(asked) // 2], asked[len(asked) // 2 :]


def _tokens(usage: Any) -> int:
    """Return the tokens that a server has counted; 0 where it says so in no way that is known."""
    if not isinstance(usage, dict):
        return 0
    tokens = usage.get("total_tokens") or usage.get("prompt_tokens")
    return tokens if isinstance(tokens, int) else 0
