"""Collections for the benchmarks: a part of a given one, and one that is made larger."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from stepwell.collection import Collection, open_collection

EVALUATION = ("test", "dev", "train")
TRAINING = ("train", "dev", "test")


def split_of(collection: Collection, wanted: Sequence[str]) -> str:
    """Return the first of the wanted splits that the collection has."""
    return next((name for name in wanted if name in collection.splits), collection.splits[0])


def part(
    path: str, folder: Path, wanted: Sequence[str], passages: int | None = None, queries: int | None = None
) -> tuple[Collection, str]:
    """Open a collection, or a part of it that is written to ``folder``; return it and its split.

    A part has the first ``queries`` queries of the split, their positives, and as many other passages, evenly
    spread, as make ``passages`` in all.
    """
    whole = open_collection(path)
    split = split_of(whole, wanted)
    if passages is None and queries is None:
        return whole, split
    qrels = whole.qrels(split)
    rows = qrels.query_rows[:queries]
    judged = np.isin(qrels.queries, rows) & (qrels.grades > 0)
    kept = np.unique(qrels.passages[judged])
    if passages is None:
        kept = np.arange(whole.n_passages)
    else:
        rest = np.setdiff1d(np.arange(whole.n_passages), kept)
        more = min(max(0, passages - len(kept)), len(rest))
        kept = np.sort(np.concatenate([kept, rest[np.linspace(0, len(rest), more, endpoint=False, dtype=np.int64)]]))
    lines = zip(qrels.queries[judged], qrels.passages[judged], qrels.grades[judged], strict=True)
    write_beir(
        folder,
        zip(map(str, kept), whole.passage_texts(kept), strict=True),
        zip(map(str, rows), whole.query_texts(rows), strict=True),
        {split: [(str(query), str(passage), int(grade)) for query, passage, grade in lines]},
    )
    return open_collection(folder), split


def enlarged(
    collection: Collection, split: str, times: int, folder: Path, cache: Path | None = None, seed: int = 0
) -> Collection:
    """Write a collection with ``times`` as many passages: beside the given ones, mixtures of two of them.

    A mixture has the first half of one passage and the second half of another. So lengths are those of the given
    passages on average, whatever the size, and hardly any two passages are near-duplicates.
    """
    random = np.random.default_rng(seed)
    texts = [text.split() for text in collection.passage_texts()]

    def passages() -> Iterable[tuple[str, str]]:
        for copy in range(times):
            others = random.permutation(len(texts)) if copy else range(len(texts))
            for row, other in enumerate(others):
                words = texts[row][: len(texts[row]) // 2] + texts[other][len(texts[other]) // 2 :]
                yield f"{row}-{copy}", " ".join(words)

    qrels = collection.qrels(split)
    rows = qrels.query_rows
    lines = zip(qrels.queries, qrels.passages, qrels.grades, strict=True)
    judged = [(str(query), f"{passage}-0", int(grade)) for query, passage, grade in lines if grade > 0]
    write_beir(folder, passages(), zip(map(str, rows), collection.query_texts(rows), strict=True), {split: judged})
    return open_collection(folder, cache)


def write_beir(
    folder: Path,
    passages: Iterable[tuple[str, str]],
    queries: Iterable[tuple[str, str]],
    qrels: dict[str, list[tuple[str, str, int]]],
) -> None:
    """Write a BEIR directory of (id, text), (id, text) and (query, passage, grade)."""
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    for name, texts in (("corpus", passages), ("queries", queries)):
        with (folder / f"{name}.jsonl").open("w", encoding="utf-8") as file:
            file.writelines(json.dumps({"_id": key, "text": text}) + "\n" for key, text in texts)
    for split, lines in qrels.items():
        told = ["query-id\tcorpus-id\tscore", *("\t".join(map(str, line)) for line in lines)]
        (folder / "qrels" / f"{split}.tsv").write_text("\n".join(told) + "\n", encoding="utf-8")
