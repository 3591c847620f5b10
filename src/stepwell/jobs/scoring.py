"""Scores without a ladder: pairs from a file, through the teacher's store, into a Parquet file."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from stepwell import distributed
from stepwell.collection import Collection, open_collection
from stepwell.collection.readers.trec import own_id
from stepwell.display import Cell, Table, progress
from stepwell.errors import RecipeError, RunError, StepwellError
from stepwell.files import cache, check_free, whole
from stepwell.jobs.cluster import Cluster, score_on
from stepwell.models.reranker import Reranker
from stepwell.recipe.yaml_file import load_recipe
from stepwell.teachers.kinds import Texts
from stepwell.teachers.opening import kind_of
from stepwell.teachers.protocol import Teacher
from stepwell.teachers.scoring import Named, Stored, missing, open_model

Rows = NDArray[np.int32]


def score(
    collection: str | Path,
    pairs: str | Path,
    target: str | Path,
    teacher: str | Path,
    tokens: int = 176,
    cluster: Cluster | None = None,
    recipe: str | Path | None = None,
) -> Table | None:
    """Score pairs through the teacher's store, here or on a cluster, and write them as Parquet.

    The teacher is a model (a directory or hub name), whose own files say its kind, and whose longest pair, or text of
    late interaction, has so many ``tokens``; or the name of one in a recipe: its scores and those of the ladder are the
    same. The table of what the scores look like is for the main process alone.
    """
    target, teacher = Path(target), str(teacher)
    check_free(target)
    opened = open_collection(collection)
    queries, passages = read_pairs(Path(pairs), opened)
    kind, stored, known = _opened(teacher, tokens, recipe, opened)
    on_cluster = stored.model if isinstance(stored.model, Reranker) and recipe is None else None
    if cluster is not None and on_cluster is None:
        raise StepwellError(
            "on a Ray cluster only cross-encoders score, each named by its directory or hub name: leave out --engine, "
            "and --recipe with it."
        )
    todo = missing(stored.store(), queries, passages)
    with progress(len(todo[0]), "scoring") as bar:
        if cluster is not None and on_cluster is not None:
            score_on(cluster, teacher, on_cluster, opened, stored.store(), *todo, bar)
        else:
            stored.fill(*todo, bar)
    scores = known.score(queries, passages[:, None])[:, 0]
    if not distributed.is_main():
        return None
    columns = {"query-id": _ids(queries, opened.query_ids), "corpus-id": _ids(passages, opened.passage_ids)}
    with whole(target) as draft:
        pq.write_table(pa.table(columns | {"score": scores}), draft)
    rows: list[list[Cell]] = [
        ["pairs", len(queries)],
        ["scored now", len(todo[0])],
        ["lowest", float(scores.min())],
        ["highest", float(scores.max())],
    ]
    order = np.argsort(queries, kind="stable")
    lists = np.split(scores[order].astype(np.float64), np.flatnonzero(np.diff(queries[order])) + 1)  # of each query
    if deviations := [one.std() for one in lists if len(one) > 1]:
        rows.append(["standard deviation within a query, mean", float(np.mean(deviations))])
    return Table(f"Raw logits of {teacher} ({kind})", ["", "value"], rows, [f"Written to {target}."])


def _opened(
    teacher: str, tokens: int, recipe: str | Path | None, collection: Collection
) -> tuple[str, Stored, Teacher]:
    """Open what scores pairs: its kind, its kept scores, and the teacher that gives their logits."""
    root = cache() / "scores"
    if recipe is None:
        model = open_model(teacher, tokens)
        stored = Stored.of(root, model, Named(teacher, collection))
        return model.kind, stored, stored
    described = load_recipe(recipe)
    if teacher not in described.teachers:
        raise RecipeError(f"{recipe} has no teacher {teacher!r}: it has {', '.join(described.teachers)}.")
    kind = kind_of(teacher, described.teachers)
    stored = kind.stored(Texts(collection, described.tokens, root))
    return kind.section.kind, stored, kind.logits_of(stored)


def _ids(rows: Rows, ids: Sequence[str]) -> pa.Array:
    unique, places = np.unique(rows, return_inverse=True)
    return pa.array([ids[row] for row in unique.tolist()], pa.string()).take(pa.array(places))


def read_pairs(path: Path, collection: Collection) -> tuple[Rows, Rows]:
    """Read pairs from a TREC run file, or from JSONL with ``query-id`` and ``corpus-id``: two row arrays (B,)."""
    rows = []
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    rows.append(_pair(line, path, number, collection))
    except UnicodeDecodeError as error:
        raise RunError(
            f"{path} is not UTF-8 ({error.reason} at byte {error.start}): write it again as UTF-8."
        ) from None
    if not rows:
        raise RunError(f"{path} has no pairs: there is nothing to score.")
    pairs = np.array(rows, dtype=np.int32)
    return pairs[:, 0], pairs[:, 1]


def _pair(line: str, path: Path, number: int, collection: Collection) -> tuple[int, int]:
    if line.lstrip().startswith("{"):
        try:
            record = json.loads(line)
            query, passage = str(record["query-id"]), str(record["corpus-id"])
        except (ValueError, KeyError) as error:
            raise RunError(f'{path}:{number}: a pair needs "query-id" and "corpus-id" ({error}).') from None
    else:
        fields = line.split()
        if len(fields) < 3:
            raise RunError(f"{path}:{number}: neither JSON nor a line of a TREC run (query Q0 passage rank score tag).")
        query, passage = own_id(fields[0], collection.find_query), own_id(fields[2], collection.find_passage)
    return collection.query_row(query), collection.passage_row(passage)
