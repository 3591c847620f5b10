"""Read tables of passages, queries and judgements: JSONL, TSV, CSV or Parquet, with named columns.

The files are told by their names: ``passages.csv``, ``queries.csv``, ``qrels.train.csv`` and so on, see ``STEMS``;
the columns by theirs, see ``COLUMNS``, or by the recipe's ``collection.columns``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from stepwell.collection.readers import trec
from stepwell.collection.readers.beir import read_field, read_record
from stepwell.collection.readers.lines import find_file, named_files, read_lines, read_quoted
from stepwell.collection.source import (
    BadLineError,
    Join,
    Judgement,
    Kind,
    Problem,
    Report,
    Source,
    Text,
    checked_id,
    stamp_files,
    whole_grade,
    with_content,
)

STEMS: dict[Kind, tuple[str, ...]] = {
    "passage": ("passages", "corpus", "documents", "docs", "collection"),
    "query": ("queries", "questions", "topics"),
}
ENDINGS = ("jsonl", "tsv", "csv", "parquet")
COLUMNS: dict[str, tuple[str, ...]] = {
    "passage.id": ("_id", "id", "pid", "docid", "doc_id", "docno", "passage_id", "corpus_id"),
    "passage.title": ("title", "headline"),
    "passage.text": ("text", "body", "passage", "contents", "content", "document"),
    "query.id": ("_id", "id", "qid", "query_id"),
    "query.text": ("text", "query", "question"),
    "qrels.query": ("query_id", "qid", "query", "topic"),
    "qrels.passage": ("corpus_id", "pid", "docid", "doc_id", "docno", "passage_id", "passage"),
    "qrels.grade": ("score", "grade", "relevance", "rel", "label"),
}
"""The names by which columns are found, the first one first; case and `-` for `_` make no difference."""

_QRELS = re.compile(rf"qrels([.\-_](?P<name>.+))?\.({'|'.join(ENDINGS)}|txt)")
_SPLIT = re.compile(rf"(?P<name>[^.].*)\.({'|'.join(ENDINGS)}|txt)")
_KINDS: tuple[Kind, Kind] = ("query", "passage")
_MAY_LACK = {"passage.title", "qrels.grade"}

Records = Iterable[tuple[int, dict[str, Any]]]
"""(line from 1, or row where a file has no lines; the fields by column)."""


def _names(kind: Kind) -> list[str]:
    return [f"{stem}.{ending}" for stem in STEMS[kind] for ending in ENDINGS]


def is_there(directory: Path) -> bool:
    """Tell whether a directory holds a table of passages."""
    return any((directory / f"{name}{end}").is_file() for name in _names("passage") for end in ("", ".gz"))


class Tables(Source):
    """A directory of tables; what is missing is reported."""

    def __init__(self, directory: Path, join: Join, columns: Mapping[str, str], report: Report) -> None:
        self.name, self.home, self.join, self.columns = directory.name, directory, join, columns
        self._texts: dict[Kind, Path | None] = {kind: find_file(directory, _names(kind), report) for kind in STEMS}
        self._qrels: dict[str, Path] = {}
        for name, file in named_files(directory, report).items():
            if found := _QRELS.fullmatch(name):
                self._add_qrels(found["name"] or "train", file, report)
        if (directory / "qrels").is_dir():
            for name, file in named_files(directory / "qrels", report, "qrels/").items():
                if found := _SPLIT.fullmatch(name):
                    self._add_qrels(found["name"], file, report)
        for kind, there in self._texts.items():
            if there is None:
                message = f"there is no table of that name in {directory}, nor {', '.join(STEMS[kind][1:])}."
                report(Problem("error", f"{STEMS[kind][0]} ({', '.join(ENDINGS)})", None, "file-missing", message))
        if not self._qrels:
            message = f"there is no qrels.SPLIT.ENDING and no qrels/SPLIT.ENDING ({', '.join(ENDINGS)}) in {directory}."
            report(Problem("error", "qrels", None, "file-missing", message))

    def _add_qrels(self, split: str, file: Path, report: Report) -> None:
        if split in self._qrels:
            message = f"is for the split {split} as {self.splits[split]} is; move one of the two away."
            report(Problem("error", file.relative_to(self.home).as_posix(), None, "file-twice", message))
        self._qrels.setdefault(split, file)

    def stamp(self) -> dict[str, Any]:
        """Return sizes and times of the files."""
        return stamp_files(self.home, [*(file for file in self._texts.values() if file), *self._qrels.values()])

    def label(self, kind: Kind) -> str:
        """Return the name of the file."""
        file = self._texts[kind]
        return STEMS[kind][0] if file is None else file.name

    def texts(self, kind: Kind, report: Report) -> Iterator[Text]:
        """Yield the passages or queries; rows that can't be used are reported and left out."""
        file = self._texts[kind]
        if file is None:
            return iter(())
        records = read_table(file, file.name, report)
        found = read_texts(records, kind, file.name, self.columns, self.join, report)
        return with_content(found, kind, file.name, report)

    @property
    def splits(self) -> dict[str, str]:
        """The files of judgements."""
        return {name: file.relative_to(self.home).as_posix() for name, file in self._qrels.items()}

    def judgements(self, split: str, report: Report) -> Iterator[Judgement]:
        """Yield the judgements of a split; ``.txt`` is read as TREC's qrels."""
        file, name = self._qrels[split], self.splits[split]
        if file.name.removesuffix(".gz").endswith(".txt"):
            return trec.read_qrels(file, name, report)
        return read_judgements(read_table(file, name, report), name, self.columns, report)


