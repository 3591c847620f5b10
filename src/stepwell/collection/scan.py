"""Go through a collection once: write it as Arrow, take its fingerprint, report what is wrong.

Opening and checking both come through here, so that a run refuses exactly what ``check`` calls an error.
Memory stays at a few numbers a line, whatever the size of the texts.
"""

import hashlib
import json
from array import array
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from stepwell.collection.collection import IdIndex, hash_text, map_texts, normal, write_columns, write_index
from stepwell.collection.qrels import Qrels
from stepwell.collection.source import Join, Judgement, Kind, Problem, Report, Source, Text

BATCH = 2048  # texts in one Arrow batch: what is held in memory while writing

Place = tuple[str, int]  # a file, as messages name it, and a line
Places = dict[int, Place]  # by query row, the line that names it first


@dataclass
class _Texts:
    """What is remembered of the passages or queries: a few numbers for each row."""

    index: IdIndex = field(init=False)
    lines: "array[int]" = field(default_factory=lambda: array("q"))
    contents: "array[int]" = field(default_factory=lambda: array("Q"))  # hashes of the normalised texts
    files: list[str] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)  # the first row of each file

    def add(self, text: Text, joined: str) -> None:
        if not self.files or self.files[-1] != text.file:
            self.files.append(text.file)
            self.starts.append(len(self.lines))
        self.lines.append(text.line)
        self.contents.append(hash_text(normal(joined)))

    def place(self, row: int) -> Place:
        return self.files[bisect_right(self.starts, row) - 1], self.lines[row]

    def line(self, row: int, file: str) -> str:
        """Return the line of a row in words, seen from a file."""
        home, line = self.place(row)
        return f"line {line}{'' if home == file else f' of {home}'}"


def scan(source: Source, folder: Path, report: Report) -> dict[str, Any]:
    """Read everything, write the texts, the indexes of their ids and the judgements into ``folder``; return facts.

    These are the ``fingerprint`` of all content (sha256, hex), which neither paths nor times change; that of ``texts``
    and ids alone, which judgements don't change; the ``splits``, their ``levels``, and which have ``given`` negatives.
    """
    digest = hashlib.sha256()
    passages = _texts(source, "passage", folder, report, digest)
    queries = _texts(source, "query", folder, report, digest)
    texts = digest.hexdigest()
    splits, places, given = dict[str, Qrels](), dict[str, Places](), list[str]()
    for number, name in enumerate(source.splits):
        qrels, places[name] = _judgements(source, name, queries.index, passages.index, report)
        splits[name] = qrels
        digest.update(f"{name}\0{len(qrels)}\0".encode())
        for column in (qrels.queries, qrels.passages, qrels.grades):
            digest.update(column.astype("<i4").tobytes())
        if len(qrels.asked):
            digest.update(b"asked\0" + qrels.asked.astype("<i4").tobytes())
        none = np.full(len(qrels.asked), -1, np.int32)  # the passage of a query that only belongs to the split
        write_columns(
            folder / f"qrels-{number}.arrow",
            query=np.concatenate([qrels.queries, qrels.asked]),
            passage=np.concatenate([qrels.passages, none]),
            grade=np.concatenate([qrels.grades, np.zeros_like(none)]),
        )
        pairs = array("i")
        for negative in source.negatives(name, report):
            pair = queries.index.find(negative.query), passages.index.find(negative.passage)
            if _known(negative, pair, source, report):
                pairs.extend(pair)
        if pairs:
            given.append(name)
            columns = np.array(pairs, dtype=np.int32).reshape(-1, 2)
            write_columns(folder / f"given-{number}.arrow", query=columns[:, 0], passage=columns[:, 1])
    _report_leaks(splits, places, queries, report)
    judged = set[int]().union(*places.values())
    if judged and len(judged) < len(queries.lines):
        first = next(row for row in range(len(queries.lines)) if row not in judged)
        message = (
            f"{len(queries.lines) - len(judged):,} queries are in no qrels file ({queries.index.ids[first]!r} is the "
            "first); they neither train nor test. An embedding rung can learn from them as texts (`more_queries`)."
        )
        report(Problem("warning", *queries.place(first), "unjudged", message))
    facts = {"fingerprint": digest.hexdigest(), "texts": texts, "splits": list(splits), "given": given}
    return {**facts, "levels": {name: source.relevant_from(name) for name in splits}}


def _texts(source: Source, kind: Kind, folder: Path, report: Report, digest: "hashlib._Hash") -> _Texts:
    """Write the passages or queries and the index of their ids."""
    answered = source.answered and kind == "query"
    schema = pa.schema({"id": pa.string(), "text": pa.string()})
    if answered:
        schema = schema.append(pa.field("answers", pa.list_(pa.string())))
    starts, synthetic, names, texts = array("i"), array("i"), array("Q"), _Texts()
    join = source.join.of if kind == "passage" and source.join != Join() else None
    with pa.ipc.new_file(str(folder / f"{kind}.arrow"), schema) as writer:
        stream = source.texts(kind, report)
        while batch := list(islice(stream, BATCH)):
            joined = [text.joined if join is None else join(text) for text in batch]
            for text, whole in zip(batch, joined, strict=True):
                if text.synthetic:
                    synthetic.append(len(texts.lines))
                texts.add(text, whole)
                names.append(hash_text(text.id))
                parts = (text.id, text.title, text.text) if join is None else (text.id, "", whole)
                content = [part.encode() for part in parts]
                digest.update(b"%d %d %d\0" % tuple(map(len, content)) + b"".join(content))
                if text.answers:
                    digest.update(json.dumps(text.answers).encode())
            columns: list[Any] = [[text.id for text in batch], joined]
            if answered:
                columns.append([list(text.answers) for text in batch])
            if kind == "passage":
                starts.extend(map(source.join.start, batch))
            writer.write_batch(pa.record_batch(columns, schema=schema))
    digest.update(f"{kind} {len(texts.lines)}\0".encode())
    write_index(folder / f"{kind}-index.arrow", np.asarray(names, dtype=np.uint64))
    if starts:
        write_columns(folder / f"{kind}-start.arrow", start=np.array(starts, dtype=np.int32))
    if synthetic:
        write_columns(folder / f"{kind}-synthetic.arrow", row=np.array(synthetic, dtype=np.int32))
    texts.index, _ = map_texts(folder, kind)
    _report_duplicates(texts, kind, report)
    return texts


