"""A hosted re-ranker: a small adapter for the HTTP APIs that take a query and documents and score each of these.

A request is ``{"query": ..., "documents": [...]}`` as JSON, with a model's name where one is wanted. An answer is a
list, alone or under ``results`` or ``data``, of ``{"index": i, "relevance_score": s}`` (or ``score``).
"""

import hashlib
import json
import math
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from itertools import groupby
from typing import Any

import numpy as np

from stepwell.display import SILENT, Progress
from stepwell.errors import StepwellError
from stepwell.recipe.teachers import HostedTeacher
from stepwell.teachers.protocol import Scores

LONGEST_WAIT = 60.0  # seconds between two attempts, at most


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would carry the key to wherever it points."""

    def redirect_request(self, *_: Any) -> None:
        return None


_OPENER = urllib.request.build_opener(_NoRedirect)


class HostedReranker:
    """Scores pairs by asking a server; ``wait`` sleeps so many seconds between two attempts."""

    def __init__(self, settings: HostedTeacher, wait: Callable[[float], None] = time.sleep) -> None:
        self.settings, self.wait = settings, wait
        self._headers = {"Content-Type": "application/json", "Accept": "application/json", "User-Agent": "stepwell"}
        if settings.key is not None:
            key = os.environ.get(settings.key, "").strip()
            if not key:
                raise StepwellError(
                    f"the key of the hosted teacher at {settings.url} is read from the environment variable "
                    f"{settings.key}, which is not set. Set it (export {settings.key}=...), or take `key` out of the "
                    "recipe where the server wants none."
                )
            self._headers["Authorization"] = f"Bearer {key}"

    @staticmethod
    def fingerprint_of(settings: HostedTeacher) -> str:
        """Return the sha256 of what the scores depend on: url, model, fields of the request."""
        return hashlib.sha256(json.dumps(settings.facts(), sort_keys=True).encode()).hexdigest()

    def scores(self, queries: Sequence[str], passages: Sequence[str], progress: Progress = SILENT) -> Scores:
        """Return the score of each pair of texts (B,); pairs with one query behind one another share requests."""
        requests: list[list[int]] = []
        for _, group in groupby(range(len(queries)), key=queries.__getitem__):
            same, size = list(group), self.settings.batch
            requests += [same[start : start + size] for start in range(0, len(same), size)]
        out = np.empty(len(queries), dtype=np.float32)

        def ask(places: list[int]) -> list[float]:
            return self._ask(queries[places[0]], [passages[place] for place in places])

        with ThreadPoolExecutor(self.settings.parallel) as pool:
            try:
                for places, scores in zip(requests, pool.map(ask, requests), strict=True):
                    out[places] = scores
                    progress.advance(len(places))
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        return out

    def _ask(self, query: str, documents: list[str]) -> list[float]:
        body: dict[str, Any] = {"query": query, self.settings.documents: documents, **self.settings.extra}
        if self.settings.model is not None:
            body["model"] = self.settings.model
        data = json.dumps(body).encode()
        for attempt in range(self.settings.retries + 1):
            try:
                request = urllib.request.Request(self.settings.url, data, self._headers)
                with _OPENER.open(request, timeout=self.settings.timeout) as answer:
                    return self._read(answer.read(), len(documents))
            except urllib.error.HTTPError as error:
                reason, asked = self._refusal(error), error.headers.get("Retry-After")
            except (OSError, HTTPException) as error:  # no connection, a time-out, an answer cut off
                reason, asked = f"{getattr(error, 'reason', None) or error or type(error).__name__}", None
            if attempt < self.settings.retries:
                self.wait(_seconds(asked, attempt))
        raise StepwellError(
            f"the hosted teacher at {self.settings.url} did not answer in {self.settings.retries + 1} attempts; the "
            f"last time: {reason}. The scores that it gave before are kept: run the same command again when it is "
            "back, or raise `retries` or `timeout`, or lower `parallel`."
        )

    def _refusal(self, error: urllib.error.HTTPError) -> str:
        """Say what an HTTP status means; raise where another attempt is useless."""
        with error:
            text = " ".join(error.read(2000).decode("utf-8", "replace").split())[:200]
        said = f"HTTP {error.code}" + (f", {text}" if text else "")
        if error.code == 429 or error.code >= 500:
            return said
        advice = "Check `url`, `model`, `documents` and `extra` of the teacher against the API's documentation."
        if error.code in (401, 403):
            name = self.settings.key
            advice = f"Check the key in {name}." if name else "Name the environment variable of a key in `key`."
        elif 300 <= error.code < 400:
            advice = f"It points to {error.headers.get('Location')}: give the right address in `url`."
        raise StepwellError(f"the hosted teacher at {self.settings.url} refuses: {said}. {advice}")

    def _read(self, data: bytes, count: int) -> list[float]:
        """Return the scores in the order of the documents."""
        try:
            answer = json.loads(data)
            if isinstance(answer, dict):
                answer = answer["results"] if "results" in answer else answer["data"]
            found = {
                int(item["index"]): float(item["relevance_score"] if "relevance_score" in item else item["score"])
                for item in answer
            }
            if sorted(found) != list(range(count)) or not all(map(math.isfinite, found.values())):
                raise ValueError(f"{len(found)} scores of {count} documents")
        except (ValueError, KeyError, TypeError) as error:
            start = data[:200].decode("utf-8", "replace")
            raise StepwellError(
                f"the hosted teacher at {self.settings.url} gives something else than a score for each document "
                f"({type(error).__name__}: {error}): {start!r}. What is understood is a list of index and "
                "relevance_score, alone or under `results` or `data`; an API that returns only the best needs its "
                "option for all of them in `extra`."
            ) from None
        return [found[place] for place in range(count)]


def _seconds(asked: str | None, attempt: int) -> float:
    """Return how long to wait: what the server asks for in Retry-After, or 1, 2, 4... seconds."""
    try:
        wish = float(asked or "")
    except ValueError:
        wish = 2.0**attempt
    return min(max(wish, 0.0), LONGEST_WAIT)
