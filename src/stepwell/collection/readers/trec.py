"""Files as TREC and MS MARCO publish them: ids in runs, and qrels of two to four columns without a header."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote, unquote

from stepwell.collection.readers.lines import BadLineError, parsed, read_lines, whole_grade
from stepwell.collection.source import Judgement, Report

_BLANK, _QUOTED = re.compile(r"\s"), re.compile(r"[\s%]")


def run_id(id: str, find: Callable[[str], int]) -> str:
    """Return an id as a field of a run, which ends at white space: an id that holds some is percent-encoded.

    Only white space and ``%`` are, so the rest can still be read; once more where another id reads like that.
    ``find`` gives the row of an id, -1 when there is none.

    >>> ids = ["my notes.md", "100%", "a b", "a%20b"]
    >>> [run_id(id, lambda field: ids.index(field) if field in ids else -1) for id in ids]
    ['my%20notes.md', '100%', 'a%2520b', 'a%20b']
    """
    if not _BLANK.search(id):
        return id
    field = id
    while field == id or find(field) >= 0:
        field = _QUOTED.sub(lambda found: quote(found[0]), field)
    return field


def own_id(field: str, find: Callable[[str], int]) -> str:
    """Return the id that a field of a run names: as it stands where it names one (or nothing does), else decoded."""
    if "%" not in field or find(field) >= 0:
        return field
    forms = [field]
    while (decoded := unquote(forms[-1])) != forms[-1]:
        forms.append(decoded)
    named = [form for form in forms if find(form) >= 0]
    return next(filter(_BLANK.search, named), named[0] if named else field)  # run_id encodes those with blanks alone


def read_qrels(path: Path, name: str, report: Report) -> Iterator[Judgement]:
    """Yield the judgements of a file; lines that can't be used are reported and left out.

    Four columns are query, an unused one, passage, grade; three are query, passage, grade; two are query and a
    passage that is relevant. A grade below 0 (spam, for NIST) counts as 0.
    """

    def judgement(number: int, line: str) -> Judgement:
        fields = line.split()
        if not 2 <= len(fields) <= 4:
            message = f"{line[:60]!r} is not a line of qrels: query, 0, passage and grade, with blanks or tabs between."
            raise BadLineError("columns", message)
        if len(fields) == 2:
            return Judgement(number, fields[0], fields[1], 1, name)
        below = fields[-1].startswith("-") and fields[-1][1:].isdecimal()
        return Judgement(number, fields[0], fields[-2], 0 if below else whole_grade(fields[-1]), name)

    return parsed(read_lines(path, name, report), name, report, judgement)
