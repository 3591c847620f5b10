"""Dynamic batching: what waits together is answered together, by one worker thread."""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Generic, Self, TypeVar

T = TypeVar("T")
R = TypeVar("R")

Gone = Callable[[], Awaitable[bool]]
"""Returns whether the client that asked has hung up."""


class BusyError(Exception):
    """The queue is full."""


class GoneError(Exception):
    """Nobody waits for the answer any more."""


@dataclass(eq=False)
class _Waiting(Generic[T, R]):
    item: T
    gone: Gone | None
    answer: asyncio.Future[R]
    since: float = field(default_factory=time.perf_counter)


class Batcher(Generic[T, R]):
    """A queue in front of one worker thread.

    An idle worker takes what comes at once. While it works, others gather, and it takes them together. Those who were
    answered are likely to ask again: with others waiting it waits for them too, while they come, so that all are
    answered in one round and nobody has to wait for two.
    """

    def __init__(
        self,
        work: Callable[[Sequence[T]], Sequence[R | Exception]],  # one answer an item; an exception is raised by ask
        most: int,  # items of a batch
        queue: int,  # items that may wait
        linger: float = 0.002,  # seconds to wait for one more where several ask
        count: Callable[[Sequence[T], Sequence[float]], None] = lambda items, waited: None,  # called with each batch
        patience: float = 0.5,  # seconds an item waits before its client is looked for: it costs a short answer's time
        pause: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self.work, self.most, self.queue = work, most, queue
        self.linger, self.count, self.patience, self.pause = linger, count, patience, pause
        self._waiting = deque[_Waiting[T, R]]()
        self._arrived = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="stepwell-search")

    def __len__(self) -> int:
        """Return how many items wait."""
        return len(self._waiting)

    async def __aenter__(self) -> Self:
        """Begin to answer."""
        self._task = asyncio.create_task(self._serve())
        return self

    async def __aexit__(self, *error: object) -> None:
        """Answer nothing more, once the batch at work is done."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._thread.shutdown(wait=True)

    async def ask(self, items: Sequence[T], gone: Gone | None = None) -> list[R]:
        """Return the answers to items, in their order.

        BusyError: the queue has no room for all of them. GoneError: the client hung up before their turn came.
        """
        if len(self._waiting) + len(items) > self.queue:
            raise BusyError
        loop = asyncio.get_running_loop()
        waiting = [_Waiting[T, R](item, gone, loop.create_future()) for item in items]
        self._waiting.extend(waiting)
        self._arrived.set()
        return list(await asyncio.gather(*(one.answer for one in waiting)))

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        expected = 0
        while True:
            if expected > 1:
                await self.pause(self.linger)  # the answers go out
            while not self._waiting:
                self._arrived.clear()
                await self._arrived.wait()
            before = 0
            while before < len(self._waiting) < min(expected, self.most):  # others keep coming
                before = len(self._waiting)
                await self.pause(self.linger)
            batch = await self._next()
            if batch:
                answers = await loop.run_in_executor(self._thread, self._answer, [one.item for one in batch])
                for one, answer in zip(batch, answers, strict=True):
                    if one.answer.done():  # who asked is gone
                        continue
                    if isinstance(answer, Exception):
                        one.answer.set_exception(answer)
                    else:
                        one.answer.set_result(answer)
            expected = len(batch) + len(self._waiting)

    async def _next(self) -> list[_Waiting[T, R]]:
        """Take a batch from the queue; drop who has hung up."""
        batch: list[_Waiting[T, R]] = []
        now, waits = time.perf_counter(), list[float]()
        while self._waiting and len(batch) < self.most:
            one = self._waiting.popleft()
            if one.answer.done():
                continue
            if one.gone and now - one.since > self.patience and await one.gone():
                one.answer.set_exception(GoneError())
                continue
            batch.append(one)
            waits.append(now - one.since)
        if batch:
            self.count([one.item for one in batch], waits)
        return batch

    def _answer(self, items: list[T]) -> Sequence[R | Exception]:
        try:
            return self.work(items)
        except Exception as error:
            return [error] * len(items)
