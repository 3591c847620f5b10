"""Queries that people asked, from a small file: they test, and nothing else."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from stepwell.collection.collection import normal
from stepwell.collection.readers.tables import ENDINGS, read_table
from stepwell.collection.source import Problem
from stepwell.errors import StepwellError

QUERY = ("query", "question", "text", "anchor")
PASSAGE = ("passage", "corpus_id", "passage_id", "pid", "docid", "doc_id", "file", "id", "_id")


class Real:
    """Queries and the passages that answer them: a passage's id, or a file of a folder for all passages of it.

    Parameters
    ----------
    path
        A table (JSONL, TSV, CSV or Parquet) with a column of queries and one of passages, see ``QUERY`` and
        ``PASSAGE``; a query with several answers has several rows.

    Raises
    ------
    StepwellError
        When it can't be read or has no such columns.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._rows: list[tuple[int, str, str]] = []
        if not path.is_file() or path.name.removesuffix(".gz").rpartition(".")[2] not in ENDINGS:
            raise StepwellError(
                f"{path} is no file with one of the endings {', '.join(ENDINGS)}: real queries are a table with the "
                "columns query and passage (a passage's id, or its file)."
            )
        for number, record in read_table(path, path.name, _refuse):
            lower = {name.lower().replace("-", "_"): value for name, value in record.items()}
            query, passage = (_first(lower, names) for names in (QUERY, PASSAGE))
            if query is None or passage is None:
                raise StepwellError(
                    f"{path}:{number}: a real query needs the columns query and passage, and there are "
                    f"{', '.join(record)}."
                )
            self._rows.append((number, query, passage))
        if not self._rows:
            raise StepwellError(f"{path} holds no query.")
        self.texts = list(dict.fromkeys(query for _, query, _ in self._rows))
        self._names = {normal(text): f"real:{at}" for at, text in reversed(list(enumerate(self.texts, start=1)))}
        self._wanted = {passage for _, _, passage in self._rows}

    def places_of(self, passage: str) -> Iterator[str]:
        """Yield the names in the file that mean a passage."""
        for name in dict.fromkeys((passage, passage.rpartition("#")[0])):
            if name in self._wanted:
                yield name

    def named(self) -> Iterator[tuple[str, str]]:
        """Yield (id, text) of each query."""
        for at, text in enumerate(self.texts, start=1):
            if self._names[normal(text)] == f"real:{at}":
                yield f"real:{at}", text

    def judge(self, matched: dict[str, list[str]]) -> list[tuple[str, str]]:
        """Return (query id, passage id), given the passages that each name means.

        Raises
        ------
        StepwellError
            When a name means none.
        """
        pairs: dict[str, dict[str, None]] = defaultdict(dict)
        for number, query, name in self._rows:
            if name not in matched:
                raise StepwellError(
                    f"{self.path}:{number}: there is no passage {name!r}. Passages are named by their id; those of a "
                    "folder by file and number (guide.md#3), or by the file for all of it (guide.md)."
                )
            pairs[self._names[normal(query)]] |= dict.fromkeys(matched[name])
        return [(query, passage) for query, found in pairs.items() for passage in found]


def _first(record: dict[str, object], names: tuple[str, ...]) -> str | None:
    value = next((record[name] for name in names if record.get(name) not in (None, "")), None)
    return None if value is None else str(value).strip()


def _refuse(problem: Problem) -> NoReturn:
    raise StepwellError(f"{problem}")
