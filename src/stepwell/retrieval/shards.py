"""A large array on its way to disk: made in shards, by whom and in what order ever, and then joined into one file.

Every file gets its name when it is whole, so a kill at any instant loses what was being made and nothing else.
"""

import errno
import io
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from stepwell.files import remove, whole


@dataclass(frozen=True)
class Shards:
    """The shards of an array of shape (N, D), float32, that ends as one ``.npy`` file.

    >>> import tempfile
    >>> shards = Shards(Path(tempfile.mkdtemp()) / "squares.npy", rows=5, width=1, block=2)
    >>> for number in (2, 0, 1):
    ...     start, stop = shards.bounds(number)
    ...     shards.write(number, np.arange(start, stop, dtype=np.float32)[:, None] ** 2)
    >>> shards.join()
    >>> np.load(shards.target).ravel()
    array([ 0.,  1.,  4.,  9., 16.], dtype=float32)
    """

    target: Path  # the file in the end; its shards lie beside it, in the folder ``shards``
    rows: int  # N
    width: int  # D
    block: int  # rows of a shard; the last one has what is left

    def __len__(self) -> int:
        return -(-self.rows // self.block)

    def bounds(self, number: int) -> tuple[int, int]:
        """Return the first row of a shard and the one after its last."""
        return number * self.block, min((number + 1) * self.block, self.rows)

    def has(self, number: int) -> bool:
        """Return whether a shard is there, whole and of the right shape, or has been joined already."""
        start, stop = self.bounds(number)
        return _is_array(self._path(number), stop - start, self.width) or number < self._joined()

    def write(self, number: int, values: NDArray[np.float32]) -> None:
        """Keep the rows of a shard."""
        start, stop = self.bounds(number)
        if values.shape != (stop - start, self.width):
            raise ValueError(f"shard {number} holds {stop - start} x {self.width} numbers, not {values.shape}")
        self._path(number).parent.mkdir(exist_ok=True)
        write_array(self._path(number), values.astype(np.float32, copy=False))

    def join(self) -> None:
        """Append the shards to one file, each deleted once it is in there; goes on where a killed run stopped."""
        if _is_array(self.target, self.rows, self.width):
            return
        header, joined = _header(self.rows, self.width), self._joined()
        with self._draft.open("ab") as file:
            rows = min(joined * self.block, self.rows)
            file.truncate(len(header) + 4 * self.width * rows if joined else 0)
            if not joined:
                file.write(header)
            for number in range(joined, len(self)):
                path, (start, stop) = self._path(number), self.bounds(number)
                if not _is_array(path, stop - start, self.width):
                    raise FileNotFoundError(errno.ENOENT, "a shard is missing", str(path))
                file.write(path.read_bytes()[-4 * (stop - start) * self.width :])
                _sync(file)  # before the other copy goes
                path.unlink()
            _sync(file)
        self._draft.replace(self.target)

    def finish(self) -> None:
        """Join the shards, and remove their folder."""
        self.join()
        remove(self.target.parent / "shards")

    @property
    def _draft(self) -> Path:
        return self.target.with_suffix(".draft")

    def _path(self, number: int) -> Path:
        return self.target.parent / "shards" / f"{self.target.stem}-{number:06d}.npy"

    def _joined(self) -> int:
        """Return how many shards are in the joined file, or in the one that is being made."""
        if _is_array(self.target, self.rows, self.width):
            return len(self)
        rows = _content(self._draft, self.rows, self.width) // (4 * self.width)
        return len(self) if rows >= self.rows else max(0, rows) // self.block


def write_array(path: Path, values: NDArray[Any]) -> None:
    """Write an array as ``.npy``, whole or not at all; a full disk is an OSError that says so."""
    with whole(path) as draft, draft.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(values))
        file.write(np.ascontiguousarray(values).data)  # numpy's own way (tofile) loses the reason of a failure


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _header(rows: int, width: int) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "<f4", "fortran_order": False, "shape": (rows, width)})
    return buffer.getvalue()


def _is_array(path: Path, rows: int, width: int) -> bool:
    """Return whether ``path`` is a float32 array of this shape, with all its bytes."""
    return _content(path, rows, width) == 4 * rows * width


def _content(path: Path, rows: int, width: int) -> int:
    """Return the bytes behind the header of a float32 array of this shape; -1 when there is none in ``path``."""
    header = _header(rows, width)
    with suppress(FileNotFoundError), path.open("rb") as file:
        if file.read(len(header)) == header:
            return path.stat().st_size - len(header)
    return -1
