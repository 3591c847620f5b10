"""Slices of the published benchmarks, byte for byte in their formats, made from a BEIR directory like the tiny one.

The queries of ``train`` train, those of ``dev`` and ``test`` are what the benchmark calls dev. Ids are numbers where
the benchmark's are.
"""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Iterable
from pathlib import Path


class Tiny:
    """The records of a BEIR directory by row, and its judgements as (query row, passage row, grade)."""

    def __init__(self, directory: Path) -> None:
        self.passages = [json.loads(line) for line in (directory / "corpus.jsonl").read_text().splitlines()]
        self.queries = [json.loads(line) for line in (directory / "queries.jsonl").read_text().splitlines()]
        passages = {record["_id"]: row for row, record in enumerate(self.passages)}
        queries = {record["_id"]: row for row, record in enumerate(self.queries)}
        self.qrels = {
            file.stem: [
                (queries[query], passages[passage], int(grade))
                for query, passage, grade in (line.split("\t") for line in file.read_text().splitlines()[1:])
            ]
            for file in (directory / "qrels").iterdir()
        }

    def of(self, *splits: str) -> list[tuple[int, int, int]]:
        return [judgement for split in splits for judgement in self.qrels[split]]

    def asked(self, *splits: str) -> list[tuple[int, str]]:
        """Return (number, text) of the queries of splits."""
        return [(query_id(row), self.queries[row]["text"]) for row in sorted({row for row, _, _ in self.of(*splits)})]


def query_id(row: int) -> int:
    return 1_000_000 + row


def passage_id(row: int) -> int:
    return 7 * row


def document_id(row: int) -> str:
    return f"D{passage_id(row)}"


def write(path: Path, lines: Iterable[str], packed: bool = False) -> None:
    data = "".join(f"{line}\n" for line in lines).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_name(path.name + ".gz" * packed).write_bytes(gzip.compress(data) if packed else data)


def msmarco_passage(tiny: Path, directory: Path, packed: bool = False) -> Path:
    """Write collection.tsv, queries, qrels and the candidates of dev.small; titles stand in front of the texts."""
    made = Tiny(tiny)
    texts = [f"{record['title']} {record['text']}" for record in made.passages]
    write(directory / "collection.tsv", (f"{passage_id(row)}\t{text}" for row, text in enumerate(texts)), packed)
    for name, splits in {"train": ("train",), "dev": ("dev", "test"), "dev.small": ("test",)}.items():
        write(directory / f"queries.{name}.tsv", (f"{n}\t{text}" for n, text in made.asked(*splits)), packed)
        right = [(query, passage) for query, passage, grade in made.of(*splits) if grade > 0]
        lines = (f"{query_id(query)}\t0\t{passage_id(passage)}\t1" for query, passage in right)
        write(directory / f"qrels.{name}.tsv", lines, packed)
    write(directory / "queries.eval.tsv", ["57\twhat is a stepwell"], packed)
    candidates = [(n, text, row) for n, text in made.asked("test") for row in (5, 3, 8)]
    top = (f"{n}\t{passage_id(row)}\t{text}\t{texts[row]}" for n, text, row in candidates)
    write(directory / "top1000.dev", top, packed)
    return directory


def msmarco_document(tiny: Path, directory: Path, packed: bool = True) -> Path:
    """Write msmarco-docs.tsv (id, url, title, body), queries, qrels and the 100 candidates of dev."""
    made = Tiny(tiny)
    lines = (
        f"{document_id(row)}\thttps://example.org/{row}\t{record['title']}\t{record['text']}"
        for row, record in enumerate(made.passages)
    )
    write(directory / "msmarco-docs.tsv", lines, packed)
    for name, splits in {"train": ("train",), "dev": ("dev", "test")}.items():
        asked = made.asked(*splits)
        write(directory / f"msmarco-doc{name}-queries.tsv", (f"{n}\t{text}" for n, text in asked), packed)
        right = [(query, passage) for query, passage, grade in made.of(*splits) if grade > 0]
        lines = (f"{query_id(query)} 0 {document_id(passage)} 1" for query, passage in right)
        write(directory / f"msmarco-doc{name}-qrels.tsv", lines, packed)
        top = (
            f"{n} Q0 {document_id(row)} {rank} {-3.5 - rank} IndriQueryLikelihood"
            for n, _ in asked
            for rank, row in enumerate((5, 3), start=1)
        )
        write(directory / f"msmarco-doc{name}-top100", top, packed)
    return directory


def trec_dl(tiny: Path, directory: Path, documents: bool) -> Path:
    """Write the topics and grades of TREC DL 2019 beside MS MARCO: two topics more than were judged."""
    made = Tiny(tiny)
    topics = [*made.asked("test"), (61, "never judged"), (62, "nor this one")]
    write(directory / "msmarco-test2019-queries.tsv", (f"{n}\t{text}" for n, text in topics))
    name = document_id if documents else passage_id
    lines = (
        f"{query_id(query)} {'0' if documents else 'Q0'} {name(passage)} {grade}"
        for query, passage, grade in made.of("test")
    )
    write(directory / f"2019qrels-{'docs' if documents else 'pass'}.txt", lines)
    return directory


def dpr(tiny: Path, directory: Path, packed: bool = False) -> Path:
    """Write psgs_w100.tsv, the questions with answers and the training file, in DPR's quoting and indentation.

    The answer to a query is the topic and the first trait of its passage: "river was old".
    """
    made = Tiny(tiny)
    directory.mkdir(parents=True)
    with (directory / "psgs_w100.tsv").open("w", newline="") as file:
        rows = csv.writer(file, delimiter="\t", lineterminator="\n")
        rows.writerow(["id", "text", "title"])
        rows.writerows([str(passage_id(n)), r["text"], r["title"]] for n, r in enumerate(made.passages))
    for split in made.qrels:
        with (directory / f"nq-{split}.qa.csv").open("w", newline="") as file:
            rows = csv.writer(file, delimiter="\t", lineterminator="\n")
            rows.writerows([text, str([dpr_answer(made, n)])] for n, text in made.asked(split))
    for split in ("train", "dev"):
        records = [_dpr_record(made, split, number) for number, _ in made.asked(split)]
        text = json.dumps(records, indent=4)
        write(directory / f"biencoder-nq-{split}.json", [text], packed)
    return directory


def dpr_answer(made: Tiny, number: int) -> str:
    row = next(passage for query, passage, grade in made.of(*made.qrels) if query_id(query) == number and grade > 0)
    return " ".join(made.passages[row]["text"].split()[1:4])


def _dpr_record(made: Tiny, split: str, number: int) -> dict[str, object]:
    def context(row: int, score: float) -> dict[str, object]:
        record = made.passages[row]
        shared = {"title": record["title"], "text": record["text"], "score": score, "title_score": 1}
        return {**shared, "passage_id": str(passage_id(row))}

    judged = [(row, grade) for query, row, grade in made.of(split) if query_id(query) == number]
    positive = [context(row, 1000 if grade == 2 else 12.5) for row, grade in judged if grade > 0]
    wrong = [row for row in (11, 7, 30) if (row not in [p for p, grade in judged if grade > 0])]
    return {
        "dataset": f"nq_{split}_psgs_w100",
        "question": dict(made.asked(split))[number],
        "answers": [dpr_answer(made, number)],
        "positive_ctxs": positive,
        "negative_ctxs": [],
        "hard_negative_ctxs": [context(row, 9.0) for row in wrong],
    }
