"""One file of the score store: an immutable, sorted, memory-mapped Arrow table that knows when it is damaged.

A segment is an Arrow IPC file with one record batch of two columns, ``pair`` (uint64, query row in the upper
half and passage row in the lower, rising) and ``score`` (float32). Its metadata holds a small index: the
first pair and a checksum of every block of 1,024 pairs. A look-up reads the index, checks the few blocks it
needs when it meets them for the first time, and touches nothing else; opening reads the index alone.
"""

import base64
import hashlib
import json
import uuid
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from stepwell.files import whole

BLOCK = 1024  # pairs; a power of two, because `find` halves it


class Owner(NamedTuple):
    """Whose scores these are: fingerprints of the teacher and of the collection."""

    teacher: str
    collection: str


class DamagedError(Exception):
    """A segment is not what was written."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self.path = path


@dataclass(frozen=True, eq=False)
class Segment:
    """An open segment of S pairs in B blocks; only the last three fields are in memory."""

    path: Path
    owner: Owner
    replaces: tuple[str, ...]  # names of the segments whose pairs it holds, and which are to be ignored
    pairs: NDArray[np.uint64]  # (S,), memory-mapped
    scores: NDArray[np.float32]  # (S,), memory-mapped
    firsts: NDArray[np.uint64]  # (B,), the first pair of each block
    checksums: NDArray[np.uint32]  # (B,), CRC-32 of each block
    checked: NDArray[np.bool_] = field(repr=False)  # (B,), which blocks have been read and found whole

    def __len__(self) -> int:
        return len(self.pairs)

    @classmethod
    def open(cls, path: Path) -> Self:
        """Map a segment and check its index; DamagedError for a file that is not as it was written."""
        try:
            with pa.memory_map(str(path)) as file, pa.ipc.open_file(file) as reader:
                metadata, batches = reader.schema.metadata or {}, reader.num_record_batches
                batch = reader.get_batch(0)
            facts = metadata[b"stepwell.facts"]
            index = base64.b64decode(metadata[b"stepwell.index"], validate=True)
            if hashlib.sha256(facts + index).hexdigest().encode() != metadata[b"stepwell.checksum"]:
                raise DamagedError(path)
            known = json.loads(facts)
            if (batches, batch.num_rows, batch.schema.types) != (1, known["pairs"], [pa.uint64(), pa.float32()]):
                raise DamagedError(path)
            # Not `to_numpy`: it imports pandas, which takes longer than everything here.
            pairs = np.frombuffer(batch.column(0).buffers()[1], np.uint64, count=batch.num_rows)
            scores = np.frombuffer(batch.column(1).buffers()[1], np.float32, count=batch.num_rows)
        except (pa.ArrowException, ValueError, KeyError) as error:
            raise DamagedError(path) from error
        except OSError as error:
            if error.errno is None:  # Arrow's own complaint about a file that ends too early
                raise DamagedError(path) from error
            raise
        blocks = -(-known["pairs"] // BLOCK)
        firsts = np.frombuffer(index, "<u8", count=blocks).astype(np.uint64)
        checksums = np.frombuffer(index, "<u4", offset=8 * blocks).astype(np.uint32)
        owner, checked = Owner(known["teacher"], known["collection"]), np.zeros(blocks, dtype=np.bool_)
        return cls(path, owner, tuple(known["replaces"]), pairs, scores, firsts, checksums, checked)

    def find(self, keys: NDArray[np.uint64]) -> NDArray[np.float32]:
        """Return the scores of ``keys`` (B,), NaN where there is none; DamagedError for a broken block."""
        found = np.full(keys.shape, np.nan, dtype=np.float32)
        block = np.searchsorted(self.firsts, keys, side="right") - 1
        inside = np.flatnonzero(block >= 0)
        block, keys = block[inside], keys[inside]
        self.check(np.unique(block[~self.checked[block]]))
        last, at, step = len(self) - 1, block * BLOCK, BLOCK // 2
        while step:  # the last pair of the block that is not above the key
            ahead = np.minimum(at + step, last)
            at = np.where(self.pairs[ahead] <= keys, ahead, at)
            step //= 2
        hit = self.pairs[at] == keys
        found[inside[hit]] = self.scores[at[hit]]
        return found

    def check(self, blocks: NDArray[np.intp]) -> None:
        """Read these blocks and compare them with their checksums; DamagedError at the first that differs."""
        for block in blocks.tolist():
            if _checksum(self.pairs, self.scores, block) != self.checksums[block]:
                raise DamagedError(self.path)
        self.checked[blocks] = True

    def whole(self) -> tuple[NDArray[np.uint64], NDArray[np.float32]]:
        """Return the pairs and scores of all blocks that are not damaged."""
        good = [_checksum(self.pairs, self.scores, block) == kept for block, kept in enumerate(self.checksums.tolist())]
        keep = np.repeat(good, BLOCK)[: len(self)]
        return self.pairs[keep], self.scores[keep]


def write_segment(
    directory: Path,
    owner: Owner,
    pairs: NDArray[np.uint64],
    scores: NDArray[np.float32],
    replaces: tuple[str, ...] = (),
) -> Path:
    """Write pairs (S,), rising and each once, and their scores (S,) as a new segment, whole or not at all."""
    blocks = range(-(-len(pairs) // BLOCK))
    checksums = np.array([_checksum(pairs, scores, block) for block in blocks], dtype="<u4")
    index = pairs[::BLOCK].astype("<u8").tobytes() + checksums.tobytes()
    facts = json.dumps({**owner._asdict(), "pairs": len(pairs), "replaces": replaces}).encode()
    checksum = hashlib.sha256(facts + index).hexdigest().encode()
    metadata = {"stepwell.facts": facts, "stepwell.index": base64.b64encode(index), "stepwell.checksum": checksum}
    batch = pa.record_batch({"pair": pairs, "score": scores}).replace_schema_metadata(metadata)
    # A name is never used twice: `replaces` of an older segment must not hit a newer one.
    path = directory / f"{uuid.uuid4().hex}.arrow"
    with whole(path) as draft, draft.open("wb") as file, pa.ipc.new_file(file, batch.schema) as writer:
        writer.write_batch(batch)
    return path


def _checksum(pairs: NDArray[np.uint64], scores: NDArray[np.float32], block: int) -> int:
    part = slice(block * BLOCK, (block + 1) * BLOCK)
    return zlib.crc32(scores[part].data, zlib.crc32(pairs[part].data))
