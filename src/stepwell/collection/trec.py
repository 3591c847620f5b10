"""Read qrels as TREC and MS MARCO publish them: no header, two to four columns, blanks or tabs between."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from stepwell.collection.lines import read_lines
from stepwell.collection.source import BadLineError, Judgement, Problem, Report, whole_grade


def read_qrels(path: Path, name: str, report: Report) -> Iterator[Judgement]:
    """Yield the judgements of a file; lines that can't be used are reported and left out.

    Four columns are query, an unused one, passage, grade; three are query, passage, grade; two are query and a
    passage that is relevant. A grade below 0 (spam, for NIST) counts as 0.
    """
    for number, line in read_lines(path, name, report):
        try:
            yield Judgement(number, *_judgement(line), name)
        except BadLineError as bad:
            report(Problem("error", name, number, bad.code, str(bad)))


def _judgement(line: str) -> tuple[str, str, int]:
    fields = line.split()
    if not 2 <= len(fields) <= 4:
        message = f"{line[:60]!r} is not a line of qrels: query, 0, passage and grade, with blanks or tabs between."
        raise BadLineError("columns", message)
    if len(fields) == 2:
        return fields[0], fields[1], 1
    grade = fields[-1]
    if grade.startswith("-") and grade[1:].isdecimal():
        grade = "0"
    return fields[0], fields[-2], whole_grade(grade)
