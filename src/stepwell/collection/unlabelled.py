"""Texts without labels, from one file: more for a student to imitate; they are never searched."""

import hashlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pyarrow as pa

from stepwell.collection.collection import Mapped, Strings, hash_text
from stepwell.collection.readers.lines import parsed, read_field, read_lines, read_record
from stepwell.collection.source import Problem
from stepwell.errors import CollectionError
from stepwell.files import cache, read_or_make, sha256

BLOCK = 2_048
"""Texts in one Arrow batch: what is held in memory while the file is read."""

_SCHEMA = pa.schema({"text": pa.string()})


class Unlabelled:
    """The texts of a file, memory-mapped: each once, in the order of the file."""

    def __init__(self, name: str, fingerprint: str, texts: Strings) -> None:
        self.name = name  # of the file, without its endings
        self.fingerprint = fingerprint  # sha256 of the file and of how it was read, hex
        self._texts = texts

    def __len__(self) -> int:
        return len(self._texts)

    def slice(self, start: int, stop: int) -> list[str]:
        """Return texts ``start`` to ``stop`` (exclusive; cut at the end)."""
        return self._texts[start:stop]


def open_unlabelled(path: Path) -> Unlabelled:
    """Open a file of texts: read once into an Arrow file in the cache, which later openings map.

    Each line is a text; in a ``.jsonl`` file it is an object with a ``text`` and perhaps a ``title``, which goes in
    front. Both may be gzipped. Blank lines, and texts that were there before, are passed over.
    """
    try:
        content = sha256(path)
    except OSError as error:
        raise CollectionError(
            f"the file of unlabelled texts {path} can't be read ({error.strerror or error}): give the right path in "
            "`more_passages` or `more_queries` of the rung; a relative one counts from the recipe."
        ) from error
    plain = path.name.removesuffix(".gz")
    objects = plain.endswith(".jsonl")
    fingerprint = hashlib.sha256(f"{'jsonl' if objects else 'lines'} {content}".encode()).hexdigest()
    cached = cache() / "unlabelled" / f"{fingerprint[:32]}.arrow"
    texts = read_or_make(cached, _map, partial(_write, path, objects))
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


def _write(path: Path, objects: bool, target: Path) -> None:
    """Write the texts to the cache."""
    seen, block = set[int](), list[str]()
    with pa.ipc.new_file(str(target), _SCHEMA) as writer:
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
        raise CollectionError(
            f"{path} holds no text: a file of unlabelled texts has one a line, or in a .jsonl file one object a line "
            'as {"text": "..."}.'
        )


def _texts(path: Path, objects: bool) -> Iterator[str]:
    def report(problem: Problem) -> None:
        line = f":{problem.line}" if problem.line else ""
        raise CollectionError(f"{path}{line}: {problem.message}")

    lines = read_lines(path, path.name, report)
    for text in parsed(lines, path.name, report, _titled) if objects else (line for _, line in lines):
        if text.strip():
            yield text.strip()


def _titled(number: int, line: str) -> str:
    record = read_record(line)
    return f"{read_field(record, 'title', 'text', required=False)} {read_field(record, 'text', 'text')}"