def _report_duplicates(texts: _Texts, kind: Kind, report: Report) -> None:
    ids = texts.index.ids
    for first, again in _repeats(texts.index.hashes, texts.index.rows):
        if ids[first] == ids[again]:
            file, line = texts.place(again)
            message = (
                f"the id {ids[again]!r} was given to another {kind} in {texts.line(first, file)}, so qrels can't "
                "tell them apart; give each its own."
            )
            report(Problem("error", file, line, "id-twice", message))
    contents = np.asarray(texts.contents, dtype=np.uint64)
    order = np.argsort(contents, kind="stable").astype(np.int32)
    empty = np.uint64(hash_text(""))
    for first, again in _repeats(contents[order], order):
        if contents[again] != empty:
            file, line = texts.place(again)
            message = f"the {kind} {ids[again]!r} has the same text as {ids[first]!r} in {texts.line(first, file)}."
            if kind == "passage":
                message += " When only one of them is judged relevant, the other counts as a wrong answer."
            report(Problem("warning", file, line, "text-twice", message))


def _repeats(ordered: NDArray[np.uint64], rows: NDArray[np.int32]) -> Iterator[tuple[int, int]]:
    """Yield (first row, later row) of equal values, by later row; ``rows`` goes with the sorted values."""
    again = np.flatnonzero(ordered[1:] == ordered[:-1]) + 1
    first = np.searchsorted(ordered, ordered[again])
    pairs = np.stack([rows[again], rows[first]], axis=1)  # (pairs, 2)
    for later, earlier in pairs[np.argsort(pairs[:, 0])]:
        yield int(earlier), int(later)


def _judgements(source: Source, name: str, queries: IdIndex, passages: IdIndex, report: Report) -> tuple[Qrels, Places]:
    """Read the judgements of a split, with ids turned into rows."""
    grades: dict[tuple[int, int], tuple[int, Place]] = {}
    places: Places = {}
    asked: set[int] = set()
    for judgement in source.judgements(name, report):
        place = judgement.file, judgement.line
        pair = queries.find(judgement.query), passages.find(judgement.passage) if judgement.passage else 0
        if not _known(judgement, pair, source, report):
            continue
        places.setdefault(pair[0], place)
        if not judgement.passage:
            asked.add(pair[0])
            continue
        grade, before = grades.setdefault(pair, (judgement.grade, place))
        if before != place:
            message = (
                f"{judgement.query!r} and {judgement.passage!r} are judged already in line {before[1]}, with the "
                f"grade {grade} (here {judgement.grade}); keep one of the two."
            )
            report(Problem("warning" if grade == judgement.grade else "error", *place, "judged-twice", message))
    pairs = np.array(list(grades), dtype=np.int32).reshape(-1, 2)
    judged = np.array([grade for grade, _ in grades.values()], dtype=np.int32)
    qrels = Qrels(pairs[:, 0], pairs[:, 1], judged, np.array(sorted(asked), dtype=np.int32))
    if not len(qrels) and not asked:
        report(Problem("warning", source.splits[name], None, "empty", "holds no judgement that can be used."))
    for query in sorted(set(places).difference(qrels.query_rows.tolist())):
        message = f"the query {queries.ids[query]!r} has no passage with a grade above 0; it is left out of "
        report(Problem("warning", *places[query], "no-positive", f"{message}training, and measured as 0 elsewhere."))
    return qrels, places


def _known(judgement: Judgement, pair: tuple[int, int], source: Source, report: Report) -> bool:
    """Say whether there are the query and the passage; report which is not."""
    kinds: tuple[tuple[Kind, str], ...] = (("query", judgement.query), ("passage", judgement.passage))
    for row, (kind, name) in zip(pair, kinds, strict=True):
        if row < 0:
            message = f"names the {kind} {name!r}, which is not in {source.label(kind)}; add the {kind} or take the "
            report(Problem("error", judgement.file, judgement.line, f"unknown-{kind}", f"{message}line out."))
    return min(pair) >= 0


def _report_leaks(splits: dict[str, Qrels], places: dict[str, Places], queries: _Texts, report: Report) -> None:
    """Warn of queries that several splits share, by id or by text, in the order train, dev, others."""
    seen: dict[int, tuple[str, int]] = {}
    for name in sorted(splits, key=lambda name: {"train": 0, "dev": 1}.get(name, 2)):
        for query in splits[name].query_rows.tolist():
            other, row = seen.setdefault(queries.contents[query], (name, query))
            if other != name:
                which = "" if row == query else f" (there it is {queries.index.ids[row]!r})"
                message = (
                    f"the query {queries.index.ids[query]!r} is in {other} too{which}: what is trained on "
                    f"it is not proved by it. A run leaves it out of {other}."
                )
                report(Problem("warning", *places[name][query], "leak", message))