def read_table(path: Path, name: str, report: Report) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the rows of a table with their line, or with their number from 1 in Parquet."""
    ending = path.name.removesuffix(".gz").rpartition(".")[2]
    if ending == "jsonl":
        for number, line in read_lines(path, name, report):
            try:
                yield number, read_record(line)
            except BadLineError as bad:
                report(Problem("error", name, number, bad.code, str(bad)))
    elif ending == "parquet":
        yield from _read_parquet(path, name, report)
    else:
        tabs = ((number, line.split("\t")) for number, line in read_lines(path, name, report))
        rows = tabs if ending == "tsv" else read_quoted(path, name, ",", report)
        header: list[str] = []
        for number, fields in rows:
            if not header:
                header = [field.strip() for field in fields]
                if len(header) == 1 and ";" in header[0]:
                    message = f"has semicolons between columns: {header[0][:80]!r}. Save it with commas, or as .tsv."
                    report(Problem("error", name, number, "columns", message))
                    return
            elif len(fields) != len(header):
                message = f"has {len(fields)} columns, and the header {len(header)}: {', '.join(header)}."
                report(Problem("error", name, number, "columns", message))
            else:
                yield number, dict(zip(header, fields, strict=True))


def _read_parquet(path: Path, name: str, report: Report) -> Iterator[tuple[int, dict[str, Any]]]:
    number = 0
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=1024):
                for number, record in enumerate(batch.to_pylist(), start=number + 1):  # noqa: B020
                    yield number, record
    except (OSError, pa.ArrowException) as error:
        report(Problem("error", name, None, "unreadable", f"can't be read as Parquet ({error}); copy it again."))


def find_column(role: str, there: Iterable[str], named: Mapping[str, str]) -> str | None:
    """Return the column for a role of ``COLUMNS``: as named in the recipe, else by its name.

    Raises
    ------
    BadLineError
        When it is named and not there, or not there and needed.
    """
    columns = list(there)
    shown = ", ".join(columns)[:200]
    if role in named:
        if named[role] not in columns:
            text = f"has no column {named[role]!r}, which the recipe's `collection.columns` names as {role}"
            raise BadLineError("columns", f"{text}; there are {shown}.")
        return named[role]
    lower = {column.lower().replace("-", "_"): column for column in reversed(columns)}
    found = next((lower[name] for name in COLUMNS[role] if name in lower), None)
    if found is None and role not in _MAY_LACK:
        message = (
            f"has no column for {role} (there are {shown}; looked for was {', '.join(COLUMNS[role])}); "
            f"name it in the recipe: `collection: {{columns: {{{role}: ...}}}}`."
        )
        raise BadLineError("columns", message)
    return found


def read_texts(
    records: Records, kind: Kind, file: str, named: Mapping[str, str], join: Join, report: Report
) -> Iterator[Text]:
    """Yield the texts of a table; rows that can't be used are reported and left out."""
    columns: dict[str, str | None] = {}
    roles = [role for role in COLUMNS if role.startswith(kind)]
    for number, record in records:
        try:
            columns = columns or {role.partition(".")[2]: find_column(role, record, named) for role in roles}
            values = {
                part: read_field(record, column, kind, required=part != "title", number=part == "id")
                for part, column in columns.items()
                if column is not None
            }
            name = checked_id(values["id"], kind)
        except BadLineError as bad:
            report(Problem("error", file, number, bad.code, str(bad)))
            if not columns:
                return
            continue
        more = {key: value for key, value in record.items() if isinstance(value, str)} if join.template else {}
        yield Text(number, name, values.get("title", ""), values["text"], file, more)


def read_judgements(records: Records, file: str, named: Mapping[str, str], report: Report) -> Iterator[Judgement]:
    """Yield the judgements of a table; without a column of grades, every row is a relevant passage."""
    columns: list[str | None] = []
    for number, record in records:
        try:
            roles = ("qrels.query", "qrels.passage", "qrels.grade")
            columns = columns or [find_column(role, record, named) for role in roles]
            query, passage = (
                checked_id(read_field(record, str(at), "judgement", required=True, number=True), kind)
                for at, kind in zip(columns[:2], _KINDS, strict=True)
            )
            grade = 1 if columns[2] is None else whole_grade(str(record.get(columns[2])))
            yield Judgement(number, query, passage, grade, file)
        except BadLineError as bad:
            report(Problem("error", file, number, bad.code, str(bad)))
            if not columns:
                return
