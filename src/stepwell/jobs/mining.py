"""Mining without a ladder, and its files: texts as sentence-transformers n-tuples, ids as pairs to score."""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from stepwell.collection import Collection, open_collection
from stepwell.display import progress
from stepwell.distil.candidates import Candidates
from stepwell.distil.negatives import MiningReport, mine as mine_run
from stepwell.errors import RecipeError, StepwellError
from stepwell.files import cache, check_free, whole
from stepwell.models.reranker import Reranker
from stepwell.recipe import Mining
from stepwell.systems.opening import retrieve_with
from stepwell.teachers.scoring import Named, Stored


class Mined(NamedTuple):
    """Candidates of the queries of a split, what mining dropped and why, and the collection."""

    candidates: Candidates
    report: MiningReport
    collection: Collection


def mine(
    collection: str | Path,
    miner: str | Path = "bm25",
    split: str = "train",
    k: int = 8,
    settings: Mining | Mapping[str, object] | None = None,
    seed: int = 13,
    teacher: str | Path | None = None,
    tokens: int = 176,
    target: Path | None = None,
    pairs: Path | None = None,
) -> Mined:
    """Mine K candidates of each query of a split."""
    for file in filter(None, (target, pairs)):
        check_free(file)
    if target is not None and pairs is not None and pairs.resolve() == target.resolve():
        raise StepwellError(f"{target} can't hold both the texts and the ids of --pairs: name another file for these.")
    try:
        settings = Mining.model_validate(settings or {})
    except ValidationError as error:
        reason = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise RecipeError(f"the mining options don't fit: {reason}.") from None
    if teacher is None and settings.denoise is not None:
        raise StepwellError("--denoise compares a teacher's scores: name a cross-encoder with --teacher too.")
    opened = open_collection(collection)
    qrels = opened.qrels(split)
    if settings.answers and not qrels.answered:
        raise StepwellError(
            f"--answers drops passages that hold an answer, and no query of the split {split!r} of {opened.name} has "
            "answers to look for: leave it out."
        )
    ask = None
    if teacher is not None:
        judge = Stored.of(cache() / "scores", Reranker.open(str(teacher), tokens), Named(str(teacher), opened))

        def ask(queries: NDArray[np.int32], passages: NDArray[np.int32]) -> NDArray[np.float32]:
            return judge.score(queries, passages[:, None])[:, 0]

    run = retrieve_with(str(miner), opened, qrels, settings.depth)
    with progress(None, "mining") as bar:
        candidates, report = mine_run(run, qrels, opened, settings, k, seed, ask, bar)
    if target is not None:
        write_tuples(candidates, opened, target)
    if pairs is not None:
        write_pairs(candidates, opened, pairs)
    return Mined(candidates, report, opened)


def write_tuples(candidates: Candidates, collection: Collection, target: Path) -> None:
    """Write JSONL with query, positive, negative_1, ..., a line a query; ``datasets`` loads it as it is."""

    def lines() -> Iterator[dict[str, str]]:
        for query, passages in _tuples(candidates):
            positive, *negatives = collection.passage_texts(passages)
            numbered = {f"negative_{number}": text for number, text in enumerate(negatives, start=1)}
            yield {"query": collection.query_texts([query])[0], "positive": positive} | numbered

    _write_lines(target, lines())


def write_pairs(candidates: Candidates, collection: Collection, target: Path) -> None:
    """Write the ids of what :func:`write_tuples` writes, a line a pair in the same order, as JSONL that is scored."""
    ids = collection.query_ids, collection.passage_ids
    pairs = ((query, int(passage)) for query, passages in _tuples(candidates) for passage in passages)
    _write_lines(target, ({"query-id": ids[0][query], "corpus-id": ids[1][passage]} for query, passage in pairs))


def _tuples(candidates: Candidates) -> Iterator[tuple[int, NDArray[np.int32]]]:
    """Yield each query with its best positive and, behind it, its negatives (K,): further positives are neither."""
    for query, passages, grades in zip(candidates.queries, candidates.passages, candidates.grades, strict=True):
        written = (passages >= 0) & (grades <= 0)
        written[0] = True
        yield int(query), passages[written]


def _write_lines(target: Path, lines: Iterable[dict[str, str]]) -> None:
    with whole(target) as draft, draft.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
