"""What a client may send and how fast: bodies, heads, hosts and tokens, before anything is parsed."""

import asyncio
import hmac
import json
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

OPEN = frozenset({"/", "/page.css", "/page.js", "/healthz"})
"""What needs no token: the page, which holds no data, and the word that the server lives."""

LOOPBACK = ("localhost", "127.0.0.1", "[::1]", "::1")

SAFETY = (
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
        b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
)
"""Headers of every answer."""


@dataclass(frozen=True)
class Limits:
    """What is refused."""

    text: int = 2_000  # characters of a query or a text to embed
    batch: int = 64  # queries or texts of a request
    k: int = 100  # passages a query
    queue: int = 256  # queries that may wait; beyond it the answer is 503
    at_once: int = 32  # queries that are embedded and searched together
    body: int = 1 << 20  # bytes of a request's body
    head: int = 16_384  # bytes of a request's line and headers
    seconds: float = 10.0  # that a head may take to arrive, and a body
    connections: int = 512  # that are open; beyond it the answer is 503


class RefusedError(Exception):
    """A request that is answered before the application sees it."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason


class Guard:
    """Checks host and token, reads the body within its limits, and adds safe headers to every answer.

    Without a token that ``Authorization: Bearer`` must carry, only requests to a loopback name are answered: a web page
    elsewhere that points its own name at this machine (DNS rebinding) gets nothing.
    """

    def __init__(
        self,
        app: App,
        limits: Limits,
        token: str | None,
        count: Callable[[str, int], None] = lambda path, status: None,  # called with path and status of every answer
    ) -> None:
        self.app, self.limits, self.count = app, limits, count
        self.token = None if token is None else token.encode()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun = False

        async def safe(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                self.count(scope["path"], message["status"])
                message["headers"] = [*message.get("headers", ()), *SAFETY]
            await send(message)

        try:
            headers = dict(scope["headers"])
            self._check(scope["path"], headers)
            body = await asyncio.wait_for(self._body(headers, receive), self.limits.seconds)
            await self.app(scope, _replay(body, receive), safe)
        except TimeoutError:
            await _refuse(safe, 408, f"the body did not arrive within {self.limits.seconds:g} seconds.")
        except RefusedError as refused:
            await _refuse(safe, refused.status, refused.reason)
        except ConnectionError:
            return  # the client is gone
        except Exception:
            if not begun:
                await _refuse(safe, 500, "something went wrong here; the server's own output says what.")
            raise

    def _check(self, path: str, headers: dict[bytes, bytes]) -> None:
        if self.token is not None:
            given = headers.get(b"authorization", b"").removeprefix(b"Bearer ")
            if path not in OPEN and not hmac.compare_digest(given, self.token):
                raise RefusedError(401, "this needs the server's token: Authorization: Bearer TOKEN.")
        else:
            host = headers.get(b"host", b"").decode("latin-1").lower()
            name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() and not host.startswith("::") else host
            if name not in LOOPBACK:
                raise RefusedError(421, "without a token this server answers to localhost alone.")

    async def _body(self, headers: dict[bytes, bytes], receive: Receive) -> bytes:
        """Read a body; one that says or turns out to be too long is left unread."""
        most, size = self.limits.body, headers.get(b"content-length", b"0")
        if not size.isdigit():
            raise RefusedError(400, "Content-Length is no number.")
        if len(size) > 18 or int(size) > most:
            raise RefusedError(413, f"a body has at most {most:,} bytes.")
        if size == b"0" and b"transfer-encoding" not in headers:
            return b""
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ConnectionError
            body += message.get("body", b"")
            if len(body) > most:
                raise RefusedError(413, f"a body has at most {most:,} bytes.")
            if not message.get("more_body", False):
                return bytes(body)


def _replay(body: bytes, receive: Receive) -> Receive:
    """Return a receiver that gives a body that was read, and then whatever comes."""
    left: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return left.pop() if left else await receive()

    return again


async def _refuse(send: Send, status: int, reason: str) -> None:
    body = json.dumps({"error": reason}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),  # the rest of a body would be taken for the next request
    ]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
