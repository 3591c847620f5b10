"""Read MS MARCO, passages or documents, as it is published, with the topics and grades of TREC DL beside it.

Passages: ``collection.tsv``, ``queries.NAME.tsv``, ``qrels.NAME.tsv``. Documents: ``msmarco-docs.tsv``,
``msmarco-docNAME-queries.tsv``, ``msmarco-docNAME-qrels.tsv``. TREC DL: ``msmarco-testYEAR-queries.tsv`` and
``YEARqrels-pass.txt`` or ``YEARqrels-docs.txt``. All also as ``.gz``; no file has a header.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from stepwell.collection.readers import trec
from stepwell.collection.readers.lines import named_files, read_lines
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
    once,
    stamp_files,
    with_content,
)

DOCUMENT = "{url} {title} {text}"
"""How the fields of a document become its text."""

CHARACTERS = 10_000
"""What is kept of it: far more than models read, and a tenth of the longest documents."""

_TREC = "trec-dl-"
_COLUMNS = {"passage": ("pid", "passage"), "document": ("docid", "url", "title", "body")}
_TEXTS = {"passage": "collection.tsv", "document": "msmarco-docs.tsv"}
_QUERIES = {
    "passage": re.compile(r"queries\..+\.tsv|msmarco-test\d{4}-queries\.tsv"),
    "document": re.compile(r"(msmarco-doc.+|docleaderboard|msmarco-test\d{4})-queries\.tsv"),
}
_QRELS = {
    "passage": re.compile(r"qrels\.(?P<name>.+)\.(tsv|txt)|(?P<year>\d{4})qrels-pass\.txt"),
    "document": re.compile(r"msmarco-doc(?P<name>.+)-qrels\.tsv|(?P<year>\d{4})qrels-docs\.txt"),
}
_ASKED = {"passage": "queries.train.tsv", "document": "msmarco-doctrain-queries.tsv"}
_JUDGED = {"passage": "qrels.train.tsv", "document": "msmarco-doctrain-qrels.tsv"}


class MsMarco(Source):
    """A directory with MS MARCO's files; what is missing is reported."""

    def __init__(self, task: Literal["passage", "document"], directory: Path, join: Join, report: Report) -> None:
        self.name, self.home, self.join, self.task = directory.name, directory, join, task
        files = named_files(directory, report)
        self._passages = files.get(_TEXTS[task])
        self._queries = {name: file for name, file in files.items() if _QUERIES[task].fullmatch(name)}
        self._qrels: dict[str, Path] = {}
        for name, file in files.items():
            if found := _QRELS[task].fullmatch(name):
                self._qrels[found["name"] or f"{_TREC}{found['year']}"] = file
        wanted = {_TEXTS[task]: self._passages, _ASKED[task]: self._queries, _JUDGED[task]: self._qrels}
        for name, there in wanted.items():
            if not there:
                message = f"there is no {name} (nor {name}.gz, nor one for another split) in {directory}."
                report(Problem("error", name, None, "file-missing", message))

    def stamp(self) -> dict[str, Any]:
        """Return sizes and times of the files."""
        passages = [self._passages] if self._passages else []
        return stamp_files(self.home, [*passages, *self._queries.values(), *self._qrels.values()])

    def label(self, kind: Kind) -> str:
        """Return the name of the file, or of all files with queries."""
        return _TEXTS[self.task] if kind == "passage" else ", ".join(self._queries)

    def texts(self, kind: Kind, report: Report) -> Iterator[Text]:
        """Yield the passages, or the queries of all files; what several files share is yielded once."""
        if kind == "passage":
            found = read_columns(self._passages, _COLUMNS[self.task], kind, report) if self._passages else iter(())
            return with_content(found, kind, self.label(kind), report)
        files = self._queries.values()
        queries = (text for file in files for text in read_columns(file, ("qid", "query"), kind, report))
        return with_content(once(queries), kind, self.label(kind), report)

    @property
    def splits(self) -> dict[str, str]:
        """The files of judgements; those of TREC DL are called ``trec-dl-YEAR``."""
        return {name: file.name for name, file in self._qrels.items()}

    def judgements(self, split: str, report: Report) -> Iterator[Judgement]:
        """Yield the judgements of a split."""
        return trec.read_qrels(self._qrels[split], self.splits[split], report)

    def relevant_from(self, split: str) -> int:
        """Return 2 for the passages of TREC DL, where 1 is `related`, not an answer; else 1.

        The track's page says so for its passage task only: https://microsoft.github.io/msmarco/TREC-Deep-Learning-2019
        """
        return 2 if self.task == "passage" and split.startswith(_TREC) else 1


def read_columns(path: Path, columns: tuple[str, ...], kind: Kind, report: Report) -> Iterator[Text]:
    """Yield the texts of a file with tabs between its columns: an id first, the text last, no header."""
    count, name = len(columns), path.name
    for number, line in read_lines(path, name, report):
        fields = line.split("\t")
        try:
            if len(fields) != count:
                raise BadLineError("columns", f"has {len(fields)} columns, not {', '.join(columns)} with tabs between.")
            at = checked_id(fields[0], kind)
        except BadLineError as bad:
            report(Problem("error", name, number, bad.code, str(bad)))
            continue
        if count == 2:
            yield Text(number, at, "", fields[1], name)
        else:
            yield Text(number, at, fields[2], fields[3], name, {"url": fields[1]})
