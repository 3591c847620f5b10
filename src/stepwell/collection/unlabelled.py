"""Texts without labels, from one file: more for a student to imitate; they are never searched."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import pyarrow as pa

from stepwell.collection.collection import Mapped, Strings, hash_text
from stepwell.collection.readers.lines import parsed, read_field, read_lines, read_record
from stepwell.collection.source import Problem
from stepwell.errors import CollectionError
from stepwell.files import cache, read_or_make, sha256

BLOCK = 2_048  # texts in one Arrow batch: what is held in memory while the file is read


@dataclass(frozen=True, eq=False)
class Unlabelled:
    """The texts of a file, memory-mapped: each once, in the order of the file."""

    name: str  # of the file, without its endings
    fingerprint: str  # sha256 of the file and of how it was read, hex
    texts: Strings

    def __len__(self) -> int:
        return len(self.texts)

    def slice(self, start: int, stop: int) -> list[str]:
        """Return texts ``start`` to ``stop`` (exclusive; cut at the end)."""
        return self.texts[start:stop]


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
    kind = "jsonl" if plain.endswith(".jsonl") else "lines"
    fingerprint = hashlib.sha256(f"{kind} {content}".encode()).hexdigest()
    cached = cache() / "unlabelled" / f"{fingerprint[:32]}.arrow"
    texts = read_or_make(cached, _map, partial(_write, path, kind))
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


def _write(path: Path, kind: str, target: Path) -> None:
    schema = pa.schema({"text": pa.string()})
    texts, some = _distinct(path, kind), False
    with pa.ipc.new_file(str(target), schema) as writer:
        while block := list(islice(texts, BLOCK)):
            writer.write_batch(pa.record_batch([block], schema=schema))
            some = True
    if not some:
        raise CollectionError(
            f"{path} holds no text: a file of unlabelled texts has one a line, or in a .jsonl file one object a line "
            'as {"text": "..."}.'
        )


def _distinct(path: Path, kind: str) -> Iterator[str]:
    """Yield the texts of a file, each once."""

    def report(problem: Problem) -> None:
        line = f":{problem.line}" if problem.line else ""
        raise CollectionError(f"{path}{line}: {problem.message}")

    def titled(number: int, line: str) -> str:
        record = read_record(line)
        return f"{read_field(record, 'title', 'text', required=False)} {read_field(record, 'text', 'text')}"

    lines, seen = read_lines(path, path.name, report), set[int]()
    for text in parsed(lines, path.name, report, titled) if kind == "jsonl" else (line for _, line in lines):
        key = hash_text(text.strip())
        if text.strip() and key not in seen:
            seen.add(key)
            yield text.strip()
