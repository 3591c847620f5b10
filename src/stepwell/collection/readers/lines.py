"""Read the lines, rows, records and fields of files; what can't be read is reported with its file and line."""

import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

from stepwell.collection.source import Kind, Problem, Report, ignore

LONGEST = 1 << 26  # characters of a record; what is longer is a file in which a bracket or a quote is not closed
_CHUNK = 1 << 20
_OPENING, _BETWEEN = re.compile(r"\s*\["), re.compile(r"[\s,]*")

Row = TypeVar("Row")
Parsed = TypeVar("Parsed")


class BadLineError(ValueError):
    """A line that can't be used: code and message of the problem."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def find_file(directory: Path, names: Sequence[str], report: Report = ignore, folder: str = "") -> Path | None:
    """Return the file with one of the names, or with ``.gz`` behind it; two at once are worth a warning.

    ``folder`` stands in front of the name in messages.
    """
    found = [file for name in names for file in (directory / name, directory / f"{name}.gz") if file.is_file()]
    if len(found) > 1:
        packed = found[1].name == f"{found[0].name}.gz"
        read, other = ("the plain file", "one of the two") if packed else ("only the first", "the others")
        beside = ", ".join(file.name for file in found[1:])
        message = f"stands beside {beside}; {read} is read. Remove {other} to be sure which counts."
        report(Problem("warning", f"{folder}{found[0].name}", None, "file-twice", message))
    return found[0] if found else None


def named_files(directory: Path, report: Report, folder: str = "") -> dict[str, Path]:
    """Return the files of a directory by name without ``.gz``, in order; the plain one of two; {} without one."""
    there = directory.iterdir() if directory.is_dir() else ()
    names = sorted({file.name.removesuffix(".gz") for file in there if file.is_file()})
    return {name: file for name in names if (file := find_file(directory, [name], report, folder)) is not None}


def open_bytes(path: Path) -> BinaryIO:
    """Open a plain or gzipped file."""
    return gzip.open(path) if path.suffix == ".gz" else path.open("rb")  # type: ignore[return-value]


def read_lines(path: Path, name: str, report: Report, blanks: bool = False) -> Iterator[tuple[int, str]]:
    """Yield (line number from 1, line) of a plain or gzipped file; blank lines only when they are wanted."""
    for number, line in _decoded(path, name, report):
        if blanks or line.strip():
            yield number, line.rstrip("\r\n")


def _decoded(path: Path, name: str, report: Report) -> Iterator[tuple[int, str]]:
    number = 0
    try:
        with open_bytes(path) as file:
            for number, raw in enumerate(file, start=1):
                try:
                    yield number, raw.decode("utf-8-sig" if number == 1 else "utf-8")
                except UnicodeDecodeError as error:
                    byte = f"byte {error.start + 1} of the line is 0x{raw[error.start]:02x}"
                    message = f"is not UTF-8 ({byte}); convert the file to UTF-8."
                    report(Problem("error", name, number, "encoding", message))
    except (EOFError, OSError, zlib.error) as error:
        what = "the file is cut off or damaged" if path.suffix == ".gz" else "the file can't be read"
        message = f"{what} after line {number} ({error}); what follows is lost. Copy or download it again."
        report(Problem("error", name, number + 1, "unreadable", message))


def read_quoted(path: Path, name: str, delimiter: str, report: Report) -> Iterator[tuple[int, list[str]]]:
    """Yield (line number, fields) of a file with CSV quotes; a field may go over several lines."""
    at = 0

    def lines() -> Iterator[str]:
        nonlocal at
        for at, line in _decoded(path, name, report):  # noqa: B007 (the loop below reads it)
            yield line

    csv.field_size_limit(LONGEST)
    begin = 1
    try:
        for fields in csv.reader(lines(), delimiter=delimiter, strict=True):
            if any(fields):
                yield begin, fields
            begin = at + 1
    except csv.Error as error:
        message = (
            f"can't be read as fields with {delimiter!r} between ({error}), so what follows is lost; a "
            "quotation mark that opens a field must close it, and one within it is doubled."
        )
        report(Problem("error", name, begin, "quotes", message))


def read_array(path: Path, name: str, report: Report) -> Iterator[tuple[int, Any]]:
    """Yield (line number, record) of a file that is one JSON array, with one record at a time in memory."""
    decoder, line = json.JSONDecoder(), 1
    try:
        with io.TextIOWrapper(open_bytes(path), encoding="utf-8-sig") as file:
            text = file.read(_CHUNK)
            opening = _OPENING.match(text)
            if opening is None:
                raise ValueError("it does not begin with `[`")
            at, seen = opening.end(), 0
            while True:
                at = cast(re.Match[str], _BETWEEN.match(text, at)).end()
                line, seen = line + text.count("\n", seen, at), at
                if text.startswith("]", at):
                    return
                try:
                    record, at = decoder.raw_decode(text, at)
                except (ValueError, RecursionError):
                    length = len(text) - at
                    more = file.read(max(_CHUNK, length)) if length < LONGEST else ""
                    if not more:
                        raise
                    text, at, seen = text[at:] + more, 0, 0
                else:
                    yield line, record
    except (EOFError, OSError, zlib.error, ValueError, RecursionError) as error:
        message = f"can't be read as the next record of a JSON array ({error}); what follows is lost."
        report(Problem("error", name, line, "json", message))


def parsed(
    rows: Iterable[tuple[int, Row]], name: str, report: Report, parse: Callable[[int, Row], Parsed]
) -> Iterator[Parsed]:
    """Yield what ``parse`` makes of each (line, row); where it raises BadLineError, the line is reported instead."""
    for line, row in rows:
        try:
            found = parse(line, row)
        except BadLineError as bad:
            report(Problem("error", name, line, bad.code, str(bad)))
        else:
            yield found


def read_record(line: str) -> dict[str, Any]:
    """Return the JSON object that a line holds; BadLineError when it holds none."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise BadLineError("json", f"is not valid JSON ({error}); each line must hold one whole object.") from None
    if not isinstance(record, dict):
        raise BadLineError("json", f"holds a {type(record).__name__}, not an object with _id and text.")
    return record


