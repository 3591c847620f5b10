"""Vectors that were paid for, kept by the text's hash: one file that only grows, so a kill loses what was not written.

A record is the first half of the text's sha256, a checksum, and the vector in fp32. Half a record at the end is cut
off by the next writer; one that the disk has damaged is as if it were not there, and its text is asked for again.
"""

import hashlib
import json
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stepwell.errors import RunError
from stepwell.files import locked, write_json, writing
from stepwell.retrieval.run import Floats

Keys = NDArray[np.bytes_]
KEY = 16  # bytes


def keys_of(texts: Sequence[str]) -> Keys:
    """Return the keys of texts (B,)."""
    found = [hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:KEY] for text in texts]
    return np.array(found, dtype=f"S{KEY}")


class TextVectors:
    """The vectors that one model gave of texts; ``facts`` say which model, and name the folder.

    Examples
    --------
    >>> import tempfile
    >>> kept = TextVectors(Path(tempfile.mkdtemp()), {"model": "m"})
    >>> with kept.writing():
    ...     kept.add(keys_of(["a", "b"]), np.float32([[1, 2], [3, 4]]))
    >>> kept.has(keys_of(["b", "c"])), kept.read(keys_of(["b", "c"]))[0]
    (array([ True, False]), array([[3., 4.],
           [0., 0.]], dtype=float32))
    """

    def __init__(self, root: Path, facts: Mapping[str, Any]) -> None:
        name = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
        self.folder, self.facts = root / name[:32], dict(facts)
        self.refresh()

    def refresh(self) -> None:
        """See what is there now."""
        files = sorted(self.folder.glob("vectors-*.bin"))
        self.width = int(files[0].stem.partition("-")[2]) if files else None
        names, size = np.zeros(0, f"S{KEY}"), 0
        if files:
            size = files[0].stat().st_size // self._record.itemsize
            names = self._map(size)["key"] if size else names
        self._order = np.argsort(names, kind="stable")  # of equal ones the later: it was asked for again
        self._sorted = names[self._order]
        self._added: dict[bytes, int] = {}
        self._size = size

    @property
    def _record(self) -> np.dtype[np.void]:
        return np.dtype([("key", f"S{KEY}"), ("sum", "<u4"), ("vector", "<f4", (self.width,))])

    @property
    def _file(self) -> Path:
        return self.folder / f"vectors-{self.width}.bin"

    def _map(self, size: int) -> NDArray[np.void]:
        return np.memmap(self._file, self._record, "r", shape=(size,))

    def _places(self, keys: Keys) -> NDArray[np.int64]:
        """Return the record of each key (B,), -1 where there is none."""
        places = np.full(len(keys), -1, dtype=np.int64)
        if len(self._sorted):
            last = np.searchsorted(self._sorted, keys, "right") - 1
            found = (last >= 0) & (self._sorted[last] == keys)
            places[found] = self._order[last[found]]
        for at, key in enumerate(keys.tolist() if self._added else ()):
            places[at] = self._added.get(key, places[at])
        return places

    def has(self, keys: Keys) -> NDArray[np.bool_]:
        """Return which keys have a vector (B,)."""
        return self._places(keys) >= 0

    def read(self, keys: Keys) -> tuple[Floats, NDArray[np.bool_]]:
        """Return the vectors of keys (B, D), and which of them are there and whole (B,)."""
        places, width = self._places(keys), self.width or 0
        out, whole = np.zeros((len(keys), width), dtype=np.float32), places >= 0
        if self._size:
            records = self._map(self._size)[np.maximum(places, 0)]
            whole &= records["sum"] == _sums(records)
            out[whole] = records["vector"][whole]
        return out, whole

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the store for one process that adds to it; others wait, and see then what it added."""
        with locked(self.folder), writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            self.refresh()
            if not (self.folder / "source.json").is_file():
                write_json(self.folder / "source.json", self.facts)
            yield

    def add(self, keys: Keys, vectors: Floats) -> None:
        """Keep vectors (B, D) for good; only within :meth:`writing`."""
        if self.width is None:
            self.width = vectors.shape[1]
        if vectors.shape[1] != self.width:
            raise RunError(
                f"{self.folder} holds vectors with {self.width:,} numbers of this teacher, and now it gives "
                f"{vectors.shape[1]:,}: another model answers under the same url and name. Say which one is meant in "
                "`model` (or `extra`), or move that folder away to have all texts embedded anew."
            )
        records = np.zeros(len(keys), dtype=self._record)
        records["key"], records["vector"] = keys, vectors
        records["sum"] = _sums(records)
        with self._file.open("ab") as file:
            file.truncate(self._size * self._record.itemsize)  # half a record, of a kill
            file.write(records.tobytes())
            file.flush()
            os.fsync(file.fileno())
        for at, key in enumerate(keys.tolist()):
            self._added[key] = self._size + at
        self._size += len(keys)


def _sums(records: NDArray[np.void]) -> NDArray[np.uint32]:
    """Return the checksum of each record's key and vector (B,)."""
    names = [key.ljust(KEY, b"\0") for key in records["key"].tolist()]  # numpy drops zeros at the end
    pairs = zip(names, records["vector"], strict=True)
    return np.array([zlib.crc32(name + vector.tobytes()) for name, vector in pairs], dtype=np.uint32)
