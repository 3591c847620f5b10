"""Vectors that somebody has, in files: Parquet, JSONL, or ``.npy`` with a file of ids; matched with a collection."""

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from stepwell.collection.readers.lines import BadLineError, read_lines, read_record
from stepwell.collection.source import Problem
from stepwell.errors import RunError
from stepwell.files import sha256
from stepwell.recipe.training import Similarity
from stepwell.retrieval.run import Floats

BLOCK = 4_096  # rows that are read at a time
IDS: tuple[str, ...] = ("id", "_id", "corpus-id", "corpus_id", "passage-id", "passage_id", "docid", "doc_id", "pid")
IDS += ("query-id", "query_id", "qid")
LISTS = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
VECTORS = ("vector", "embedding", "embeddings", "vectors", "emb", "values")


class Block(NamedTuple):
    """Some rows of a file: ids, vectors (B, D), and where each stands, counted from 1."""

    ids: Sequence[str]
    vectors: Floats
    numbers: Sequence[int]


class Shape(NamedTuple):
    """What becomes of vectors as they come: cut to the first ``dimensions`` numbers, normalised for ``cos``."""

    similarity: Similarity
    dimensions: int | None

    def width(self, whole: int, source: str) -> int:
        """Return the width of what comes out of vectors with ``whole`` numbers; refuse to cut more than there is."""
        if self.dimensions is not None and self.dimensions > whole:
            raise RunError(
                f"{source} has vectors with {whole:,} numbers, and `dimensions: {self.dimensions}` of the teacher "
                f"wants more: lower it to {whole}, or leave it out."
            )
        return self.dimensions or whole

    def of(self, vectors: Floats) -> Floats:
        """Return vectors (B, W) cut and normalised: (B, D)."""
        cut = np.ascontiguousarray(vectors[:, : self.dimensions], dtype=np.float32)
        if self.similarity == "dot":
            return cut
        with np.errstate(invalid="ignore"):  # what is 0 after the cut becomes NaN
            # by a power of 2, which rounds nothing: squares of large numbers are infinite, and of small ones 0
            cut = np.ldexp(cut, -np.frexp(np.abs(cut).max(axis=1, keepdims=True))[1])
            normal: Floats = cut / np.linalg.norm(cut, axis=1, keepdims=True)
        return normal


