"""Read MS MARCO, passages or documents, as it is published, with the topics and grades of TREC DL beside it.

Passages: ``collection.tsv``, ``queries.NAME.tsv``, ``qrels.NAME.tsv``. Documents: ``msmarco-docs.tsv``,
``msmarco-docNAME-queries.tsv``, ``msmarco-docNAME-qrels.tsv``. TREC DL: ``msmarco-testYEAR-queries.tsv`` and
``YEARqrels-pass.txt`` or ``YEARqrels-docs.txt``. All also as ``.gz``; no file has a header.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from stepwell.collection.readers.lines import BadLineError, checked_id, named_files, parsed, read_lines
from stepwell.collection.readers.trec import read_qrels
from stepwell.collection.source import Join, Judgement, Kind, Problem, Report, Source, Text, once

DOCUMENT = "{url} {title} {text}"  # how the fields of a document become its text
CHARACTERS = 10_000  # of it that are kept: far more than models read, and a tenth of the longest documents

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
_TRAIN_QUERIES = {"passage": "queries.train.tsv", "document": "msmarco-doctrain-queries.tsv"}
_TRAIN_QRELS = {"passage": "qrels.train.tsv", "document": "msmarco-doctrain-qrels.tsv"}


class MsMarco(Source):
    """A directory with MS MARCO's files; what is missing is reported. Splits of TREC DL are ``trec-dl-YEAR``."""

    def find(self, report: Report) -> None:
        """Find the files."""
        task = self.task = "document" if self.section.format == "msmarco-document" else "passage"
        if task == "document":
            self.join = Join(self.join.template or DOCUMENT, self.join.characters or CHARACTERS)
        files = named_files(self.home, report)
        queries = {name: file for name, file in files.items() if _QUERIES[task].fullmatch(name)}
        self.files = {"passage": [file for name, file in files.items() if name == _TEXTS[task]]}
        self.files["query"] = list(queries.values())
        self.labels = {"passage": _TEXTS[task], "query": ", ".join(queries)}
        for name, file in files.items():
            if found := _QRELS[task].fullmatch(name):
                self.qrels[found["name"] or f"{_TREC}{found['year']}"] = file
        wanted = {_TEXTS[task]: self.files["passage"], _TRAIN_QUERIES[task]: queries, _TRAIN_QRELS[task]: self.qrels}
        for name, there in wanted.items():
            if not there:
                message = f"there is no {name} (nor {name}.gz, nor one for another split) in {self.home}."
                report(Problem("error", name, None, "file-missing", message))

    def read(self, kind: Kind, report: Report) -> Iterator[Text]:
        """Yield the passages, or the queries of all files; what several files share is yielded once."""
        columns = _COLUMNS[self.task] if kind == "passage" else ("qid", "query")
        found = (text for file in self.files[kind] for text in _read_columns(file, columns, kind, report))
        return found if kind == "passage" else once(found, "id", "title", "text")

    def judgements(self, split: str, report: Report) -> Iterator[Judgement]:
        """Yield the judgements of a split."""
        return read_qrels(self.qrels[split], self.splits[split], report)

    def relevant_from(self, split: str) -> int:
        """Return 2 for the passages of TREC DL, where 1 is `related`, not an answer; else 1.

        The track's page says so for its passage task only: https://microsoft.github.io/msmarco/TREC-Deep-Learning-2019
        """
        return 2 if self.task == "passage" and split.startswith(_TREC) else 1


def _read_columns(path: Path, columns: tuple[str, ...], kind: Kind, report: Report) -> Iterator[Text]:
    """Yield the texts of a file with tabs between its columns: an id first, the text last, no header."""

    def text(number: int, line: str) -> Text:
        fields = line.split("\t")
        if len(fields) != len(columns):
            message = f"has {len(fields)} columns, not {', '.join(columns)} with tabs between."
            raise BadLineError("columns", message)
        name = checked_id(fields[0], kind)
        if len(columns) == 2:
            return Text(number, name, "", fields[1], path.name)
        return Text(number, name, fields[2], fields[3], path.name, {"url": fields[1]})

    return parsed(read_lines(path, path.name, report), path.name, report, text)
