"""A collection: passages, queries and judgements, memory-mapped and addressed by row number."""

import difflib
import hashlib
import mmap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, overload

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from stepwell.collection.qrels import Answers, Given, Qrels
from stepwell.errors import CollectionError

Rows = Sequence[int] | NDArray[np.integer]

_NEAREST_AMONG = 20_000  # ids compared when an id is unknown: enough to be helpful, few enough to be quick
_RELEASE_AFTER = 1 << 16  # strings read until their pages are let go


def write_columns(path: Path, **columns: NDArray[Any]) -> None:
    """Write columns of numbers of one length as an Arrow IPC file, for :class:`Mapped`."""
    batch = pa.RecordBatch.from_pydict({name: pa.array(column) for name, column in columns.items()})
    with pa.ipc.new_file(str(path), batch.schema) as writer:
        writer.write_batch(batch)


class Mapped:
    """An Arrow IPC file mapped into memory: nothing is read until it is used."""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            self._memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self.table: pa.Table = pa.ipc.open_file(pa.py_buffer(self._memory)).read_all()

    def numbers(self, name: str) -> NDArray[Any]:
        """Return a column of numbers as an array over the mapped file (pyarrow's own way imports pandas first)."""
        chunks = [chunk for chunk in self.table[name].chunks if len(chunk)]
        kind = np.dtype(str(self.table.schema.field(name).type))
        arrays = [np.frombuffer(c.buffers()[1], kind, len(c), c.offset * kind.itemsize) for c in chunks]
        return arrays[0] if len(arrays) == 1 else np.concatenate([np.zeros(0, kind), *arrays])

    def release(self) -> None:
        """Let the pages that were read go: they are read again when used, and the process stays small."""
        with suppress(AttributeError, OSError):  # not every system has it
            self._memory.madvise(mmap.MADV_DONTNEED)


class Strings(Sequence[str]):
    """A column of strings on disk, read on demand; all chunks but the last have the same length.

    ``release`` is called now and then, after so many strings that the memory behind the column is worth letting go.
    """

    def __init__(self, column: pa.ChunkedArray, release: Callable[[], None] | None = None) -> None:
        self._chunks: list[pa.StringArray] = [chunk for chunk in column.chunks if len(chunk)]
        self._length = len(column)
        self._size = len(self._chunks[0]) if self._chunks else 1
        self._release, self._read = release, 0

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, at: int) -> str: ...
    @overload
    def __getitem__(self, at: slice) -> list[str]: ...
    def __getitem__(self, at: int | slice) -> str | list[str]:
        if isinstance(at, slice):
            return self.take(range(*at.indices(self._length)))
        if not -self._length <= at < self._length:
            raise IndexError(f"row {at} of {self._length}")
        chunk, within = divmod(at % self._length, self._size)
        return str(self._chunks[chunk][within].as_py())

    def __iter__(self) -> Iterator[str]:
        for chunk in self._chunks:
            yield from chunk.to_pylist()
            self._count(len(chunk))

    def _count(self, read: int) -> None:
        self._read += read
        if self._release is not None and self._read >= _RELEASE_AFTER:
            self._release()
            self._read = 0

    def take(self, rows: Rows) -> list[str]:
        """Return the strings at ``rows``, in that order; a row outside (also -1) raises IndexError."""
        wanted = np.asarray(rows, dtype=np.int64)
        if len(wanted) and not (wanted.min() >= 0 and wanted.max() < self._length):
            raise IndexError(f"rows {wanted.min()} to {wanted.max()} of {self._length}")
        order = np.argsort(wanted, kind="stable")
        chunks, within = np.divmod(wanted[order], self._size)
        taken: list[str] = [""] * len(wanted)
        edges = np.flatnonzero(np.diff(chunks, prepend=-1, append=-1)).tolist()  # where another chunk begins
        for start, stop in pairwise(edges):
            values = self._chunks[chunks[start]].take(pa.array(within[start:stop])).to_pylist()
            for place, value in zip(order[start:stop], values, strict=True):
                taken[place] = value
        self._count(len(taken))
        return taken