class VectorFile:
    """A file of vectors and their ids; ``kind`` is what the ids are of, for the sentences."""

    def __init__(self, path: Path, ids: Path | None, kind: str) -> None:
        self.path, self.ids, self.kind = path, ids, kind
        plain = path.name.removesuffix(".gz")
        if plain.endswith(".npy") and ids is None:
            raise RunError(f"{path} holds numbers alone: name the file with the id of each row, one a line.")
        if ids is not None and not plain.endswith(".npy"):
            raise RunError(f"{path} holds its ids itself, and {ids} is for the rows of a `.npy` file: leave it out.")
        self._read = self._npy if ids else self._parquet if plain.endswith(".parquet") else self._jsonl
        self._rows = ":" if self._read == self._jsonl else ", row "  # how a place in it is named

    def fingerprint(self) -> str:
        """Return the sha256 of what is in it."""
        try:
            return " ".join(sha256(path) for path in (self.path, self.ids) if path is not None)
        except OSError as error:
            raise RunError(
                f"the file of vectors {error.filename} can't be read ({error.strerror or error}): give the right path "
                "in the teacher; a relative one counts from the recipe."
            ) from error

    def width(self) -> int:
        """Return how many numbers the first vector has."""
        first = next(self.blocks(1), None)
        if first is None:
            raise RunError(f"{self.path} holds no vector: a file of vectors has an id and a vector a row.")
        return int(first.vectors.shape[1])

    def blocks(self, size: int = BLOCK) -> Iterator[Block]:
        """Yield the rows in order; a vector of another width, with something else than numbers, or of 0 is refused."""
        width = 0
        for block in self._read(size):
            width = width or block.vectors.shape[1]
            if block.vectors.shape[1] != width:
                self.refuse(block.numbers[0], f"has {block.vectors.shape[1]} numbers, and those before have {width}")
            wrong = np.flatnonzero(~np.isfinite(block.vectors).all(axis=1))
            if len(wrong):
                name, number = block.ids[wrong[0]], block.numbers[wrong[0]]
                self.refuse(number, f"({name!r}) holds NaN or infinity, or lacks numbers; embed that text again")
            empty = np.flatnonzero(~block.vectors.any(axis=1))
            if len(empty):
                name, number = block.ids[empty[0]], block.numbers[empty[0]]
                self.refuse(number, f"({name!r}) is all 0, which is near nothing; embed that text again")
            yield block

    def refuse(self, number: int, what: str) -> NoReturn:
        """Refuse a row of the file."""
        raise RunError(f"{self.path}{self._rows}{number}: the vector {what}.")

    def _npy(self, size: int) -> Iterator[Block]:
        assert self.ids is not None
        try:
            vectors = np.load(self.path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise RunError(f"{self.path} can't be read as a `.npy` file of vectors ({error}).") from error
        if not isinstance(vectors, np.ndarray):
            raise RunError(f"{self.path} is an archive of several arrays: write the one of the vectors as `.npy`.")
        if vectors.ndim != 2 or vectors.dtype.kind not in "fiu":
            raise RunError(
                f"{self.path} holds an array of {vectors.dtype} with the shape {vectors.shape}: vectors are a table "
                "of numbers, a row for each text."
            )
        lines = (line for _, line in read_lines(self.ids, str(self.ids), _report))
        start = 0
        while names := [line.strip() for line in islice(lines, size)]:
            part = np.asarray(vectors[start : start + len(names)], dtype=np.float32)
            if len(part) < len(names):
                raise self._counts(len(vectors), start + len(names) + sum(1 for _ in lines))
            yield Block(names, part, range(start + 1, start + len(names) + 1))
            start += len(names)
        if start != len(vectors):
            raise self._counts(len(vectors), start)

    def _counts(self, rows: int, ids: int) -> RunError:
        return RunError(
            f"{self.path} has {rows:,} rows and {self.ids} has {ids:,} ids: which vector is whose can't be told. Write "
            "one id a line, in the order of the rows."
        )

    def _parquet(self, size: int) -> Iterator[Block]:
        try:
            with pq.ParquetFile(self.path) as file:
                there = file.schema_arrow.names
                id_, vector = (next((name for name in names if name in there), None) for names in (IDS, VECTORS))
                if id_ is None or vector is None:
                    raise RunError(
                        f"{self.path} has the columns {', '.join(there)}, and vectors need an id and a vector. Rename "
                        "two of them."
                    )
                first = 1
                for batch in file.iter_batches(size, columns=[id_, vector]):
                    if batch.column(id_).null_count:
                        self.refuse(first + batch.column(id_).is_null().index(True).as_py(), "has no id")
                    ids = batch.column(id_).cast(pa.string()).to_pylist()
                    yield Block(ids, self._listed(batch.column(vector), first), range(first, first + len(ids)))
                    first += len(ids)
        except (pa.ArrowException, OSError) as error:
            raise RunError(f"{self.path} can't be read as a Parquet file of vectors ({error}).") from error

    def _listed(self, column: Any, first: int) -> Floats:
        """Return the lists of a column as rows (B, D); one of another length is refused."""
        if isinstance(column, pa.ExtensionArray):  # a tensor of one dimension
            column = column.storage
        if not any(is_list(column.type) for is_list in LISTS):
            raise RunError(
                f"{self.path} has vectors of the type {column.type}, and a vector is a list of numbers: write that "
                "column as `list<float>`."
            )
        if not pa.types.is_fixed_size_list(column.type):
            lengths = column.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
            wrong = np.flatnonzero((lengths != lengths[0]) | (lengths == 0)) if len(lengths) else lengths
            if len(wrong):
                number = int(wrong[0])
                self.refuse(first + number, f"has {lengths[number]} numbers, and those before have {lengths[0]}")
        elif column.null_count:
            self.refuse(first + column.is_null().index(True).as_py(), "is missing")
        values = column.flatten().cast(pa.float32(), safe=False).to_numpy(zero_copy_only=False)  # a null becomes NaN
        return np.asarray(values, dtype=np.float32).reshape(len(column), -1)

    def _jsonl(self, size: int) -> Iterator[Block]:
        lines = read_lines(self.path, str(self.path), _report)
        while batch := list(islice(lines, size)):
            numbers = [number for number, _ in batch]
            pairs = [self._record(number, line) for number, line in batch]
            for number, (_, vector) in zip(numbers, pairs, strict=True):
                if len(vector) != len(pairs[0][1]):
                    self.refuse(number, f"has {len(vector)} numbers, and those before have {len(pairs[0][1])}")
            yield Block([name for name, _ in pairs], np.stack([vector for _, vector in pairs]), numbers)

    def _record(self, number: int, line: str) -> tuple[str, NDArray[np.float32]]:
        try:
            record = read_record(line)
            name = next(record[key] for key in IDS if record.get(key) is not None)
            vector = np.array(next(record[key] for key in VECTORS if record.get(key) is not None), dtype=np.float32)
            if vector.ndim != 1 or not len(vector):
                raise ValueError
        except (BadLineError, StopIteration, TypeError, ValueError, OverflowError):
            raise RunError(
                f'{self.path}:{number}: no line of vectors, as in {{"id": "p1", "vector": [0.1, 0.2]}}: {line[:80]!r}.'
            ) from None
        return str(name), vector


def import_vectors(
    file: VectorFile,
    target: Path,
    shape: Shape,
    find: Callable[[str], int],
    ids: Sequence[str],
    rows: NDArray[np.int32],
) -> tuple[int, int]:
    """Write the vectors of the collection's ``rows`` (R,), sorted, into the array ``target`` (R, D).

    Every row needs one, and has one. Returns how many vectors were read, and how many of them are of other ids.
    """
    width = shape.width(file.width(), str(file.path))
    out = np.lib.format.open_memmap(target, "w+", np.float32, (len(rows), width))
    seen = np.zeros(len(rows), dtype=np.int64)  # where the vector of each row stands in the file; 0: not yet
    read = unknown = 0
    for names, vectors, numbers in file.blocks():
        found = np.fromiter(map(find, names), dtype=np.int64, count=len(names))
        places = np.minimum(np.searchsorted(rows, found), len(rows) - 1)
        wanted = np.flatnonzero(rows[places] == found)
        for at in wanted.tolist():
            if seen[places[at]]:
                file.refuse(
                    numbers[at],
                    f"is the second of {names[at]!r}: the first is in row {seen[places[at]]}. Leave one of them out",
                )
            seen[places[at]] = numbers[at]
        values = shape.of(vectors[wanted])
        if not np.isfinite(values).all():
            number = numbers[wanted[np.flatnonzero(~np.isfinite(values).all(axis=1))[0]]]
            file.refuse(number, f"is 0 in its first {width} numbers: it can't be cut to them")
        out[places[wanted]] = values
        read, unknown = read + len(names), unknown + int((found < 0).sum())
    out.flush()
    lacking = np.flatnonzero(seen == 0)
    if len(lacking):
        some = ", ".join(repr(ids[int(row)]) for row in rows[lacking[:3]])
        first = next(file.blocks(1)).ids[0]
        alike = f" The ids in the file look like {first!r}." if len(lacking) == len(rows) else ""
        raise RunError(
            f"{file.path} lacks the vectors of {len(lacking):,} of the {len(rows):,} {file.kind} that are needed, such "
            f"as {some}.{alike} Add them to the file, or take these texts out of the collection."
        )
    return read, unknown


def _report(problem: Problem) -> None:
    raise RunError(str(problem))
