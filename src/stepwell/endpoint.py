"""A JSON API behind HTTP: asked again when it is busy, with a key that is written nowhere."""

import json
import math
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from http.client import HTTPException
from typing import Any, TypeVar

from stepwell.errors import StepwellError

T = TypeVar("T")

LONGEST_WAIT = 60.0  # seconds between two attempts, at most


class RefusedError(StepwellError):
    """A server refuses a request, and another attempt is useless."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status  # of HTTP


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would carry the key to wherever it points."""

    def redirect_request(self, *_: Any) -> None:
        return None


_OPENER = urllib.request.build_opener(_NoRedirect)


@dataclass(frozen=True)
class Endpoint:
    """Where requests are posted, and what its sentences say."""

    url: str
    what: str  # it is called so: `the hosted teacher`
    no_key: str  # what to do instead of setting the key: `take `key` out of the recipe`
    check: str  # what to check when it refuses a request
    kept: str  # what an outage leaves, and what may help
    key: str | None = None  # the name of the environment variable with the key
    key_field: str = "key"  # where that name is set
    retries: int = 6  # further attempts after 429, 5xx or no answer
    timeout: float = 60.0  # seconds
    wait: Callable[[float], None] = time.sleep  # between two attempts

    @cached_property
    def _key(self) -> str:
        key = os.environ.get(self.key, "").strip() if self.key is not None else ""
        if self.key is not None and not key:
            raise StepwellError(
                f"the key of {self.what} at {self.url} is read from the environment variable {self.key}, which is not "
                f"set. Set it (export {self.key}=...), or {self.no_key} where the server wants none."
            )
        if not all("!" <= character <= "~" for character in key):  # an error of the HTTP library would show it
            raise StepwellError(
                f"the environment variable {self.key} holds no key: there are blanks or other characters in it that no "
                "key has. Set it again."
            )
        return key

    def check_key(self) -> None:
        """Refuse to go on when the key is not set."""
        _ = self._key

    def post(self, body: Mapping[str, Any], read: Callable[[bytes], T]) -> T:
        """Post a request and return what ``read`` makes of the answer; its ValueError is as good as no answer."""
        headers = {"Content-Type": "application/json", "Accept": "application/json", "User-Agent": "stepwell"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        data, asked, reason = json.dumps(body).encode(), None, ""
        for attempt in range(self.retries + 1):
            if attempt:
                self.wait(_seconds(asked, attempt - 1))
            try:
                request = urllib.request.Request(self.url, data, headers)
                with _OPENER.open(request, timeout=self.timeout) as answer:
                    return read(answer.read())
            except urllib.error.HTTPError as error:
                reason, asked = self._refusal(error), error.headers.get("Retry-After")
            except (OSError, HTTPException, ValueError) as error:  # no connection, a time-out, an answer cut off
                reason, asked = f"{getattr(error, 'reason', None) or error or type(error).__name__}", None
        raise StepwellError(
            f"{self.what} at {self.url} did not answer in {self.retries + 1} attempts; the last time: "
            f"{self.hidden(reason)[:300]}. {self.kept}"
        )

    def _refusal(self, error: urllib.error.HTTPError) -> str:
        """Say what an HTTP status means; raise where another attempt is useless."""
        with error:
            try:
                text = " ".join(error.read(2000).decode("utf-8", "replace").split())
            except (OSError, HTTPException):
                text = ""
        said = f"HTTP {error.code}" + (f", {self.hidden(text)[:200]}" if text else "")
        if error.code == 429 or error.code >= 500:
            return said
        advice = self.check
        if error.code in (401, 403):
            advice = (
                f"Check the key in {self.key}."
                if self.key
                else f"Name the environment variable of a key in `{self.key_field}`."
            )
        elif 300 <= error.code < 400:
            advice = f"It points to {self.hidden(str(error.headers.get('Location')))}: give the right address in `url`."
        raise RefusedError(f"{self.what} at {self.url} refuses: {said}. {advice}", error.code)

    def hidden(self, text: str) -> str:
        """Return a text without the key, which a server may repeat."""
        return text.replace(self._key, "***") if self._key else text


def _seconds(asked: str | None, attempt: int) -> float:
    """Return how long to wait: what the server asks for in Retry-After, or 1, 2, 4... seconds where that is no time."""
    try:
        wish = float(asked or "")
    except ValueError:
        wish = math.nan
    return min(wish if math.isfinite(wish) and wish > 0 else 2.0 ** min(attempt, 10), LONGEST_WAIT)
