"""Texts without labels, from one file: more for a student to imitate; they are never searched."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
from filelock import FileLock

from stepwell.collection.collection import Mapped, Strings, hash_text
from stepwell.collection.readers.beir import read_field, read_record
from stepwell.collection.readers.lines import read_lines
from stepwell.collection.source import BadLineError, Problem
from stepwell.errors import StepwellError
from stepwell.files import cache as default_cache

BLOCK = 2_048
"""Texts in one Arrow batch: what is held in memory while the file is read."""

_SCHEMA = pa.schema({"text": pa.string()})


class Unlabelled:
    """The texts of a file, memory-mapped.

    Parameters
    ----------
    name
        The file's name without its endings.
    fingerprint
        The sha256 of the file and of how it was read, hex.
    texts
        The texts by row: each once, in the order of the file.
    """

    def __init__(self, name: str, fingerprint: str, texts: Strings) -> None:
        self.name, self.fingerprint, self._texts = name, fingerprint, texts

    def __len__(self) -> int:
        return len(self._texts)

    def slice(self, start: int, stop: int) -> list[str]:
        """Return texts ``start`` to ``stop`` (exclusive; cut at the end)."""
        return self._texts[start:stop]


def open_unlabelled(path: Path) -> Unlabelled:
    """Open a file of texts: read once into an Arrow file in the cache, which later openings map.

    Each line is a text; in a ``.jsonl`` file it is an object with a ``text`` and perhaps a ``title``, which goes in
    front. Both may be gzipped. Blank lines, and texts that were there before, are passed over.

    Raises
    ------
    StepwellError
        With the line, when it can't be read; or when it holds no text.
    """
    try:
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise StepwellError(
            f"the file of unlabelled texts {path} can't be read ({error.strerror or error}): give the right path in "
            "`more_passages` or `more_queries` of the rung; a relative one counts from the recipe."
        ) from error
    plain = path.name.removesuffix(".gz")
    objects = plain.endswith(".jsonl")
    fingerprint = hashlib.sha256(f"{'jsonl' if objects else 'lines'} {content}".encode()).hexdigest()
    cached = default_cache() / "unlabelled" / f"{fingerprint[:32]}.arrow"
    texts = _map(cached)
    if texts is None:
        cached.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{cached}.lock"):
            texts = _map(cached)  # another process may have been faster
            if texts is None:
                _write(path, objects, cached)
                texts = _map(cached)
    if texts is None:
        raise OSError(f"the texts in {cached} can't be read back: the disk may be failing")
    return Unlabelled(plain.partition(".")[0], fingerprint, texts)


def _map(cached: Path) -> Strings | None:
    """Map a file of the cache; None when it is absent or damaged."""
    try:
        mapped = Mapped(cached)
        return Strings(mapped.table["text"], mapped.release)
    except (OSError, ValueError, KeyError, pa.ArrowException):
        return None


def _write(path: Path, objects: bool, cached: Path) -> None:
    """Write the texts to the cache, under another name until all are there."""
    draft = cached.with_suffix(".draft")
    seen, block = set[int](), list[str]()
    with pa.ipc.new_file(str(draft), _SCHEMA) as writer:
        for text in _texts(path, objects):
            key = hash_text(text)
            if key not in seen:
                seen.add(key)
                block.append(text)
            if len(block) == BLOCK:
                writer.write_batch(pa.record_batch([block], schema=_SCHEMA))
                block = []
        if block:
            writer.write_batch(pa.record_batch([block], schema=_SCHEMA))
    if not seen:
        draft.unlink()
        raise StepwellError(
            f"{path} holds no text: a file of unlabelled texts has one a line, or in a .jsonl file one object a line "
            'as {"text": "..."}.'
        )
    draft.replace(cached)


def _texts(path: Path, objects: bool) -> Iterator[str]:
    def report(problem: Problem) -> None:
        line = f":{problem.line}" if problem.line else ""
        raise StepwellError(f"{path}{line}: {problem.message}")

    for number, line in read_lines(path, path.name, report):
        text = line
        if objects:
            try:
                record = read_record(line)
                title = read_field(record, "title", "text", required=False)
                text = f"{title} {read_field(record, 'text', 'text', required=True)}"
            except BadLineError as bad:
                raise StepwellError(f"{path}:{number}: {bad}") from None
        if text.strip():
            yield text.strip()
