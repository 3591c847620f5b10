"""A client for teachers behind an HTTP API: some requests at a time, and nothing lost that was answered."""

import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from stepwell.display import warn
from stepwell.endpoint import Endpoint
from stepwell.errors import StepwellError
from stepwell.recipe.teachers import Server

Asked = TypeVar("Asked")
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Words:
    """What differs in the sentences about two kinds of servers."""

    gives: str  # what it answers with
    key: str  # the key of the recipe that names the environment variable
    fields: str  # the keys of the recipe that make a request


class Client:
    """Posts to a server; ``wait`` sleeps so many seconds between two attempts."""

    def __init__(self, server: Server, words: Words, wait: Callable[[float], None] = time.sleep) -> None:
        self.server = server
        self.endpoint = Endpoint(
            server.url,
            "the hosted teacher",
            no_key=f"take `{words.key}` out of the recipe",
            check=f"Check {words.fields} of the teacher against the API's documentation.",
            kept=f"The {words.gives} that it gave before are kept: run the same command again when it is back, or "
            "raise `retries` or `timeout`, or lower `parallel`.",
            key=server.key_name,
            key_field=words.key,
            retries=server.retries,
            timeout=server.timeout,
            wait=wait,
        )
        self.endpoint.check_key()

    def post(self, fields: dict[str, Any]) -> bytes:
        """Return the answer to a request with these fields and those of the recipe."""
        server = self.server
        body = {**fields, **server.extra, **({} if server.model is None else {"model": server.model})}
        return self.endpoint.post(body, bytes)

    def all(self, asked: Iterable[Asked], ask: Callable[[Asked], Answer]) -> Iterator[tuple[Asked, Answer]]:
        """Yield the answer to each of some requests as soon as it is there, some of them at a time.

        After an error, Ctrl-C or SIGTERM nothing more is sent; what was under way is still yielded, so that it is not
        paid for twice. A second signal gives it up.
        """
        failed: list[BaseException] = []

        def work(one: Asked) -> Answer:
            if failed:
                raise failed[0]
            try:
                return ask(one)
            except BaseException as error:
                failed.append(error)
                raise

        with _noticed(lambda end: failed.insert(0, end)), ThreadPoolExecutor(self.server.parallel) as pool:
            under_way = {pool.submit(work, one): one for one in asked}
            try:
                for done in as_completed(under_way):
                    if done.exception() is None:
                        yield under_way[done], done.result()
            finally:
                failed.append(StepwellError("stopped"))  # by whoever reads the answers
        if len(failed) > 1:
            raise failed[0]

    def shown(self, data: bytes) -> str:
        """Return the start of an answer in one line, without the key, should it be in there."""
        return self.endpoint.hidden(" ".join(data.decode("utf-8", "replace").split()))[:200]


ENDS: dict[int, Callable[[], BaseException]] = {
    signal.SIGINT: KeyboardInterrupt,
    signal.SIGTERM: lambda: SystemExit(128 + signal.SIGTERM),
}
"""Signals that end a program, and how it ends then."""


@contextmanager
def _noticed(stop: Callable[[BaseException], None]) -> Iterator[None]:
    """Call ``stop`` at the first Ctrl-C or SIGTERM, wherever it comes; a second one acts as ever."""
    if threading.current_thread() is not threading.main_thread():  # which alone gets signals
        yield
        return
    before = {number: signal.getsignal(number) or signal.SIG_DFL for number in ENDS}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def first(number: int, _: object) -> None:
        restore()
        stop(ENDS[number]())
        warn("Stopping: answers that are under way are waited for and kept. Another signal gives them up.")

    for number in ENDS:
        signal.signal(number, first)
    try:
        yield
    finally:
        restore()
