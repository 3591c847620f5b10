"""Files that other programs read: candidates as sentence-transformers n-tuples, scores as Parquet."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from stepwell.collection import Collection, open_collection
from stepwell.collection.store import default_cache
from stepwell.display import Table, progress
from stepwell.errors import StepwellError
from stepwell.models.reranker import Reranker
from stepwell.negatives import Candidates
from stepwell.score_spread import spread
from stepwell.scores import ScoreStore


def write_tuples(candidates: Candidates, collection: Collection, target: Path) -> None:
    """Write JSONL with query, positive, negative_1, ..., a line a query; ``datasets`` loads it as it is."""
    draft = target.with_name(f"{target.name}.draft")
    with draft.open("w", encoding="utf-8") as file:
        for query, passages, grades in zip(candidates.queries, candidates.passages, candidates.grades, strict=True):
            texts = collection.passage_texts(passages[passages >= 0])
            line = {"query": collection.query_texts([int(query)])[0], "positive": texts[0]}
            negatives = [text for text, grade in zip(texts, grades[passages >= 0], strict=True) if grade <= 0]
            line |= {f"negative_{number}": text for number, text in enumerate(negatives, start=1)}
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
    draft.replace(target)


def read_pairs(path: Path, collection: Collection) -> tuple[np.ndarray, np.ndarray]:
    """Read pairs from a TREC run file, or from JSONL with ``query-id`` and ``corpus-id``: two row arrays (B,)."""
    rows = []
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    rows.append(_pair(line, path, number, collection))
    except UnicodeDecodeError as error:
        raise StepwellError(
            f"{path} is not UTF-8 ({error.reason} at byte {error.start}): write it again as UTF-8."
        ) from None
    if not rows:
        raise StepwellError(f"{path} has no pairs: there is nothing to score.")
    pairs = np.array(rows, dtype=np.int32)
    return pairs[:, 0], pairs[:, 1]


def _pair(line: str, path: Path, number: int, collection: Collection) -> tuple[int, int]:
    if line.lstrip().startswith("{"):
        try:
            record = json.loads(line)
            query, passage = str(record["query-id"]), str(record["corpus-id"])
        except (ValueError, KeyError) as error:
            raise StepwellError(f'{path}:{number}: a pair needs "query-id" and "corpus-id" ({error}).') from None
    else:
        fields = line.split()
        if len(fields) < 3:
            raise StepwellError(
                f"{path}:{number}: neither JSON nor a line of a TREC run (query Q0 passage rank score tag)."
            )
        query, passage = fields[0], fields[2]
    return collection.query_row(query), collection.passage_row(passage)


def score_pairs(place: str, pairs: Path, target: Path, teacher: str, tokens: int) -> Table:
    """Score pairs through the teacher's store and write them as Parquet; return what the scores look like."""
    collection = open_collection(place)
    queries, passages = read_pairs(pairs, collection)
    reranker = Reranker.open(teacher, tokens)
    store = ScoreStore.open(default_cache() / "scores", reranker.fingerprint, collection.fingerprint)
    todo_q, todo_p = store.missing(queries, passages)
    query_tokens, passage_tokens = (
        reranker.tokenise(texts) for texts in (collection.query_texts(), collection.passage_texts())
    )
    with progress(len(todo_q), "scoring") as bar:
        for start in range(0, len(todo_q), 2_048):
            q, p = todo_q[start : start + 2_048], todo_p[start : start + 2_048]
            store.add(
                q,
                p,
                reranker.score(query_tokens, passage_tokens, q.astype(np.int64), p.astype(np.int64), bar.advance),
            )
    scores = store.lookup(queries, passages)
    draft = target.with_name(f"{target.name}.draft")
    ids = (
        [collection.query_ids[int(row)] for row in queries],
        [collection.passage_ids[int(row)] for row in passages],
    )
    pq.write_table(pa.table({"query-id": ids[0], "corpus-id": ids[1], "score": scores}), draft)
    draft.replace(target)
    rows: list[list[str | int | float | None]] = [
        ["pairs", len(queries)],
        ["scored now", len(todo_q)],
        ["lowest", float(scores.min())],
        ["highest", float(scores.max())],
    ]
    lists = [scores[queries == query] for query in np.unique(queries)]
    width = max(map(len, lists))
    if width > 1:
        padded = np.array([np.pad(row, (0, width - len(row)), constant_values=np.nan) for row in lists])
        rows.append(["standard deviation within a query, mean", spread(padded).mean_std])
    return Table(f"Raw logits of {teacher}", ["", "value"], rows, (f"Written to {target}.",))
