"""Who is answered, and how long a body may be and take: checked before anything is parsed."""

import asyncio
import hmac
from collections.abc import Callable

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from stepwell.server.limits import Limits, is_loopback

OPEN = frozenset({"/", "/page.css", "/page.js", "/healthz"})
"""What needs no token: the page, which holds no data, and the word that the server lives."""

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


class Guard:
    """Checks host and token, reads the body within its limits, and adds safe headers to every answer.

    Without a token that ``Authorization: Bearer`` must carry, only requests to a loopback name are answered: a web page
    elsewhere that points its own name at this machine (DNS rebinding) gets nothing. The body is ``scope["body"]``.
    """

    def __init__(self, app: ASGIApp, limits: Limits, token: str | None, count: Callable[[str, int], None]) -> None:
        self.app, self.limits, self.count = app, limits, count  # called with path and status of every answer
        self.token = None if token is None else token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def safe(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.count(scope["path"], message["status"])
                message["headers"] = [*message.get("headers", ()), *SAFETY]
            await send(message)

        answer = self.app
        try:
            headers = dict(scope["headers"])
            self._check(scope["path"], headers)
            scope["body"] = await asyncio.wait_for(self._body(headers, receive), self.limits.seconds)
        except ConnectionError:
            return  # the client is gone
        except TimeoutError:
            answer = _refusal(408, f"the body did not arrive within {self.limits.seconds:g} seconds.")
        except HTTPException as refused:
            answer = _refusal(refused.status_code, refused.detail)
        await answer(scope, receive, safe)

    def _check(self, path: str, headers: dict[bytes, bytes]) -> None:
        if self.token is not None:
            given = headers.get(b"authorization", b"").removeprefix(b"Bearer ")
            if path not in OPEN and not hmac.compare_digest(given, self.token):
                raise HTTPException(401, "this needs the server's token: Authorization: Bearer TOKEN.")
        else:
            host = headers.get(b"host", b"").decode("latin-1").lower()
            name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() and not host.startswith("::") else host
            if not is_loopback(name):
                raise HTTPException(421, "without a token this server answers to localhost alone.")

    async def _body(self, headers: dict[bytes, bytes], receive: Receive) -> bytes:
        """Read a body; one that says or turns out to be too long is left unread."""
        most, size = self.limits.body, headers.get(b"content-length", b"0")
        if not size.isdigit():
            raise HTTPException(400, "Content-Length is no number.")
        if len(size) > 18 or int(size) > most:
            raise HTTPException(413, f"a body has at most {most:,} bytes.")
        if size == b"0" and b"transfer-encoding" not in headers:
            return b""
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ConnectionError
            body += message.get("body", b"")
            if len(body) > most:
                raise HTTPException(413, f"a body has at most {most:,} bytes.")
            if not message.get("more_body", False):
                return bytes(body)


def _refusal(status: int, reason: str) -> JSONResponse:
    headers = {"connection": "close"}  # the rest of a body would be taken for the next request
    return JSONResponse({"error": reason}, status, headers | ({"www-authenticate": "Bearer"} if status == 401 else {}))
