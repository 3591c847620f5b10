"""A hosted re-ranker: a small adapter for the HTTP APIs that take a query and documents and score each of these.

A request is ``{"query": ..., "documents": [...]}`` as JSON, with a model's name where one is wanted. An answer is a
list, alone or under ``results`` or ``data``, of ``{"index": i, "relevance_score": s}`` (or ``score``).
"""

import hashlib
import json
import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from typing import Any

import numpy as np

from stepwell.display import SILENT, Progress
from stepwell.endpoint import Endpoint
from stepwell.errors import StepwellError
from stepwell.recipe.teachers import HostedTeacher
from stepwell.teachers.protocol import Scores


class HostedReranker:
    """Scores pairs by asking a server; ``wait`` sleeps so many seconds between two attempts."""

    def __init__(self, settings: HostedTeacher, wait: Callable[[float], None] = time.sleep) -> None:
        self.settings = settings
        self.endpoint = Endpoint(
            settings.url,
            "the hosted teacher",
            no_key="take `key` out of the recipe",
            check="Check `url`, `model`, `documents` and `extra` of the teacher against the API's documentation.",
            kept="The scores that it gave before are kept: run the same command again when it is back, or raise "
            "`retries` or `timeout`, or lower `parallel`.",
            key=settings.key,
            retries=settings.retries,
            timeout=settings.timeout,
            wait=wait,
        )
        self.endpoint.check_key()

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
        return self.endpoint.post(body, lambda data: self._read(data, len(documents)))

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
