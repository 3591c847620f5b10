"""Queries that people asked, from a small file: they test, and nothing else."""

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from stepwell.collection.collection import normal
from stepwell.collection.readers.tables import ENDINGS, read_table
from stepwell.errors import CollectionError
from stepwell.intake.contents import refuse_here

QUERY = ("query", "question", "text", "anchor")
PASSAGE = ("passage", "corpus_id", "passage_id", "pid", "docid", "doc_id", "file", "id", "_id")


class RealQueries:
    """A table of queries and the passages that answer them: a passage's id, or a file for all passages of it.

    Its columns are found by their names, ``QUERY`` and ``PASSAGE``; a query with several answers has several rows.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._rows: list[tuple[int, str, str]] = []  # (line, query, name of passages)
        if not path.is_file() or path.name.removesuffix(".gz").rpartition(".")[2] not in ENDINGS:
            raise CollectionError(
                f"{path} is no file with one of the endings {', '.join(ENDINGS)}: real queries are a table with the "
                "columns query and passage (a passage's id, or its file)."
            )
        for number, record in read_table(path, path.name, refuse_here):
            lower = {name.lower().replace("-", "_"): value for name, value in record.items()}
            query, passage = (_first(lower, names) for names in (QUERY, PASSAGE))
            if query is None or passage is None:
                raise CollectionError(
                    f"{path}:{number}: a real query needs the columns query and passage, and there are "
                    f"{', '.join(record)}."
                )
            self._rows.append((number, query, passage))
        if not self._rows:
            raise CollectionError(f"{path} holds no query.")
        self.texts: dict[str, str] = {}  # by the query's id; those that differ in case and blanks alone are one
        self._ids: dict[str, str] = {}
        for at, text in enumerate(dict.fromkeys(query for _, query, _ in self._rows), start=1):
            if normal(text) not in self._ids:
                self._ids[normal(text)] = f"real:{at}"
                self.texts[f"real:{at}"] = text

    def judge(self, passages: Iterable[str]) -> list[tuple[str, str]]:
        """Return (query id, passage id), given the ids of all passages; StepwellError when a name means none."""
        meant: dict[str, list[str]] = {name: [] for _, _, name in self._rows}
        for passage in passages:
            for name in {passage, passage.rpartition("#")[0]} & meant.keys():
                meant[name].append(passage)
        pairs: dict[str, dict[str, None]] = defaultdict(dict)
        for number, query, name in self._rows:
            if not meant[name]:
                raise CollectionError(
                    f"{self.path}:{number}: there is no passage {name!r}. Passages are named by their id; those of a "
                    "folder by file and number (guide.md#3), or by the file for all of it (guide.md)."
                )
            pairs[self._ids[normal(query)]] |= dict.fromkeys(meant[name])
        return [(query, passage) for query, found in pairs.items() for passage in found]


def _first(record: dict[str, object], names: tuple[str, ...]) -> str | None:
    value = next((record[name] for name in names if record.get(name) not in (None, "")), None)
    return None if value is None else str(value).strip()
