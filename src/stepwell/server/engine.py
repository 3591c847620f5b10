"""Questions of many clients in, answers out: one queue for the encoders, one for the re-ranking teacher."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from stepwell.models.engines.machine import trim
from stepwell.models.tokens import Side
from stepwell.server.batching import Batcher, Gone
from stepwell.server.limits import Limits
from stepwell.server.systems import STUDENT, Second, Systems
from stepwell.systems.searcher import Hit

TRIM = 2.0
"""Seconds between two times that freed memory is given back to the system."""


class Question(NamedTuple):
    """A query to a system."""

    system: str
    k: int
    text: str


class Embedding(NamedTuple):
    """A text to embed."""

    side: Side
    text: str


class Reranking(NamedTuple):
    """Passages to put into a cross-encoder's order."""

    system: Second
    k: int
    text: str
    hits: list[Hit]


class Engine:
    """Answers for all clients.

    Tokenisers and models are touched by one thread each: that of the encoders, and that of the cross-encoder, which is
    a hundred times slower and must hold up nobody else. Both are entered to begin, and left to end.
    """

    def __init__(
        self,
        systems: Systems,
        limits: Limits,
        count: Callable[[Sequence[Any], Sequence[float]], None] = lambda items, waited: None,  # called with each batch
    ) -> None:
        self.systems = systems
        most, queue = limits.at_once, limits.queue
        self.quick: Batcher[Question | Embedding, Any] = Batcher(self._answer, most, queue, count=count)
        self.slow: Batcher[Reranking, list[Hit]] = Batcher(_rerank, 1, queue, count=count)

    async def search(self, name: str, queries: Sequence[str], k: int, gone: Gone | None = None) -> list[list[Hit]]:
        """Return the ``k`` best passages of each query by a system."""
        system = self.systems.by_name[name]
        if not isinstance(system, Second):
            return await self.quick.ask([Question(name, k, text) for text in queries], gone)
        depth = max(k, system.depth)
        lists = await self.quick.ask([Question(STUDENT, depth, text) for text in queries], gone)
        jobs = [Reranking(system, k, text, hits) for text, hits in zip(queries, lists, strict=True)]
        return await self.slow.ask(jobs, gone)

    async def embed(self, texts: Sequence[str], side: Side, gone: Gone | None = None) -> list[list[float]]:
        """Return the student's vectors of texts."""
        return await self.quick.ask([Embedding(side, text) for text in texts], gone)

    def _answer(self, items: Sequence[Question | Embedding]) -> list[Any]:
        """Answer items: those of one kind in one forward."""
        kinds = defaultdict[tuple[Any, ...], list[int]](list)
        for at, item in enumerate(items):
            kinds[item[:-1]].append(at)
        answers: list[Any] = [None] * len(items)
        for places in kinds.values():
            texts = [items[at].text for at in places]
            try:
                found = self._together(items[places[0]], texts)
            except Exception as error:  # of this kind alone; others of the batch have their answers
                found = [error] * len(places)
            for at, answer in zip(places, found, strict=True):
                answers[at] = answer
        trim(TRIM)
        return answers

    def _together(self, kind: Question | Embedding, texts: list[str]) -> Sequence[Any]:
        if isinstance(kind, Question):
            return self.systems.by_name[kind.system].searcher.search_many(texts, kind.k)
        encoder = self.systems.encoder
        vectors: list[list[float]] = encoder.encode(encoder.tokenise(texts, kind.side), kind.side).tolist()
        return vectors


def _rerank(items: Sequence[Reranking]) -> list[list[Hit] | Exception]:
    return [item.system.rerank(item.text, item.hits, item.k) for item in items]
