"""Read tables of passages, queries and judgements: JSONL, TSV, CSV or Parquet, with named columns.

The files are known by their names: ``passages.csv``, ``queries.csv``, ``qrels.train.csv`` and so on, see ``STEMS``;
the columns by theirs, see ``COLUMNS``, or by the recipe's ``collection.columns``.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from stepwell.collection.readers import trec
from stepwell.collection.readers.lines import (
    BadLineError,
    checked_id,
    find_file,
    named_files,
    parsed,
    read_field,
    read_lines,
    read_quoted,
    read_record,
    whole_grade,
)
from stepwell.collection.source import Judgement, Kind, Problem, Report, Source, Text, ignore

STEMS: dict[Kind, tuple[str, ...]] = {
    "passage": ("passages", "corpus", "documents", "docs", "collection"),
    "query": ("queries", "questions", "topics"),
}
ENDINGS = ("jsonl", "tsv", "csv", "parquet")
# The names by which columns are found, the first one first; case and `-` for `_` make no difference.
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
SIGN = f"a table of passages ({', '.join(STEMS['passage'])} with the ending {', '.join(ENDINGS)})"

_QRELS = re.compile(rf"qrels(([.\-_]|/(?!\.))(?P<split>.+))?\.({'|'.join(ENDINGS)}|txt)")
_MAY_LACK = {"passage.title", "qrels.grade"}

Row = dict[str, Any]
Records = Iterable[tuple[int, Row]]  # (line from 1, or row where a file has no lines; the fields by column)
Columns = dict[str, str | None]  # the column of each role, None for one that may lack
Parsed = TypeVar("Parsed")
Parse = Callable[[int, Row, Columns], Parsed]


def find_table(directory: Path, kind: Kind, report: Report = ignore) -> Path | None:
    """Return the table of passages or of queries in a directory."""
    return find_file(directory, [f"{stem}.{ending}" for stem in STEMS[kind] for ending in ENDINGS], report)


class Tables(Source):
    """A directory of tables; what is missing is reported."""

    def find(self, report: Report) -> None:
        """Find the files."""
        for kind, stems in STEMS.items():
            file = find_table(self.home, kind, report)
            self.files[kind], self.labels[kind] = ([file], file.name) if file else ([], stems[0])
        files = named_files(self.home, report)
        files |= {f"qrels/{name}": file for name, file in named_files(self.home / "qrels", report, "qrels/").items()}
        self.qrels = self.split_files(files, _QRELS, report)
        for kind, stems in STEMS.items():
            if not self.files[kind]:
                message = f"there is no table of that name in {self.home}, nor {', '.join(stems[1:])}."
                report(Problem("error", f"{stems[0]} ({', '.join(ENDINGS)})", None, "file-missing", message))
        if not self.qrels:
            message = f"there is no qrels.SPLIT.ENDING and no qrels/SPLIT.ENDING ({', '.join(ENDINGS)}) in {self.home}."
            report(Problem("error", "qrels", None, "file-missing", message))

    def read(self, kind: Kind, report: Report) -> Iterator[Text] | None:
        """Yield the passages or queries."""
        for file in self.files[kind]:
            return read_texts(self, read_table(file, file.name, report), kind, file.name, report)
        return None

    def judgements(self, split: str, report: Report) -> Iterator[Judgement]:
        """Yield the judgements of a split; ``.txt`` is read as TREC's qrels."""
        file, name = self.qrels[split], self.splits[split]
        if file.name.removesuffix(".gz").endswith(".txt"):
            return trec.read_qrels(file, name, report)
        return read_judgements(self, read_table(file, name, report), name, report)


def read_table(path: Path, name: str, report: Report) -> Iterator[tuple[int, Row]]:
    """Yield the rows of a table with their line, or with their number from 1 in Parquet."""
    ending = path.name.removesuffix(".gz").rpartition(".")[2]
    if ending == "jsonl":
        return parsed(read_lines(path, name, report), name, report, lambda number, line: (number, read_record(line)))
    if ending == "parquet":
        return _read_parquet(path, name, report)
    if ending == "tsv":
        tabs = ((number, line.split("\t")) for number, line in read_lines(path, name, report))
        return _with_header(tabs, name, report)
    return _with_header(read_quoted(path, name, ",", report), name, report)


def _with_header(rows: Iterator[tuple[int, list[str]]], name: str, report: Report) -> Iterator[tuple[int, Row]]:
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


def _read_parquet(path: Path, name: str, report: Report) -> Iterator[tuple[int, Row]]:
    number = 0
    try:
        with pq.ParquetFile(path) as file:
            columns = [field.name for field in file.schema_arrow if not is_vector(field.type)]
            for batch in file.iter_batches(batch_size=1024, columns=columns):
                for number, record in enumerate(batch.to_pylist(), start=number + 1):  # noqa: B020
                    yield number, record
    except (OSError, pa.ArrowException) as error:
        report(Problem("error", name, None, "unreadable", f"can't be read as Parquet ({error}); copy it again."))


def is_vector(kind: pa.DataType) -> bool:
    """Return whether a column holds lists of numbers: no text, and costly to read."""
    listed = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return bool(listed and (pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type)))


def _find_column(role: str, there: Iterable[str], named: Mapping[str, str]) -> str | None:
    """Return the column for a role of ``COLUMNS``: as named in the recipe, else by its name."""
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


def _read_rows(
    source: Source, records: Records, group: str, file: str, report: Report, parse: Parse[Parsed]
) -> Iterator[Parsed]:
    """Yield what ``parse`` makes of each row and the columns of a group of roles; without these, nothing."""
    columns: Columns = {}
    roles = {role.partition(".")[2]: role for role in COLUMNS if role.startswith(f"{group}.")}
    for number, record in records:
        try:
            columns = columns or {part: _find_column(role, record, source.column_names) for part, role in roles.items()}
            yield parse(number, record, columns)
        except BadLineError as bad:
            report(Problem("error", file, number, bad.code, str(bad)))
            if not columns:
                return


def read_texts(source: Source, records: Records, kind: Kind, file: str, report: Report) -> Iterator[Text]:
    """Yield the texts of a table; rows that can't be used are reported and left out."""

    def text(number: int, record: Row, columns: Columns) -> Text:
        values = {
            part: read_field(record, column, kind, required=part != "title", number=part == "id")
            for part, column in columns.items()
            if column is not None
        }
        more = {key: value for key, value in record.items() if isinstance(value, str)} if source.join.template else {}
        return Text(number, checked_id(values["id"], kind), values.get("title", ""), values["text"], file, more)

    return _read_rows(source, records, kind, file, report, text)


def read_judgements(source: Source, records: Records, file: str, report: Report) -> Iterator[Judgement]:
    """Yield the judgements of a table; without a column of grades, every row is a relevant passage."""

    def judgement(number: int, record: Row, columns: Columns) -> Judgement:
        fields = {kind: read_field(record, str(columns[kind]), "judgement", number=True) for kind in STEMS}
        passage, query = (checked_id(field, kind) for kind, field in fields.items())
        grade = 1 if columns["grade"] is None else whole_grade(str(record.get(columns["grade"])))
        return Judgement(number, query, passage, grade, file)

    return _read_rows(source, records, "qrels", file, report, judgement)
