"""Read and write BEIR directories, line by line: every mistake is reported with its file and line.

The layout: ``corpus.jsonl`` ({_id, title, text}), ``queries.jsonl`` ({_id, text}) and ``qrels/<split>.tsv`` with the
header ``query-id  corpus-id  score`` (tabs between), each also as ``.gz``. A query with the metadata
``{"synthetic": true}`` was made from a passage.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

from stepwell.collection.readers.lines import (
    BadLineError,
    checked_id,
    find_file,
    named_files,
    parsed,
    read_field,
    read_lines,
    read_record,
    whole_grade,
)
from stepwell.collection.source import Judgement, Kind, Problem, Report, Source, Text

HEADER = ("query-id", "corpus-id", "score")
_STEMS: dict[Kind, str] = {"passage": "corpus", "query": "queries"}
_HOLDS = {"passage": 'passage: {"_id": ..., "title": ..., "text": ...}', "query": 'query: {"_id": ..., "text": ...}'}


class Beir(Source):
    """A BEIR directory; what is missing is reported."""

    def find(self, report: Report) -> None:
        """Find the files."""
        self.labels = {kind: f"{stem}.jsonl" for kind, stem in _STEMS.items()}
        if not self.home.is_dir():
            is_one = "a collection is a BEIR directory with corpus.jsonl, queries.jsonl and qrels/"
            message = f"{self.home} is not a directory; {is_one}."
            report(Problem("error", str(self.home), None, "directory-missing", message))
            return
        for kind, name in self.labels.items():
            file = find_file(self.home, [name], report)
            if file is None:
                message = f"there is no {name} (nor {name}.gz) in {self.home}; write one line of JSON for each "
                report(Problem("error", name, None, "file-missing", f"{message}{_HOLDS[kind]}."))
            else:
                self.files[kind], self.labels[kind] = [file], file.name
        files = named_files(self.home / "qrels", report, "qrels/")
        self.qrels = {name.removesuffix(".tsv"): file for name, file in files.items() if name.endswith(".tsv")}
        if not self.qrels:
            message = f"there is no qrels/<split>.tsv (nor .tsv.gz) in {self.home}, so nothing says which passage "
            message += "answers which query; at least train.tsv is needed."
            report(Problem("error", "qrels", None, "file-missing", message))

    def read(self, kind: Kind, report: Report) -> Iterator[Text] | None:
        """Yield the passages or queries."""
        for file in self.files[kind]:
            return parsed(read_lines(file, file.name, report), file.name, report, partial(_text, kind, file.name))
        return None

    def judgements(self, split: str, report: Report) -> Iterator[Judgement]:
        """Yield the judgements of a split."""
        name = self.splits[split]
        lines = read_lines(self.qrels[split], name, report)
        for number, line in islice(lines, 1):
            parts = [part.strip().lower() for part in line.split("\t")]
            if len(parts) == 3 and any(word in parts[2] for word in ("score", "grade", "rel", "label")):
                continue  # the header, perhaps in other words
            message = f"the header is missing: the first line is {line[:60]!r}. Put the line {chr(9).join(HEADER)!r}"
            message += " in front (tabs between), or the first judgement is lost."
            report(Problem("error", name, number, "header", message))
            lines = chain([(number, line)], lines)
        yield from parsed(lines, name, report, partial(_judgement, name))


def _text(kind: Kind, file: str, number: int, line: str) -> Text:
    record = read_record(line)
    name = checked_id(read_field(record, "_id", kind, number=True), kind)
    title = read_field(record, "title", kind, required=False) if kind == "passage" else ""
    text = read_field(record, "text", kind)
    metadata = record.get("metadata") if kind == "query" else None
    synthetic = isinstance(metadata, dict) and metadata.get("synthetic") is True
    return Text(number, name, title, text, file, synthetic=synthetic)


def _judgement(file: str, number: int, line: str) -> Judgement:
    parts = [part.strip() for part in line.split("\t")]
    if len(parts) != 3 or not parts[0] or not parts[1]:
        trec = " This looks like TREC qrels (query 0 passage grade): drop the second column."
        hint = trec if len(line.split()) == 4 else ""
        raise BadLineError("columns", f"{line[:60]!r} is not query-id, corpus-id and score with tabs between.{hint}")
    return Judgement(number, parts[0], parts[1], whole_grade(parts[2]), file)


def write_texts(folder: Path, passages: Iterable[Text], queries: Iterable[tuple[str, str, Mapping[str, Any]]]) -> None:
    """Write passages, then queries (id, text, metadata or {}); ``folder`` must not hold a ``qrels`` yet."""
    (folder / "qrels").mkdir(parents=True)
    texts = ({"_id": text.id, "title": text.title, "text": text.text} for text in passages)
    asked = ({"_id": id, "text": text, **({"metadata": more} if more else {})} for id, text, more in queries)
    for stem, records in (("corpus", texts), ("queries", asked)):
        with (folder / f"{stem}.jsonl").open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def write_split(folder: Path, split: str, pairs: Iterable[tuple[str, str]]) -> None:
    """Write a split: pairs (id of a query, id of a passage that answers it), all of grade 1."""
    with (folder / "qrels" / f"{split}.tsv").open("w", encoding="utf-8") as file:
        file.write("\t".join(HEADER) + "\n")
        file.writelines(f"{query}\t{passage}\t1\n" for query, passage in pairs)
