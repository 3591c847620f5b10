"""Read a data set of Hugging Face, from the hub or from a directory, through the ``datasets`` library.

``hf:NAME``, with a configuration and a revision where they are needed: ``hf:sentence-transformers/all-nli/triplet``,
``hf:BeIR/scifact@0cb1a2f``. Two shapes are read. BEIR's: ``corpus`` and ``queries``, and judgements in ``qrels``,
``default`` or, as BEIR publishes them, in another data set called ``NAME-qrels``. Sentence-transformers' tuples: a
query, a passage that answers it, and passages that don't; equal texts are one passage.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from stepwell.collection.collection import hash_text
from stepwell.collection.readers.lines import BadLineError
from stepwell.collection.readers.tables import read_judgements, read_texts
from stepwell.collection.source import (
    Judgement,
    Kind,
    Problem,
    Report,
    Source,
    Text,
    explained,
    import_reader,
    once,
    stamp_files,
)
from stepwell.errors import CollectionError

PREFIX = "hf:"
# The names by which the columns of tuples are found; negatives may be numbered, and hold lists.
TUPLES = {
    "query.text": ("anchor", "query", "question", "sentence1"),
    "positive": ("positive", "pos", "answer", "passage", "document", "sentence2"),
    "negatives": ("negative", "neg"),
}
_PARTS: dict[Kind, str] = {"passage": "corpus", "query": "queries"}
_QRELS = ("qrels", "default")
_MARKS = ("dataset_dict.json", "dataset_info.json")

SIGN = f"{' or '.join(_MARKS)} (as `datasets` saves them, also in corpus/, queries/ and qrels/)"


def is_saved(directory: Path) -> bool:
    """Say whether ``save_to_disk`` wrote a directory, as a whole or as ``corpus``, ``queries`` and ``qrels``."""
    return any((directory / part / mark).is_file() for part in ("", "corpus") for mark in _MARKS)


class HuggingFace(Source):
    """A data set; the library is imported, and data downloaded, when it is first read."""

    def find(self, report: Report) -> None:
        """Take the place, and configuration and revision out of a name."""
        self.name = self._where = self.home.as_posix().removeprefix(PREFIX)
        self._local = Path(self.name).resolve() if Path(self.name).is_dir() else None
        self._saved = self._local if self._local is not None and is_saved(self._local) else None
        self._config = self._revision = None
        if self._local is not None:
            self.name, self._where = self._local.name, str(self._local)
        else:
            whole, _, revision = self.name.partition("@")
            parts = whole.split("/")
            self._where = "/".join(parts[:2])
            self._config, self._revision = "/".join(parts[2:]) or None, revision or None
        self.home = self._saved or Path(f"{PREFIX}{self._local or self.name}")

    def stamp(self) -> dict[str, Any]:
        """Return sizes and times of local files; of the hub, the name: another revision is another collection."""
        if self._local is None:
            return {"hub": self.name}
        return stamp_files(self._local, sorted(file for file in self._local.rglob("*") if file.is_file()))

    def label(self, kind: Kind) -> str:
        """Return the name, with the part for the shape of BEIR."""
        return f"{self.name}/{_PARTS[kind]}" if self._beir else self.name

    @cached_property
    def _library(self) -> Any:
        return import_reader("datasets", "Hugging Face's datasets", self.home)

    def _call(self, function: Callable[..., Any], *given: Any, **more: Any) -> Any:
        """Call the library; what it raises becomes a sentence."""
        advice = "Mind the name, and whether it needs a configuration (NAME/CONFIGURATION) or a login."
        with explained(f"{self.home} can't be read as a data set of Hugging Face", advice):
            return function(*given, **more)

    @cached_property
    def _opened(self) -> dict[str, dict[str, Any]]:
        """The configurations by name, each as its splits; opened once, read as often as needed."""
        beir = (*_PARTS.values(), *_QRELS)
        if self._saved is None:
            names = [self._config] if self._config else self._call(self._library.get_dataset_config_names, self._where)
        elif any((self._saved / mark).is_file() for mark in _MARKS):
            names = [""]
        else:
            names = [part for part in beir if is_saved(self._saved / part)]
        if set(_PARTS.values()) <= set(names):
            names = [part for part in names if part in beir]
        elif len(names) > 1:
            message = f"{self.home} has several configurations ({', '.join(names)}): name one, as in "
            raise CollectionError(f"{message}{self.home}/{names[0]}.")
        opened = {name: self._open(self._where, name) for name in names}
        if set(opened) == set(_PARTS.values()):
            if self._local is not None:
                raise CollectionError(f"{self.home} has corpus and queries, and no qrels (nor default) beside them.")
            opened["qrels"] = self._open(f"{self._where}-qrels", None)
        return opened

    def _open(self, name: str, part: str | None) -> dict[str, Any]:
        """Return a configuration as its splits; without any, all is ``train``."""
        if self._saved is not None:
            opened = self._call(self._library.load_from_disk, str(self._saved / (part or "")))
        else:
            opened = self._call(self._library.load_dataset, name, part, revision=self._revision)
        return dict(opened) if isinstance(opened, dict) else {"train": opened}

    @property
    def _beir(self) -> bool:
        return set(_PARTS.values()) <= set(self._opened)

    @cached_property
    def _judged(self) -> tuple[str, dict[str, Any]]:
        """The configuration that holds the judgements or tuples, and its splits."""
        part = next(part for part in (*_QRELS, *self._opened) if part in self._opened)
        return part, self._opened[part]

    def read(self, kind: Kind, report: Report) -> Iterator[Text]:
        """Yield the passages or queries; equal texts of tuples once."""
        if not self._beir:
            return once(self._tuple_texts(kind, report), "text")
        records = ((n, row) for rows in self._opened[_PARTS[kind]].values() for n, row in enumerate(rows, start=1))
        return read_texts(self, records, kind, self.label(kind), report)

    def _tuple_texts(self, kind: Kind, report: Report) -> Iterator[Text]:
        for split, file in self.splits.items():
            for number, query, positives, negatives in self._tuples(split, report):
                for text in (query,) if kind == "query" else (*positives, *negatives):
                    yield Text(number, _id(text, kind), "", text, file)

    @property
    def splits(self) -> dict[str, str]:
        """The splits of the judgements or tuples."""
        part, sets = self._judged
        return {split: "/".join(filter(None, (self.name, part, split))) for split in sets}

    def judgements(self, split: str, report: Report) -> Iterator[Judgement]:
        """Yield the judgements of a split."""
        if self._beir:
            return read_judgements(self, enumerate(self._judged[1][split], start=1), self.splits[split], report)
        return once(self._tuple_judgements(split, 1, report), "query", "passage")

    def negatives(self, split: str, report: Report) -> Iterator[Judgement]:
        """Yield the negatives of the tuples of a split."""
        return iter(()) if self._beir else self._tuple_judgements(split, 0, report)

    def _tuple_judgements(self, split: str, grade: int, report: Report) -> Iterator[Judgement]:
        for number, query, positives, negatives in self._tuples(split, report):
            for text in positives if grade else negatives:
                yield Judgement(number, _id(query, "query"), _id(text, "passage"), grade, self.splits[split])

    def _tuples(self, split: str, report: Report) -> Iterator[tuple[int, str, list[str], list[str]]]:
        """Yield (row, query, positives, negatives)."""
        rows, file = self._judged[1][split], self.splits[split]
        query, positive, negatives = self._tuple_columns(rows.column_names, file)
        for number, row in enumerate(rows, start=1):
            try:
                (question,) = _texts_of(row, query)
                against = [text for column in negatives for text in _texts_of(row, column)]
                yield number, question, _texts_of(row, positive), against
            except (BadLineError, ValueError) as bad:
                report(Problem("error", file, number, "field", str(bad)))

    def _tuple_columns(self, there: list[str], file: str) -> tuple[str, str, list[str]]:
        """Return the columns of the query, of the positives, and those of the negatives."""
        names = TUPLES | {role: (name,) for role, name in self.column_names.items()}
        found = []
        for role in ("query.text", "positive"):
            column = next((name for name in names[role] if name in there), None)
            if column is None:
                raise CollectionError(
                    f"{file} is neither of BEIR's shape (configurations corpus and queries) nor of tuples: it has no "
                    f"column for {role} (there are {', '.join(there)}; looked for was {', '.join(names[role])}). Name "
                    f"it in the recipe: `collection: {{columns: {{{role}: ...}}}}`."
                )
            found.append(column)
        return found[0], found[1], [name for name in there if name.startswith(names["negatives"])]


def _id(text: str, kind: Kind) -> str:
    return f"{kind[0]}-{hash_text(text):016x}"


def _texts_of(row: Mapping[str, Any], column: str) -> list[str]:
    value = row[column]
    texts = value if isinstance(value, list) else [value]
    if not all(isinstance(text, str) for text in texts):
        raise BadLineError("field", f"{column!r} is {str(value)[:40]!r}, and must be a text or a list of texts.")
    return texts
