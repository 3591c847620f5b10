"""Write a BEIR directory; :mod:`stepwell.collection.readers.beir` reads it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

from stepwell.collection.readers.beir import HEADER


class BeirWriter:
    """Writes passages and queries as they come, and the judgements a split at a time.

    Parameters
    ----------
    folder
        Where to; made, and must not hold a ``qrels`` yet. The files are whole once the writer is closed.
    """

    def __init__(self, folder: Path) -> None:
        (folder / "qrels").mkdir(parents=True)
        self.folder = folder
        self._corpus, self._queries = (
            (folder / name).open("w", encoding="utf-8") for name in ("corpus.jsonl", "queries.jsonl")
        )

    def passage(self, name: str, title: str, text: str) -> None:
        """Write a passage; ``name`` is its id."""
        _write_line(self._corpus, {"_id": name, "title": title, "text": text})

    def query(self, name: str, text: str, metadata: Mapping[str, Any] | None = None) -> None:
        """Write a query; ``name`` is its id."""
        _write_line(self._queries, {"_id": name, "text": text, **({"metadata": metadata} if metadata else {})})

    def judge(self, split: str, pairs: Iterable[tuple[str, str]]) -> None:
        """Write a split: pairs (id of a query, id of a passage that answers it), all of grade 1."""
        with (self.folder / "qrels" / f"{split}.tsv").open("w", encoding="utf-8") as file:
            file.write("\t".join(HEADER) + "\n")
            file.writelines(f"{query}\t{passage}\t1\n" for query, passage in pairs)

    def close(self) -> None:
        """Close the files."""
        self._corpus.close()
        self._queries.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _write_line(file: TextIO, record: dict[str, Any]) -> None:
    file.write(json.dumps(record, ensure_ascii=False) + "\n")
