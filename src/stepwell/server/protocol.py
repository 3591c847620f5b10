"""HTTP/1.1 by uvicorn and httptools, with limits on the head of a request, which they don't have."""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from stepwell.server.limits import Limits


class Guarded(HttpToolsProtocol):
    """The protocol: a head that is too long gets a 431, one that takes too long a 408."""

    limits = Limits()
    in_head = True
    head = 0
    timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Give the client a time for its head."""
        super().connection_made(transport)
        self._start()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clock."""
        self._stop()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Count the bytes of a head."""
        if self.in_head:
            self._start()
            self.head += len(data)
        super().data_received(data)
        if self.in_head and self.head > self.limits.head:
            self._end(431)

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP, or too much of it."""
        self._end(431 if self._too_long() else 400)

    def on_headers_complete(self) -> None:
        """Stop the clock: the head is whole."""
        if self._too_long():
            raise ValueError("the head is too long")  # httptools turns it into a bad request
        self._stop()
        self.in_head = False
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Await the next head."""
        super().on_message_complete()
        self.in_head, self.head = True, 0

    def _too_long(self) -> bool:
        fields = sum(len(name) + len(value) + 4 for name, value in self.headers or ())
        return len(getattr(self, "url", b"")) + fields > self.limits.head

    def _start(self) -> None:
        if self.timer is None:
            self.timer = self.loop.call_later(self.limits.seconds, self._end, 408)

    def _stop(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def _end(self, status: int) -> None:
        if not self.transport.is_closing():
            self.transport.write(STATUS_LINE[status] + b"connection: close\r\ncontent-length: 0\r\n\r\n")
            self.transport.close()


def guarded(limits: Limits) -> type[Guarded]:
    """Return the protocol under other limits."""
    return type("Guarded", (Guarded,), {"limits": limits})
