"""How many pairs a stage asked a teacher for, and how many of them had to be scored: kept beside what it made."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import count as numbers
from pathlib import Path

from stepwell import distributed
from stepwell.files import read_json, write_text

FILE = "pairs.json"

# of a stage: where its counts are kept, and the number of the next request
_requests: ContextVar[tuple[Path, Iterator[int]] | None] = ContextVar("stepwell_pair_requests", default=None)


@contextmanager
def counting(folder: Path) -> Iterator[None]:
    """Keep the counts of what is asked meanwhile in ``pairs.json`` in a folder."""
    token = _requests.set((folder / FILE, numbers()))
    try:
        yield
    finally:
        _requests.reset(token)


def count(asked: int, scored: int) -> None:
    """Count a request of ``asked`` pairs of which ``scored`` had no score; nothing is counted outside of a stage.

    A stage that goes on after a kill asks the same again and finds what it scored before; the first counts stay.
    """
    if requests := _requests.get():
        place, number = requests
        counts = read_counts(place)
        if next(number) == len(counts) and distributed.is_main():
            write_text(place, json.dumps([*counts, (asked, scored)]))


def read_counts(place: Path) -> list[tuple[int, int]]:
    """Return the counts (asked, scored) in a file; none when there is no such file.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> with counting(folder):
    ...     count(asked=12, scored=5)
    ...     count(asked=12, scored=0)
    >>> read_counts(folder / FILE)
    [(12, 5), (12, 0)]
    """
    return [(int(asked), int(scored)) for asked, scored in read_json(place)] if place.is_file() else []
