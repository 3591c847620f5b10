"""Read a BEIR directory, line by line: every mistake is reported with its file and line.

The layout: ``corpus.jsonl`` ({_id, title, text}), ``queries.jsonl`` ({_id, text}) and ``qrels/<split>.tsv`` with the
header ``query-id  corpus-id  score`` (tabs between), each also as ``.gz``. A query with the metadata
``{"synthetic": true}`` was made from a passage.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stepwell.collection.readers.lines import find_file, named_files, read_lines
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

HEADER = ("query-id", "corpus-id", "score")
STEMS: dict[Kind, str] = {"passage": "corpus", "query": "queries"}


class Beir(Source):
    """A BEIR directory; what is missing is reported."""

    def __init__(self, directory: Path, report: Report, join: Join | None = None) -> None:
        self.name, self.home, self.join = directory.name, directory, join or Join()
        self._texts: dict[Kind, Path | None] = {"passage": None, "query": None}
        self._qrels: dict[str, Path] = {}
        if not directory.is_dir():
            message = (
                f"{directory} is not a directory; a collection is a BEIR directory with corpus.jsonl, "
                "queries.jsonl and qrels/."
            )
            report(Problem("error", str(directory), None, "directory-missing", message))
            return
        self._texts["passage"] = self._find("corpus", 'passage: {"_id": ..., "title": ..., "text": ...}', report)
        self._texts["query"] = self._find("queries", 'query: {"_id": ..., "text": ...}', report)
        folder = directory / "qrels"
        files = named_files(folder, report, "qrels/") if folder.is_dir() else {}
        self._qrels = {name.removesuffix(".tsv"): file for name, file in files.items() if name.endswith(".tsv")}
        if not self._qrels:
            message = (
                f"there is no qrels/<split>.tsv (nor .tsv.gz) in {directory}, so nothing says which passage answers "
                "which query; at least train.tsv is needed."
            )
            report(Problem("error", "qrels", None, "file-missing", message))

    def _find(self, stem: str, holds: str, report: Report) -> Path | None:
        found = find_file(self.home, [f"{stem}.jsonl"], report)
        if found is None:
            message = (
                f"there is no {stem}.jsonl (nor {stem}.jsonl.gz) in {self.home}; write one line of JSON for "
                f"each {holds}."
            )
            report(Problem("error", f"{stem}.jsonl", None, "file-missing", message))
        return found

    def stamp(self) -> dict[str, Any]:
        """Return sizes and times of the files."""
        texts = [file for file in self._texts.values() if file is not None]
        return stamp_files(self.home, [*texts, *self._qrels.values()])

    def label(self, kind: Kind) -> str:
        """Return the name of the file."""
        file = self._texts[kind]
        return f"{STEMS[kind]}.jsonl" if file is None else file.name

    def texts(self, kind: Kind, report: Report) -> Iterator[Text]:
        """Yield the passages or queries; lines that can't be used are reported and left out."""
        file = self._texts[kind]
        if file is None:
            return iter(())
        return with_content(read_texts(file, file.name, kind, report), kind, file.name, report)

    @property
    def splits(self) -> dict[str, str]:
        """The files in qrels/."""
        return {name: f"qrels/{file.name}" for name, file in self._qrels.items()}

    def judgements(self, split: str, report: Report) -> Iterator[Judgement]:
        """Yield the judgements of a split; lines that can't be used are reported and left out."""
        return read_qrels(self._qrels[split], self.splits[split], report)


def read_texts(path: Path, name: str, kind: Kind, report: Report) -> Iterator[Text]:
    """Yield the passages or queries of a file; lines that can't be used are reported and left out."""
    for number, line in read_lines(path, name, report):
        try:
            yield _text(line, number, kind, name)
        except BadLineError as bad:
            report(Problem("error", name, number, bad.code, str(bad)))


def _text(line: str, number: int, kind: Kind, file: str) -> Text:
    record = read_record(line)
    name = checked_id(read_field(record, "_id", kind, required=True, number=True), kind)
    title = read_field(record, "title", kind, required=False) if kind == "passage" else ""
    text = read_field(record, "text", kind, required=True)
    metadata = record.get("metadata") if kind == "query" else None
    synthetic = isinstance(metadata, dict) and metadata.get("synthetic") is True
    return Text(number, name, title, text, file, synthetic=synthetic)


def read_record(line: str) -> dict[str, Any]:
    """Return the JSON object that a line holds.

    Raises
    ------
    BadLineError
        When it holds none.
    """
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise BadLineError("json", f"is not valid JSON ({error}); each line must hold one whole object.") from None
    if not isinstance(record, dict):
        raise BadLineError("json", f"holds a {type(record).__name__}, not an object with _id and text.")
    return record


def read_field(record: dict[str, Any], key: str, kind: str, *, required: bool, number: bool = False) -> str:
    """Return a field of a record as text; with ``number``, 17 is taken for "17", as qrels spell it.

    Raises
    ------
    BadLineError
        When it is missing, of another type or no text.
    """
    value = record.get(key)
    if value is None and not required:
        return ""
    if number and isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        found = (
            f"is {json.dumps(value, default=str)[:40]}"
            if key in record
            else f"is missing (there are {', '.join(map(repr, record)) or 'no keys'})"
        )
        raise BadLineError("field", f"the {kind}'s {key!r} {found}; it must be a string.")
    if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
        raise BadLineError(
            "encoding",
            f"the {kind}'s {key!r} holds half of a surrogate pair (\\ud800 to \\udfff), which is no text; "
            "escape or remove it.",
        )
    return value


def read_qrels(path: Path, name: str, report: Report) -> Iterator[Judgement]:
    """Yield the judgements of a file; lines that can't be used are reported and left out."""
    first = True
    for number, line in read_lines(path, name, report):
        parts = [part.strip() for part in line.split("\t")]
        if first:
            first = False
            if tuple(part.lower() for part in parts) == HEADER:
                continue
            if not _is_header(parts):
                message = (
                    f"the header is missing: the first line is {line[:60]!r}. Put the line "
                    f"{chr(9).join(HEADER)!r} in front (tabs between), or the first judgement is lost."
                )
                report(Problem("error", name, number, "header", message))
            elif len(parts) == 3:
                continue  # other words for the same three columns
        try:
            yield Judgement(number, *_judgement(parts, line), name)
        except BadLineError as bad:
            report(Problem("error", name, number, bad.code, str(bad)))


def _is_header(parts: list[str]) -> bool:
    return len(parts) == 3 and any(word in parts[2].lower() for word in ("score", "grade", "rel", "label"))


def _judgement(parts: list[str], line: str) -> tuple[str, str, int]:
    if len(parts) != 3 or not parts[0] or not parts[1]:
        hint = (
            " This looks like TREC qrels (query 0 passage grade): drop the second column."
            if len(line.split()) == 4
            else ""
        )
        raise BadLineError("columns", f"{line[:60]!r} is not query-id, corpus-id and score with tabs between.{hint}")
    return parts[0], parts[1], whole_grade(parts[2])