def hash_text(text: str) -> int:
    """Return a 64-bit hash of a string, the same on every machine."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def normal(text: str) -> str:
    """Return a text as it counts for duplicates: lower case, single blanks.

    >>> normal(" Who  won? ")
    'who won?'
    """
    return " ".join(text.lower().split())


@dataclass(frozen=True, eq=False)
class IdIndex:
    """From id to row without a dictionary in memory: hashes in sorted order, found by bisection."""

    ids: Strings  # by row
    hashes: NDArray[np.uint64]  # of all ids, sorted: (N,)
    rows: NDArray[np.int32]  # that the hashes belong to: (N,)

    def find(self, name: str) -> int:
        """Return the row of an id, -1 when there is none."""
        hashed = np.uint64(hash_text(name))
        first, last = (np.searchsorted(self.hashes, hashed, side) for side in ("left", "right"))
        rows = self.rows[first:last].tolist()  # mostly one: others have an id with the same hash
        return next((row for row in rows if self.ids[row] == name), -1)

    def row(self, name: str, kind: str, collection: str) -> int:
        """Return the row of an id, or raise StepwellError that names the nearest ids."""
        row = self.find(name)
        if row < 0:
            near = difflib.get_close_matches(name, islice(self.ids, _NEAREST_AMONG), n=3)
            hint = f"The nearest ids are {', '.join(map(repr, near))}" if near else f"Its ids look like {self.ids[0]!r}"
            raise CollectionError(f"The collection {collection} has no {kind} with the id {name!r}. {hint}.")
        return row


def write_index(path: Path, hashes: NDArray[np.uint64]) -> None:
    """Write the index of ids, given their hashes by row."""
    rows = np.argsort(hashes, kind="stable").astype(np.int32)
    write_columns(path, hash=hashes[rows], row=rows)


def map_texts(folder: Path, kind: str) -> tuple[IdIndex, Strings]:
    """Map the index of the ids and the texts of a kind; ValueError or OSError when they are damaged."""
    texts, index = Mapped(folder / f"{kind}.arrow"), Mapped(folder / f"{kind}-index.arrow")
    if texts.table.num_rows != index.table.num_rows:
        raise ValueError(f"{kind}: {texts.table.num_rows} texts, {index.table.num_rows} ids")
    ids = Strings(texts.table["id"], texts.release)
    return IdIndex(ids, index.numbers("hash"), index.numbers("row")), Strings(texts.table["text"], texts.release)


class Collection:
    """Passages, queries and judgements; an immutable view over memory-mapped Arrow files.

    Made by :func:`stepwell.collection.open_collection`. Ids may be any strings; everything inside stepwell
    speaks in row numbers, which follow the order of the files. ``place`` opens it again, wherever that is done.
    ``fingerprint`` names all of its content, ``texts_fingerprint`` ids and texts alone: what depends on no judgement
    (tokens, vectors, teacher scores) outlives a change of the qrels.
    """

    def __init__(self, folder: Path, facts: Mapping[str, Any], name: str, path: Path, place: str) -> None:
        # `folder` and `facts` are as `scan` makes them; an index keeps passages alone, and of the facts the fingerprint
        self.name, self.path, self.place = name, path, place
        self.fingerprint: str = facts["fingerprint"]
        self.texts_fingerprint: str = facts.get("texts", self.fingerprint)
        self._passage_index, self._passages = map_texts(folder, "passage")
        self._starts: NDArray[np.int32] = Mapped(folder / "passage-start.arrow").numbers("start")
        none, no_rows = Strings(pa.chunked_array([], pa.string())), np.zeros(0, np.int32)
        self._query_index, self._queries = IdIndex(none, np.zeros(0, np.uint64), no_rows), none
        self._qrels, self._given, answers = dict[str, Qrels](), dict[str, Given](), None
        if "splits" in facts:
            self._query_index, self._queries = map_texts(folder, "query")
            table = Mapped(folder / "query.arrow").table
            if "answers" in table.column_names:
                answers = Answers(lambda query: table["answers"][query].as_py(), self._bodies)
        for number, split in enumerate(facts.get("splits", ())):
            judged = Mapped(folder / f"qrels-{number}.arrow")
            rows, found, grades = (judged.numbers(column) for column in ("query", "passage", "grade"))
            some = found >= 0  # -1 for a query that only belongs to the split
            level = facts["levels"][split]
            self._qrels[split] = Qrels(rows[some], found[some], grades[some], rows[~some], level, answers)
            if split in facts["given"]:
                pairs = Mapped(folder / f"given-{number}.arrow")
                self._given[split] = Given(pairs.numbers("query"), pairs.numbers("passage"))
        made = folder / "query-synthetic.arrow"
        self._synthetic = Mapped(made).numbers("row") if made.exists() else no_rows
        self.n_passages, self.n_queries = len(self._passages), len(self._queries)
        self.passage_ids: Sequence[str] = self._passage_index.ids  # by row, read on demand
        self.query_ids: Sequence[str] = self._query_index.ids  # also of queries outside of all splits
        self.splits = tuple(self._qrels)  # the names of the qrels files

    def __repr__(self) -> str:
        sizes = f"{self.n_passages:,} passages, {self.n_queries:,} queries"
        return f"Collection({self.name!r}, {sizes}, {', '.join(self.splits)})"

    def passage_texts(self, rows: Rows | None = None) -> list[str]:
        """Return passages (title, a blank, text) at ``rows`` in that order (-1 raises IndexError); all when None."""
        return list(self._passages) if rows is None else self._passages.take(rows)

    def passage_starts(self, rows: Rows) -> list[int]:
        """Return the character of each passage at which its text begins, behind the title."""
        starts: list[int] = self._starts[np.asarray(rows, dtype=np.int64)].tolist()
        return starts

    def _bodies(self, rows: Rows) -> list[str]:
        """Return passages without their titles."""
        return [text[start:] for text, start in zip(self._passages.take(rows), self.passage_starts(rows), strict=True)]

    def query_texts(self, rows: Rows | None = None) -> list[str]:
        """Return queries at ``rows`` in that order; all when None."""
        return list(self._queries) if rows is None else self._queries.take(rows)

    def passages_slice(self, start: int, stop: int) -> list[str]:
        """Return passages ``start`` to ``stop`` (exclusive; cut at the end)."""
        return self._passages[start:stop]

    def passage_row(self, id: str) -> int:
        """Return the row of a passage id; StepwellError names the nearest ids when it is unknown."""
        return self._passage_index.row(id, "passage", self.name)

    def query_row(self, id: str) -> int:
        """Return the row of a query id; StepwellError names the nearest ids when it is unknown."""
        return self._query_index.row(id, "query", self.name)

    def find_passage(self, id: str) -> int:
        """Return the row of a passage id, -1 when there is none."""
        return self._passage_index.find(id)

    def find_query(self, id: str) -> int:
        """Return the row of a query id, -1 when there is none."""
        return self._query_index.find(id)

    def qrels(self, split: str) -> Qrels:
        """Return the judgements of a split; StepwellError names those there are when it is unknown."""
        if not self._qrels:
            raise CollectionError(
                f"The collection {self.name} has passages and no judged queries, so there is no split {split!r}: "
                f"`stepwell init {self.path}` makes synthetic ones from the passages."
            )
        if split not in self._qrels:
            files = self.path / "qrels"
            more = f", or add qrels/{split}.tsv" if files.is_dir() else ""
            raise CollectionError(
                f"The collection {self.name} has no split {split!r}: {files if more else self.path} holds "
                f"{', '.join(self.splits) or 'none'}. Name one of these{more}."
            )
        return self._qrels[split]

    def is_synthetic(self, query_rows: Rows) -> NDArray[np.bool_]:
        """Say for each query (a row) whether it was made from a passage, instead of asked by somebody."""
        return np.isin(np.asarray(query_rows), self._synthetic)

    def given(self, split: str) -> Given | None:
        """Return the negatives that came with a split, None when there are none; for a run, ``Run.given``."""
        self.qrels(split)
        return self._given.get(split)
