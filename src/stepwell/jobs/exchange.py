"""Files that other programs read: candidates as sentence-transformers n-tuples, scores as Parquet, vectors as npy."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from stepwell import distributed
from stepwell.collection import Collection, open_collection
from stepwell.collection.readers.trec import own_id
from stepwell.display import Cell, Table, progress
from stepwell.distil.negatives import Candidates
from stepwell.errors import StepwellError
from stepwell.files import cache, writing
from stepwell.jobs.cluster import Cluster, encode_on, score_on
from stepwell.models.encoder import Encoder
from stepwell.models.reranker import Reranker
from stepwell.recipe.yaml_file import load_recipe
from stepwell.retrieval.vectors import Draft, write_vectors
from stepwell.teachers.opening import Texts, kind_of
from stepwell.teachers.protocol import LogOdds, Teacher
from stepwell.teachers.scoring import Stored, missing, open_model
from stepwell.teachers.spread import spread


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
        told = (passages >= 0) & (grades <= 0)
        told[0] = True
        yield int(query), passages[told]


def _write_lines(target: Path, lines: Iterable[dict[str, str]]) -> None:
    draft = target.with_name(f"{target.name}.draft")
    with writing(target), draft.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
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
        query, passage = own_id(fields[0], collection.find_query), own_id(fields[2], collection.find_passage)
    return collection.query_row(query), collection.passage_row(passage)


def score_pairs(
    place: str,
    pairs: Path,
    target: Path,
    teacher: str,
    tokens: int,
    cluster: Cluster | None = None,
    recipe: Path | None = None,
) -> Table | None:
    """Score pairs through the teacher's store, here or on a cluster, and write them as Parquet.

    Parameters
    ----------
    teacher, tokens, recipe
        A model, as directory or hub name, whose own files tell its kind, and the longest pair of a cross-encoder or
        longest text of late interaction; or a teacher's name in a recipe, which says that itself. Its scores and those
        of the ladder are the same: what one has is not scored by the other.
    cluster
        For cross-encoders alone.

    Returns
    -------
    Table | None
        What the scores look like; for the main process alone.
    """
    collection = open_collection(place)
    queries, passages = read_pairs(pairs, collection)
    kind, stored, probabilities = _opened(teacher, tokens, recipe, collection)
    if cluster is not None and (not isinstance(stored.model, Reranker) or recipe is not None):
        raise StepwellError(
            "on a Ray cluster only cross-encoders score, each named by its directory or hub name: leave out --engine, "
            "and --recipe with it."
        )
    todo = missing(stored.store(), queries, passages)
    with progress(len(todo[0]), "scoring") as bar:
        if cluster is not None and isinstance(stored.model, Reranker):
            score_on(cluster, teacher, stored.model, collection, stored.store(), *todo, bar)
        else:
            stored.fill(*todo, bar)
    known: Teacher = LogOdds(stored, teacher) if probabilities else stored
    scores = known.score(queries, passages[:, None])[:, 0]
    if not distributed.is_main():
        return None
    draft = target.with_name(f"{target.name}.draft")
    ids = _ids(queries, collection.query_ids), _ids(passages, collection.passage_ids)
    with writing(target):
        pq.write_table(pa.table({"query-id": ids[0], "corpus-id": ids[1], "score": scores}), draft)
    draft.replace(target)
    rows: list[list[Cell]] = [
        ["pairs", len(queries)],
        ["scored now", len(todo[0])],
        ["lowest", float(scores.min())],
        ["highest", float(scores.max())],
    ]
    lists = _lists(queries, scores)
    if lists.shape[1] > 1:
        rows.append(["standard deviation within a query, mean", spread(lists).mean_std])
    return Table(f"Raw logits of {teacher} ({kind})", ["", "value"], rows, (f"Written to {target}.",))


def _opened(teacher: str, tokens: int, recipe: Path | None, collection: Collection) -> tuple[str, Stored, bool]:
    """Open what scores pairs: its kind, it itself, and whether it gives probabilities, of which logits are wanted."""
    root = cache() / "scores"
    if recipe is None:
        model = open_model(teacher, tokens)
        return model.kind, Stored.of(root, model, collection), False
    described = load_recipe(recipe)
    if teacher not in described.teachers:
        raise StepwellError(f"{recipe} has no teacher {teacher!r}: it has {', '.join(described.teachers)}.")
    kind = kind_of(teacher, described.teachers)
    return kind.section.kind, kind.stored(Texts(collection, described.tokens, root)), kind.probabilities


def _ids(rows: NDArray[np.int32], ids: Sequence[str]) -> pa.Array:
    unique, places = np.unique(rows, return_inverse=True)
    return pa.array([ids[row] for row in unique.tolist()], pa.string()).take(pa.array(places))


def _lists(queries: NDArray[np.int32], scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the scores (B,) of each query as a row, filled with NaN: (Q, K)."""
    _, lines, sizes = np.unique(queries, return_inverse=True, return_counts=True)
    order = np.argsort(lines, kind="stable")
    column = np.arange(len(queries)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    lists = np.full((len(sizes), int(sizes.max())), np.nan, dtype=np.float32)
    lists[lines[order], column] = scores[order]
    return lists


def encode_collection(place: str, folder: Path, model: str, cluster: Cluster | None = None) -> Table | None:
    """Encode all passages and queries of a collection, here or on a cluster, into a folder for these vectors alone.

    :meth:`stepwell.retrieval.vectors.Vectors.open` maps the folder. What an earlier call left there, however it ended,
    is not made again.

    Returns
    -------
    Table | None
        What is in the folder now; for the main process alone.

    Raises
    ------
    StepwellError
        When the folder holds anything else, or another process is at work in it.
    """
    collection, encoder = open_collection(place), Encoder.open(model)
    rows = np.arange(collection.n_queries, dtype=np.int32)
    source = {"collection": collection.fingerprint, "model": encoder.fingerprint}
    with _claimed(folder, source) if distributed.is_main() else nullcontext():
        distributed.barrier()
        with progress(collection.n_passages + len(rows), "encoding") as bar:
            if cluster is None:
                write_vectors(encoder, collection, rows, folder, bar)
            else:
                encode_on(cluster, model, encoder, collection, Draft(encoder, collection, rows, folder), bar)
    if not distributed.is_main():
        return None
    cells: list[list[Cell]] = [
        ["passages", collection.n_passages],
        ["queries", len(rows)],
        ["dimensions", encoder.dimension],
        ["similarity", "cosine" if encoder.cosine else "dot product"],
    ]
    note = f"Written to {folder}: passages.npy and queries.npy, rows in the order of the collection's files."
    return Table(f"Vectors of {model}", ["", "value"], cells, (note,))


@contextmanager
def _claimed(folder: Path, source: dict[str, str]) -> Iterator[None]:
    """Hold a folder that is for what is made from ``source`` alone."""
    folder.mkdir(parents=True, exist_ok=True)
    told, draft = folder / "source.json", folder / "source.draft"
    try:
        with FileLock(folder / ".lock", timeout=0):
            if not told.is_file():
                if {path.name for path in folder.iterdir()} - {".lock", draft.name}:
                    raise StepwellError(
                        f"{folder} holds files that are no vectors of stepwell's: choose a folder that is empty or new."
                    )
                draft.write_text(json.dumps(source), encoding="utf-8")
                draft.replace(told)
            elif json.loads(told.read_text(encoding="utf-8")) != source:
                raise StepwellError(
                    f"{folder} holds vectors of another model or another collection, which would be mixed with these: "
                    "choose another folder, or delete that one."
                )
            yield
    except Timeout:
        raise StepwellError(
            f"another stepwell is at work in {folder}: wait for it, stop it, or choose another folder."
        ) from None
