"""What the server counts, in the text format of Prometheus."""

from collections.abc import Sequence
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

from stepwell.server.engine import Embedding, Question

PATHS = frozenset({"/", "/search", "/embed", "/systems", "/healthz", "/metrics", "/openapi.json"})


class Metrics:
    """Counters of one server, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        here: dict[str, Any] = {"registry": self.registry}
        self.answers = Counter("stepwell_http_answers", "Answers by path and status.", ["path", "status"], **here)
        self.seconds = Histogram(
            "stepwell_search_seconds",
            "Time from a parsed search to its answer.",
            ["system"],
            buckets=(0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5),
            **here,
        )
        self.texts = Counter(
            "stepwell_texts", "Queries searched and texts embedded or re-ranked, by what.", ["what"], **here
        )
        self.batches = Histogram(
            "stepwell_batch_texts", "Texts that were answered together.", buckets=(1, 2, 4, 8, 16, 32, 64), **here
        )
        self.waited = Histogram(
            "stepwell_wait_seconds",
            "Time in the queue.",
            buckets=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2),
            **here,
        )
        self.queue = Gauge("stepwell_queue_texts", "Texts in the queue now.", **here)

    def answered(self, path: str, status: int) -> None:
        """Count an answer; paths that don't exist count as one."""
        self.answers.labels(path if path in PATHS else "other", str(status)).inc()

    def batch(self, items: Sequence[Any], waited: Sequence[float]) -> None:
        """Count a batch."""
        self.batches.observe(len(items))
        for item, seconds in zip(items, waited, strict=True):
            self.waited.observe(seconds)
            kind = item.system if isinstance(item, Question) else "embed" if isinstance(item, Embedding) else "rerank"
            self.texts.labels(kind).inc()
