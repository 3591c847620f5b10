"""How many pairs a stage asked a teacher for, and how many of them had to be scored: kept beside what it made."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

from stepwell import distributed

FILE = "pairs.json"


@dataclass
class _Counter:
    """Counts of one stage, one (asked, scored) a request."""

    place: Path
    requests: int = 0

    def add(self, asked: int, scored: int) -> None:
        """Keep a request's counts.

        A stage that goes on after a kill asks the same again and finds what it scored before; the first counts stay.
        """
        counts = read_counts(self.place)
        if self.requests == len(counts) and distributed.is_main():
            draft = self.place.with_suffix(".draft")
            draft.write_text(json.dumps([*counts, (asked, scored)]), encoding="utf-8")
            draft.replace(self.place)
        self.requests += 1


_counter: ContextVar[_Counter | None] = ContextVar("stepwell_pair_counter", default=None)


@contextmanager
def counting(folder: Path) -> Iterator[None]:
    """Keep the counts of what is asked meanwhile in ``pairs.json`` in a folder."""
    token = _counter.set(_Counter(folder / FILE))
    try:
        yield
    finally:
        _counter.reset(token)


def count(asked: int, scored: int) -> None:
    """Say that ``asked`` pairs were wanted and ``scored`` of them had no score; nobody listens outside of a stage."""
    counter = _counter.get()
    if counter is not None:
        counter.add(asked, scored)


def read_counts(place: Path) -> list[tuple[int, int]]:
    """Return the counts (asked, scored) in a file; none when there is no such file.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> with counting(folder):
    ...     count(asked=12, scored=5)
    ...     count(asked=12, scored=0)
    >>> read_counts(folder / FILE)
    [(12, 5), (12, 0)]
    """
    if not place.is_file():
        return []
    return [(int(asked), int(scored)) for asked, scored in json.loads(place.read_text(encoding="utf-8"))]
