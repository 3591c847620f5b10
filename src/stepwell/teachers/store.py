"""The score store: a teacher scores a pair of query and passage once, ever.

Teachers are the dear part of a ladder, so their logits are kept: for one teacher and one collection a folder
of immutable segments (:mod:`stepwell.teachers.segments`), shared by rungs, refine, re-runs and other recipes.
What :meth:`ScoreStore.add` has returned from survives a kill at any instant and a power cut. Several
processes may read and add at once.
"""

import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

import filelock
import numpy as np
from numpy.typing import ArrayLike, NDArray

from stepwell.errors import RunError, StepwellError
from stepwell.files import sync
from stepwell.teachers.segments import DamagedError, Owner, Segment, write_segment

FAN = 4  # so many segments of about one size become one
LARGEST = 4**11  # pairs; a segment of this size is not merged any more, so that merging needs bounded memory


class ScoreStore:
    """Scores (raw logits) of one teacher on one collection; 12 bytes a pair on disk, next to none in memory.

    Examples
    --------
    >>> import tempfile
    >>> store = ScoreStore.open(Path(tempfile.mkdtemp()), teacher="1f3a", collection="77b2")
    >>> store.add([0, 0, 1], [5, 6, 5], [2.5, -1.0, 0.25])
    >>> store.lookup([[0], [1]], [5, 6])  # broadcast to (Q, K)
    array([[ 2.5 , -1.  ],
           [ 0.25,   nan]], dtype=float32)
    >>> store.missing([1, 1], [5, 6])
    (array([1], dtype=int32), array([6], dtype=int32))
    """

    def __init__(self, directory: Path, owner: Owner) -> None:
        self.directory, self.owner = directory, owner
        self._segments: dict[str, Segment] = {}
        self._lock = filelock.FileLock(directory / "lock")

    @classmethod
    def open(cls, root: Path, teacher: str, collection: str) -> Self:
        """Open the store ``root/<collection[:16]>/<teacher[:16]>``, or start it; maps files, reads none.

        Parameters
        ----------
        root
            Folder of all score stores.
        teacher, collection
            Fingerprints (letters and digits); a folder with scores of others is refused.
        """
        for fingerprint in (teacher, collection):
            if not re.fullmatch(r"\w[\w.-]*", fingerprint):
                raise ValueError(f"{fingerprint!r} is no fingerprint: letters, digits, '_', '.' and '-' only")
        directory = root / collection[:16] / teacher[:16]
        store = cls(directory, Owner(teacher, collection))
        with store._disk("opened"):
            directory.mkdir(parents=True, exist_ok=True)
            store._refresh()
        return store

    def __len__(self) -> int:
        return sum(len(segment) for segment in self._segments.values())

    def lookup(self, queries: ArrayLike, passages: ArrayLike) -> NDArray[np.float32]:
        """Return the scores of pairs, NaN where there is none (and for the row -1, which fills short lists).

        Parameters
        ----------
        queries, passages
            Rows of the collection, of any shapes that broadcast: (Q, 1) and (Q, K) give (Q, K).
        """
        keys, real = _real(queries, passages)
        found = np.full(real.shape, np.nan, dtype=np.float32)
        found[real] = self._find(keys)
        return found

    def missing(self, queries: ArrayLike, passages: ArrayLike) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Return the pairs that have no score by now, each once, by query and then passage; rows -1 are left out."""
        with self._disk("read"):
            self._refresh()
        keys = np.unique(_real(queries, passages)[0])
        keys = keys[np.isnan(self._find(keys))]
        return (keys >> np.uint64(32)).astype(np.int32), (keys & np.uint64(0xFFFFFFFF)).astype(np.int32)

    def add(self, queries: ArrayLike, passages: ArrayLike, scores: ArrayLike) -> None:
        """Keep the scores of pairs for good; a pair that has a score keeps the one it has.

        Parameters
        ----------
        queries, passages
            Rows of the collection, of one shape.
        scores
            Raw logits, of the same shape.

        Raises
        ------
        ValueError
            When a score is not finite or a row is negative.
        StepwellError
            When the disk is full or the folder can't be written; nothing is lost that was there.
        """
        query, passage = np.ravel(queries), np.ravel(passages)
        score = np.ravel(scores).astype(np.float32)
        if not len(query) == len(passage) == len(score):
            raise ValueError(f"{len(query)} queries, {len(passage)} passages and {len(score)} scores")
        if not np.isfinite(score).all():
            raise ValueError(f"{int((~np.isfinite(score)).sum())} of {len(score)} scores are not finite")
        if len(query) and min(query.min(), passage.min()) < 0:
            raise ValueError("a row is negative: -1 fills short lists and can't have a score")
        keys, first = np.unique(_keys(query, passage), return_index=True)
        with self._disk("written"), self._lock:
            self._refresh()
            self._sweep()
            fresh = np.isnan(self._find(keys))
            if fresh.any():
                path = write_segment(self.directory, self.owner, keys[fresh], score[first[fresh]])
                self._segments[path.name] = Segment.open(path)
                self._compact()

    # -- segments

    def _find(self, keys: NDArray[np.uint64]) -> NDArray[np.float32]:
        """Look up keys (B,), after mending what turns out to be damaged."""
        while True:
            found = np.full(keys.shape, np.nan, dtype=np.float32)
            left = np.arange(len(keys))
            try:
                for segment in self._segments.values():
                    if not len(left):
                        break
                    found[left] = segment.find(keys[left])
                    left = left[np.isnan(found[left])]
                return found
            except DamagedError as error:
                self._rescue(self._segments[error.path.name])

    def _refresh(self) -> None:
        """See the segments that are there now."""
        for _ in range(100):
            with suppress(FileNotFoundError):  # merged by another process between the listing and the opening
                paths = [path for path in sorted(self.directory.glob("*.arrow")) if not path.name.startswith("draft-")]
                found = {path.name: segment for path in paths if (segment := self._open(path)) is not None}
                replaced = {name for segment in found.values() for name in segment.replaces}
                self._segments = {name: segment for name, segment in found.items() if name not in replaced}
                return
        raise StepwellError(f"The files of {self.directory} vanish while they are opened: is something deleting them?")

    def _open(self, path: Path) -> Segment | None:
        try:
            segment = self._segments.get(path.name) or Segment.open(path)
        except DamagedError:
            self._set_aside(path, "can't be read")
            return None
        if segment.owner != self.owner:
            raise RunError(
                f"{path} holds scores of the teacher {segment.owner.teacher!r} on the collection "
                f"{segment.owner.collection!r}, and not of {self.owner.teacher!r} on {self.owner.collection!r}: they "
                "would be taken for each other. Move the folder away, or name another one for scores."
            )
        return segment

    def _sweep(self) -> None:
        """Delete what merging or a kill (of an older version: ``.tmp``) has left; only with the lock: nobody writes."""
        for path in self.directory.iterdir():
            if path.suffix == ".tmp" or (path.suffix == ".arrow" and path.name not in self._segments):
                path.unlink(missing_ok=True)

    def _compact(self) -> None:
        """Merge FAN segments of one size class into one: each pair is rewritten log(N) times."""
        while True:
            classes: dict[int, list[Segment]] = {}
            for segment in self._segments.values():
                if len(segment) < LARGEST:
                    classes.setdefault((len(segment).bit_length() - 1) // 2, []).append(segment)
            full = next((segments for segments in classes.values() if len(segments) >= FAN), None)
            if full is None:
                return
            try:
                for segment in full:
                    segment.check(np.flatnonzero(~segment.checked))
            except DamagedError as error:
                self._rescue(self._segments[error.path.name])
                continue
            keys, first = np.unique(np.concatenate([segment.pairs for segment in full]), return_index=True)
            scores = np.concatenate([segment.scores for segment in full])[first]
            # The merged file comes first and names what it replaces: a kill between the two loses nothing.
            self._replace(full, keys, scores)
            self._sweep()

    def _replace(self, old: list[Segment], keys: NDArray[np.uint64], scores: NDArray[np.float32]) -> None:
        names = tuple(segment.path.name for segment in old)
        path = write_segment(self.directory, self.owner, keys, scores, replaces=names)
        for name in names:
            self._segments.pop(name, None)
        self._segments[path.name] = Segment.open(path)

    def _rescue(self, segment: Segment) -> None:
        """Put a damaged segment aside and keep the blocks of it that are whole."""
        with self._disk("mended"), self._lock:
            if segment.path.exists():
                keys, scores = segment.whole()
                if len(keys):
                    self._replace([segment], keys, scores)
                self._set_aside(segment.path, f"is damaged: {len(keys):,} of its {len(segment):,} scores are whole")
            self._segments.pop(segment.path.name, None)
            self._refresh()

    def _set_aside(self, path: Path, what: str) -> None:
        try:
            path.replace(path.with_suffix(".damaged"))
            sync(self.directory)
        except FileNotFoundError:
            return  # another process was faster
        warnings.warn(
            f"The score file {path} {what}. It was put aside (.damaged); the scores that are gone will be "
            "computed again. If this happens often, look at the disk.",
            stacklevel=3,
        )

    @contextmanager
    def _disk(self, done: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StepwellError(
                f"The scores in {self.directory} can't be {done}: "
                f"{os.strerror(error.errno) if error.errno else error}. What was kept there before is safe. "
                "Make room or mend the permissions, and run the same command again."
            ) from error


def _keys(queries: NDArray[np.integer], passages: NDArray[np.integer]) -> NDArray[np.uint64]:
    return (queries.astype(np.uint64) << np.uint64(32)) | passages.astype(np.uint64)


def _real(queries: ArrayLike, passages: ArrayLike) -> tuple[NDArray[np.uint64], NDArray[np.bool_]]:
    """Return the keys (B,) of pairs that are broadcast, and which of these they are: not those with a row -1."""
    query, passage = np.broadcast_arrays(np.asarray(queries), np.asarray(passages))
    real = (query >= 0) & (passage >= 0)
    return _keys(query[real], passage[real]), real
