"""Go through a BEIR directory once: write it as Arrow, take its fingerprint, report what is wrong.

Opening and checking both come through here, so that a run refuses exactly what ``check`` calls an error.
Memory stays at a few numbers a line, whatever the size of the texts.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from stepwell.collection.beir import Judgement, Problem, Report, Sources, Text, read_qrels, read_texts
from stepwell.collection.collection import IdIndex, Strings, hash_text, map_arrow, normal
from stepwell.collection.qrels import Qrels

BATCH = 2048  # texts in one Arrow batch: what is held in memory while writing
QRELS_SCHEMA = pa.schema({"query": pa.int32(), "passage": pa.int32(), "grade": pa.int32()})
_TEXTS_SCHEMA = pa.schema({"id": pa.string(), "text": pa.string()})
_INDEX_SCHEMA = pa.schema({"hash": pa.uint64(), "row": pa.int32()})


@dataclass
class _Texts:
    """What is remembered of a file of passages or queries: a few numbers for each row."""

    file: str
    index: IdIndex
    lines: array[int]
    contents: NDArray[np.uint64]  # hashes of the normalised texts


@dataclass
class _Split:
    """What is remembered of a qrels file."""

    file: str
    qrels: Qrels
    lines: dict[int, int]  # query row -> the line that names it first


def scan(sources: Sources, folder: Path, report: Report) -> tuple[str, dict[str, Qrels]]:
    """Read all files and write the texts, the indexes of their ids and the judgements into ``folder``.

    Returns
    -------
    tuple
        The fingerprint of the content (sha256, hex), which neither paths nor times change, and the
        judgements by split.
    """
    digest = hashlib.sha256()
    passages = _texts(sources.corpus, "passage", folder, report, digest)
    queries = _texts(sources.queries, "query", folder, report, digest)
    splits: dict[str, _Split] = {}
    for number, path in enumerate(sources.qrels):
        split = _split(path, queries.index, passages.index, report)
        splits[path.stem] = split
        columns = [split.qrels.queries, split.qrels.passages, split.qrels.grades]
        digest.update(f"{path.stem}\0{len(split.qrels)}\0".encode())
        for column in columns:
            digest.update(column.astype("<i4").tobytes())
        _write(folder / f"qrels-{number}.arrow", QRELS_SCHEMA, columns)
    _report_leaks(splits, queries, report)
    _report_unjudged(splits, queries, report)
    return digest.hexdigest(), {name: split.qrels for name, split in splits.items()}


def _write(path: Path, schema: pa.Schema, columns: Sequence[NDArray[np.generic]]) -> None:
    with pa.ipc.new_file(str(path), schema) as writer:
        writer.write_batch(pa.record_batch([pa.array(column) for column in columns], schema=schema))


def _texts(
    source: Path | None,
    kind: Literal["passage", "query"],
    folder: Path,
    report: Report,
    digest: hashlib._Hash,
) -> _Texts:
    """Write the texts of a file and the index of their ids."""
    file = f"{kind}.jsonl" if source is None else source.name
    texts: Iterable[Text] = () if source is None else read_texts(source, file, kind, report)
    path = folder / f"{kind}.arrow"
    lines, names, contents = array("q"), array("Q"), array("Q")
    with pa.ipc.new_file(str(path), _TEXTS_SCHEMA) as writer:
        stream = iter(texts)
        while batch := list(islice(stream, BATCH)):
            for text in batch:
                lines.append(text.line)
                names.append(hash_text(text.id))
                contents.append(hash_text(normal(text.joined)))
                parts = [part.encode() for part in (text.id, text.title, text.text)]
                digest.update(b"%d %d %d\0" % tuple(map(len, parts)) + b"".join(parts))
            writer.write_batch(
                pa.record_batch([[text.id for text in batch], [text.joined for text in batch]], schema=_TEXTS_SCHEMA)
            )
    digest.update(f"{kind} {len(lines)}\0".encode())
    if source is not None and not lines:
        report(Problem("error", file, None, "empty", f"holds no {kind}."))
    hashes = np.frombuffer(names, dtype=np.uint64) if names else np.zeros(0, np.uint64)
    rows = np.argsort(hashes, kind="stable").astype(np.int32)
    _write(folder / f"{kind}-index.arrow", _INDEX_SCHEMA, [hashes[rows], rows])
    index = IdIndex(Strings(map_arrow(path)["id"]), hashes[rows], rows)
    written = _Texts(file, index, lines, np.array(contents, dtype=np.uint64))
    _report_duplicates(written, kind, report)
    return written


def _report_duplicates(texts: _Texts, kind: str, report: Report) -> None:
    for first, again in _repeats(texts.index.hashes, texts.index.rows):
        if texts.index.ids[first] == texts.index.ids[again]:
            message = (
                f"the id {texts.index.ids[again]!r} was given to another {kind} in line "
                f"{texts.lines[first]}, so qrels can't tell them apart; give each its own."
            )
            report(Problem("error", texts.file, texts.lines[again], "id-twice", message))
    order = np.argsort(texts.contents, kind="stable").astype(np.int32)
    empty = np.uint64(hash_text(""))
    for first, again in _repeats(texts.contents[order], order):
        if texts.contents[again] != empty:
            message = (
                f"the {kind} {texts.index.ids[again]!r} has the same text as {texts.index.ids[first]!r} in "
                f"line {texts.lines[first]}."
            )
            if kind == "passage":
                message += " When only one of them is judged relevant, the other counts as a wrong answer."
            report(Problem("warning", texts.file, texts.lines[again], "text-twice", message))


def _repeats(ordered: NDArray[np.uint64], rows: NDArray[np.int32]) -> Iterator[tuple[int, int]]:
    """Yield (first row, later row) of equal values, by later row; ``rows`` goes with the sorted values."""
    again = np.flatnonzero(ordered[1:] == ordered[:-1]) + 1
    first = np.searchsorted(ordered, ordered[again])
    pairs = np.stack([rows[again], rows[first]], axis=1) if len(again) else np.zeros((0, 2), np.int32)
    for later, earlier in pairs[np.argsort(pairs[:, 0])]:
        yield int(earlier), int(later)


def _split(path: Path, queries: IdIndex, passages: IdIndex, report: Report) -> _Split:
    """Read a qrels file, with ids turned into rows."""
    file = f"qrels/{path.name}"
    grades: dict[tuple[int, int], tuple[int, int]] = {}  # (query, passage) -> (grade, line)
    lines: dict[int, int] = {}
    known: dict[str, int] = {}
    for judgement in read_qrels(path, file, report):
        if judgement.query not in known:
            known[judgement.query] = queries.find(judgement.query)
        pair = known[judgement.query], passages.find(judgement.passage)
        if _report_unknown(judgement, pair, file, report):
            continue
        grade, line = grades.setdefault(pair, (judgement.grade, judgement.line))
        lines.setdefault(pair[0], judgement.line)
        if line != judgement.line:
            severity: Literal["error", "warning"] = "warning" if grade == judgement.grade else "error"
            message = (
                f"{judgement.query!r} and {judgement.passage!r} are judged already in line {line}, with the "
                f"grade {grade} (here {judgement.grade}); keep one of the two."
            )
            report(Problem(severity, file, judgement.line, "judged-twice", message))
    pairs = np.array(list(grades), dtype=np.int32).reshape(-1, 2)
    qrels = Qrels(pairs[:, 0], pairs[:, 1], np.array([grade for grade, _ in grades.values()], dtype=np.int32))
    if not len(qrels):
        report(Problem("warning", file, None, "empty", "holds no judgement that can be used."))
    without = set(lines).difference(qrels.query_rows.tolist())
    for query in sorted(without):
        message = (
            f"the query {queries.ids[query]!r} has no passage with a grade above 0; it is left out of "
            "training and of the measures."
        )
        report(Problem("warning", file, lines[query], "no-positive", message))
    return _Split(file, qrels, lines)


def _report_unknown(judgement: Judgement, pair: tuple[int, int], file: str, report: Report) -> bool:
    kinds = (("query", judgement.query, "queries"), ("passage", judgement.passage, "corpus"))
    for row, (kind, name, stem) in zip(pair, kinds, strict=True):
        if row < 0:
            message = f"names the {kind} {name!r}, which is not in {stem}.jsonl; add the {kind} or take the line out."
            report(Problem("error", file, judgement.line, f"unknown-{kind}", message))
    return min(pair) < 0


def _report_leaks(splits: dict[str, _Split], queries: _Texts, report: Report) -> None:
    """Warn of queries that several splits share, by id or by text, in the order train, dev, others."""
    order = sorted(splits, key=lambda name: ("train", "dev").index(name) if name in ("train", "dev") else 2)
    seen: dict[int, tuple[str, int]] = {}
    for name in order:
        split = splits[name]
        for query in split.qrels.query_rows.tolist():
            other, row = seen.setdefault(int(queries.contents[query]), (name, query))
            if other != name:
                which = "" if row == query else f" (there it is {queries.index.ids[row]!r})"
                message = (
                    f"the query {queries.index.ids[query]!r} is in {other} too{which}: what is trained on "
                    f"it is not proved by it. A run leaves it out of {other}."
                )
                report(Problem("warning", split.file, split.lines[query], "leak", message))


def _report_unjudged(splits: dict[str, _Split], queries: _Texts, report: Report) -> None:
    judged = set().union(*(split.lines for split in splits.values()))
    unjudged = len(queries.lines) - len(judged)
    if unjudged and judged:
        first = next(row for row in range(len(queries.lines)) if row not in judged)
        message = (
            f"{unjudged:,} queries are in no qrels file ({queries.index.ids[first]!r} is the first); they "
            "neither train nor test."
        )
        report(Problem("warning", queries.file, queries.lines[first], "unjudged", message))