def read_field(record: dict[str, Any], key: str, kind: str, *, required: bool = True, number: bool = False) -> str:
    """Return a field of a record as text, or raise BadLineError; with ``number``, 17 is taken for "17"."""
    value = record.get(key)
    if value is None and not required:
        return ""
    if number and isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        found = f"is missing (there are {', '.join(map(repr, record)) or 'no keys'})"
        if key in record:
            found = f"is {json.dumps(value, default=str)[:40]}"
        raise BadLineError("field", f"the {kind}'s {key!r} {found}; it must be a string.")
    if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
        half = "half of a surrogate pair (\\ud800 to \\udfff), which is no text; escape or remove it"
        raise BadLineError("encoding", f"the {kind}'s {key!r} holds {half}.")
    return value


def checked_id(name: str, kind: Kind) -> str:
    """Return an id that qrels and runs can name; BadLineError when it is empty or holds a tab or a line break."""
    if not name.strip() or "\t" in name or "\r" in name or "\n" in name:
        why = "is empty or holds a tab or line break, so qrels can't name it"
        raise BadLineError("id", f"the id {name!r} {why}; give the {kind} another.")
    return name


def whole_grade(text: str) -> int:
    """Return a grade, a whole number of 0 or more; BadLineError when it is none."""
    try:
        grade = float(text)
        is_whole = grade == int(grade)
    except (ValueError, OverflowError):
        message = f"the grade {text!r} is not a number; write 0 for not relevant, 1 or more for relevant."
        raise BadLineError("grade", message) from None
    if grade < 0:
        raise BadLineError("grade", f"the grade {text} is negative; write 0 for not relevant.")
    if not is_whole or grade > 2**31 - 1:
        whole = "a whole number (below two thousand million); scale the grades so that they are"
        raise BadLineError("grade", f"the grade {text} is not {whole}.")
    return int(grade)
