"""A hosted re-ranker: a small adapter for the HTTP APIs that take a query and documents and score each of these.

A request is ``{"query": ..., "documents": [...]}`` as JSON, with a model's name where one is wanted. An answer is a
list, alone or under ``results`` or ``data``, of ``{"index": i, "relevance_score": s}`` (or ``score``).
"""

import hashlib
import json
import math
import time
from collections.abc import Callable, Sequence
from itertools import groupby

import numpy as np

from stepwell.display import SILENT, Progress
from stepwell.errors import StepwellError
from stepwell.recipe.teachers import HostedTeacher
from stepwell.teachers.client import Client, Words
from stepwell.teachers.protocol import Scores

WORDS = Words("scores", "key", "`url`, `model`, `documents` and `extra`")


class HostedReranker:
    """Scores pairs by asking a server; ``wait`` sleeps so many seconds between two attempts."""

    def __init__(self, settings: HostedTeacher, wait: Callable[[float], None] = time.sleep) -> None:
        self.settings, self.client = settings, Client(settings, WORDS, wait)

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
            documents = [passages[place] for place in places]
            answer = self.client.post({"query": queries[places[0]], self.settings.documents: documents})
            return self._read(answer, len(documents))

        for places, scores in self.client.all(requests, ask):
            out[places] = scores
            progress.advance(len(places))
        return out

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
            raise StepwellError(
                f"the hosted teacher at {self.settings.url} gives something else than a score for each document "
                f"({type(error).__name__}: {error}): {self.client.shown(data)!r}. What is understood is a list of "
                "index and relevance_score, alone or under `results` or `data`; an API that returns only the best "
                "needs its option for all of them in `extra`."
            ) from None
        return [found[place] for place in range(count)]
