"""Fixtures that all rooms share."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
from hypothesis import settings

from stepwell.collection import Collection, open_collection

settings.register_profile("stepwell", deadline=None)  # a shared machine is slow at times
settings.load_profile("stepwell")

# Lines of a file: records become JSON, strings stay as they are.
Lines = Sequence[Mapping[str, object] | str]
TinyDirectory = Callable[..., Path]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep tests out of the user's cache."""
    monkeypatch.setenv("STEPWELL_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture
def tiny_directory(tmp_path: Path) -> TinyDirectory:
    """Return a factory of BEIR directories: ``tiny_directory(corpus=[...], queries=[...], train=[...])``.

    What is not given is a small, valid default of three passages and two queries. Records become JSON lines
    and strings are written as they are; every further keyword is a split,
    its judgements (query, passage, grade) or whole lines.
    """
    made = 0

    def make(
        corpus: Lines | None = None,
        queries: Lines | None = None,
        header: bool = True,
        **splits: Sequence[object],
    ) -> Path:
        nonlocal made
        made += 1
        directory = tmp_path / f"collection{made}"
        (directory / "qrels").mkdir(parents=True)
        if corpus is None:
            words = ("red apples", "green pears", "blue plums")
            corpus = [{"_id": f"p{i}", "title": "", "text": f"all about {w}"} for i, w in enumerate(words)]
        if queries is None:
            queries = [{"_id": "q0", "text": "apples"}, {"_id": "q1", "text": "pears"}]
        _write(directory / "corpus.jsonl", [x if isinstance(x, str) else json.dumps(x) for x in corpus])
        _write(directory / "queries.jsonl", [x if isinstance(x, str) else json.dumps(x) for x in queries])
        for name, rows in (splits or {"train": [("q0", "p0", 1), ("q1", "p1", 1)]}).items():
            lines = [row if isinstance(row, str) else "\t".join(map(str, row)) for row in rows]  # type: ignore[call-overload]
            _write(directory / "qrels" / f"{name}.tsv", ["query-id\tcorpus-id\tscore"] * header + lines)
        return directory

    return make


@pytest.fixture(scope="session")
def tiny_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the BEIR directory of ``tiny_collection``; not to be changed."""
    directory = tmp_path_factory.mktemp("tiny") / "tiny"
    write_tiny(directory)
    return directory


@pytest.fixture(scope="session")
def tiny_collection(tiny_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Collection:
    """Return a collection of 60 passages and 40 queries: 28 train, 6 dev, 6 test; see :func:`write_tiny`."""
    return open_collection(tiny_path, tmp_path_factory.mktemp("tiny-cache"))


def write_tiny(directory: Path, passages: int = 60, queries: int = 40, seed: int = 7) -> None:
    """Write a small collection that can be learned: a query shares two or three words with its positives.

    Ids are strings that are no numbers. Each query has a positive of grade 2, every third also one of grade 1
    and every fourth a judged passage of grade 0. 70 % of the queries train, 15 % are dev, 15 % test.
    """
    rng = random.Random(seed)
    topics = (
        "river",
        "engine",
        "violin",
        "glacier",
        "harvest",
        "comet",
        "castle",
        "enzyme",
        "market",
        "sail",
    )
    words = (
        "old",
        "bright",
        "deep",
        "slow",
        "north",
        "early",
        "broken",
        "quiet",
        "large",
        "hidden",
        "warm",
        "thin",
    )
    corpus: list[dict[str, str]] = []
    for i in range(passages):
        chosen = [topics[i % len(topics)], *rng.sample(words, 3)]
        text = f"the {chosen[0]} was {chosen[1]} and {chosen[2]} , with a {chosen[3]} side to it"
        corpus.append({"_id": f"doc/{i:03d}-{chosen[0]}", "title": f"{chosen[0]} {i}", "text": text})
    qrels: dict[str, list[str]] = {"train": [], "dev": [], "test": []}
    records = []
    for i in range(queries):
        positive = i * passages // queries
        told = corpus[positive]["text"].split()
        query = f"query:{i:02d}"
        records.append({"_id": query, "text": f"which {told[1]} is {told[3]} and {told[5]} number {i}"})
        judged = {positive: 2}
        if i % 3 == 0:
            judged[(positive + len(topics)) % passages] = 1  # the same topic
        if i % 4 == 0:
            judged.setdefault((positive + 1) % passages, 0)
        split = "train" if i % 20 < 14 else "dev" if i % 20 < 17 else "test"
        qrels[split] += [f"{query}\t{corpus[row]['_id']}\t{grade}" for row, grade in judged.items()]
    (directory / "qrels").mkdir(parents=True)
    _write(directory / "corpus.jsonl", [json.dumps(record) for record in corpus])
    _write(directory / "queries.jsonl", [json.dumps(record) for record in records])
    for split, lines in qrels.items():
        _write(directory / "qrels" / f"{split}.tsv", ["query-id\tcorpus-id\tscore", *lines])


def _write(path: Path, lines: Sequence[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
