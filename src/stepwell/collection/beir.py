"""Read a BEIR directory, line by line: every mistake is reported with its file and line.

The layout: ``corpus.jsonl`` ({_id, title, text}), ``queries.jsonl`` ({_id, text}), both also as ``.gz``, and
``qrels/<split>.tsv`` with the header ``query-id  corpus-id  score`` (tabs between).
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple

HEADER = ("query-id", "corpus-id", "score")


@dataclass(frozen=True)
class Problem:
    """Something wrong in a collection; an error stops a run, a warning does not."""

    severity: Literal["error", "warning"]
    file: str
    line: int | None
    code: str
    message: str

    def __str__(self) -> str:
        return f"{self.file}{'' if self.line is None else f':{self.line}'}: {self.message}"


Report = Callable[[Problem], None]


class Text(NamedTuple):
    """One passage or query, as read."""

    line: int
    id: str
    title: str
    text: str

    @property
    def joined(self) -> str:
        """Title and text in one string, as BEIR joins them."""
        return f"{self.title} {self.text}".strip()


class Judgement(NamedTuple):
    """One line of a qrels file, as read."""

    line: int
    query: str
    passage: str
    grade: int


class _BadLineError(ValueError):
    """A line that can't be used: code and message of the problem."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class Sources:
    """The files of a collection; None where there is none."""

    corpus: Path | None
    queries: Path | None
    qrels: tuple[Path, ...]

    @property
    def files(self) -> tuple[Path, ...]:
        """All files that exist, in a fixed order."""
        return tuple(file for file in (self.corpus, self.queries, *self.qrels) if file is not None)


def find_sources(directory: Path, report: Report) -> Sources:
    """Find the files of a collection, and report those that are missing."""

    def texts(stem: str, holds: str) -> Path | None:
        found = [file for file in (directory / f"{stem}.jsonl", directory / f"{stem}.jsonl.gz") if file.is_file()]
        if not found:
            message = (
                f"there is no {stem}.jsonl (nor {stem}.jsonl.gz) in {directory}; write one line of JSON for "
                f"each {holds}."
            )
            report(Problem("error", f"{stem}.jsonl", None, "file-missing", message))
        elif len(found) == 2:
            message = (
                f"stands beside {stem}.jsonl.gz; the plain file is read. Remove one of the two to be sure which counts."
            )
            report(Problem("warning", f"{stem}.jsonl", None, "file-twice", message))
        return found[0] if found else None

    if not directory.is_dir():
        message = (
            f"{directory} is not a directory; a collection is a BEIR directory with corpus.jsonl, "
            "queries.jsonl and qrels/."
        )
        report(Problem("error", str(directory), None, "directory-missing", message))
        return Sources(None, None, ())
    corpus = texts("corpus", 'passage: {"_id": ..., "title": ..., "text": ...}')
    queries = texts("queries", 'query: {"_id": ..., "text": ...}')
    qrels = tuple(sorted((directory / "qrels").glob("*.tsv")))
    if not qrels:
        message = (
            f"there is no qrels/<split>.tsv in {directory}, so nothing says which passage answers which "
            "query; at least train.tsv is needed."
        )
        report(Problem("error", "qrels", None, "file-missing", message))
    return Sources(corpus, queries, qrels)


def read_lines(path: Path, name: str, report: Report) -> Iterator[tuple[int, str]]:
    """Yield (line number from 1, line) of a plain or gzipped file; blank lines are passed over."""
    number = 0
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            for number, raw in enumerate(_raw_lines(file), start=1):
                try:
                    line = raw.decode("utf-8-sig" if number == 1 else "utf-8")
                except UnicodeDecodeError as error:
                    message = (
                        f"is not UTF-8 (byte {error.start + 1} of the line is 0x{raw[error.start]:02x}); "
                        "convert the file to UTF-8."
                    )
                    report(Problem("error", name, number, "encoding", message))
                    continue
                if line.strip():
                    yield number, line.rstrip("\r\n")
    except (EOFError, OSError, zlib.error) as error:
        what = "the file is cut off or damaged" if path.suffix == ".gz" else "the file can't be read"
        message = f"{what} after line {number} ({error}); what follows is lost. Copy or download it again."
        report(Problem("error", name, number + 1, "unreadable", message))


def _raw_lines(file: BinaryIO | gzip.GzipFile) -> Iterator[bytes]:
    yield from file


def read_texts(path: Path, name: str, kind: Literal["passage", "query"], report: Report) -> Iterator[Text]:
    """Yield the passages or queries of a file; lines that can't be used are reported and left out."""
    for number, line in read_lines(path, name, report):
        try:
            text = _text(line, number, kind)
        except _BadLineError as bad:
            report(Problem("error", name, number, bad.code, str(bad)))
            continue
        if not text.joined:
            if kind == "query":
                message = (
                    f"the query {text.id!r} has no text, so nothing can be found for it; remove it here and "
                    "from the qrels."
                )
                report(Problem("error", name, number, "text-empty", message))
                continue
            message = f"the passage {text.id!r} has neither title nor text; it can never be found by its content."
            report(Problem("warning", name, number, "text-empty", message))
        yield text


def _text(line: str, number: int, kind: str) -> Text:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise _BadLineError("json", f"is not valid JSON ({error}); each line must hold one whole object.") from None
    if not isinstance(record, dict):
        raise _BadLineError("json", f"holds a {type(record).__name__}, not an object with _id and text.")
    name = _field(record, "_id", kind, required=True)
    if not name.strip() or any(character in name for character in "\t\r\n"):
        raise _BadLineError(
            "id",
            f"the id {name!r} is empty or holds a tab or line break, so qrels can't name it; give the {kind} another.",
        )
    title = _field(record, "title", kind, required=False)
    return Text(number, name, title if kind == "passage" else "", _field(record, "text", kind, required=True))


def _field(record: dict[str, Any], key: str, kind: str, *, required: bool) -> str:
    value = record.get(key)
    if value is None and not required:
        return ""
    if key == "_id" and isinstance(value, int) and not isinstance(value, bool):
        value = str(value)  # {"_id": 17} is common, and means "17" in the qrels
    if not isinstance(value, str):
        found = (
            f"is {json.dumps(value)[:40]}"
            if key in record
            else f"is missing (there are {', '.join(map(repr, record)) or 'no keys'})"
        )
        raise _BadLineError("field", f"the {kind}'s {key!r} {found}; it must be a string.")
    if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
        raise _BadLineError(
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
            yield Judgement(number, *_judgement(parts, line))
        except _BadLineError as bad:
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
        raise _BadLineError("columns", f"{line[:60]!r} is not query-id, corpus-id and score with tabs between.{hint}")
    try:
        grade = float(parts[2])
        whole = grade == int(grade)
    except (ValueError, OverflowError):
        raise _BadLineError(
            "grade",
            f"the grade {parts[2]!r} is not a number; write 0 for not relevant, 1 or more for relevant.",
        ) from None
    if grade < 0:
        raise _BadLineError("grade", f"the grade {parts[2]} is negative; write 0 for not relevant.")
    if not whole or grade > 2**31 - 1:
        raise _BadLineError(
            "grade",
            f"the grade {parts[2]} is not a whole number (below two thousand million); scale the grades so "
            "that they are.",
        )
    return parts[0], parts[1], int(grade)
