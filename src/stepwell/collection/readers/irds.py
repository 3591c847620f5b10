"""Read any collection that ``ir-datasets`` knows, through that library: ``irds:msmarco-passage/train``.

The passages are those of the identifier. It is a split when it has judgements, under its last name; when it has
none, its ``/train``, ``/dev`` and ``/test`` are the splits where there are such. A recipe may name further
identifiers over the same passages as ``train``, ``dev`` and ``test``.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, suppress
from functools import cached_property, partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from stepwell.collection.readers.lines import checked_id, parsed
from stepwell.collection.source import Judgement, Kind, Report, Source, Text, explained, import_reader, once
from stepwell.errors import CollectionError

PREFIX = "irds:"
# Where binary measures count a higher grade than 1, by the beginning of the identifier.
RELEVANT_FROM = {"msmarco-passage/trec-dl": 2, "msmarco-passage-v2/trec-dl": 2}
_PARTS = ("train", "dev", "test")


class IrDatasets(Source):
    """A collection of ``ir-datasets``; the library is imported, and data downloaded, when it is first read."""

    def find(self, report: Report) -> None:
        """Take the identifiers."""
        self.name = self.home.as_posix().removeprefix(PREFIX)
        reading = self.section.reading()
        self._own = [reading[role] for role in _PARTS if role in reading]

    def stamp(self) -> dict[str, Any]:
        """Return the identifiers and the version of the library: what it downloads is checked by its own hashes."""
        stamp: dict[str, Any] = {"name": self.name, "splits": self._own}
        with suppress(PackageNotFoundError):
            stamp["ir-datasets"] = version("ir-datasets")
        return stamp

    def label(self, kind: Kind) -> str:
        """Return the identifier."""
        return self.name if kind == "passage" else ", ".join(self.splits.values()) or self.name

    @cached_property
    def _library(self) -> Any:
        return import_reader("ir_datasets", "ir-datasets", self.home)

    @cached_property
    def splits(self) -> dict[str, str]:
        """The identifiers with judgements, by split."""
        ids = {name: name for name in self._own}
        if self._load(self.name).has_qrels():
            return {self.name.rpartition("/")[2]: self.name, **ids}
        known = set(self._library.registry).difference(self._own)
        return {part: f"{self.name}/{part}" for part in _PARTS if f"{self.name}/{part}" in known} | ids

    @cached_property
    def answered(self) -> bool:  # type: ignore[override]
        """Whether all splits have queries with answers (DPR's collections)."""
        found = [self._load(name).queries_cls()._fields for name in self.splits.values()]
        return bool(found) and all("answers" in fields for fields in found)

    def read(self, kind: Kind, report: Report) -> Iterator[Text]:
        """Yield the passages, or the queries of all splits; what several splits share is yielded once."""
        if kind == "passage":
            return self._texts(self.name, "docs_iter", _passage, report)
        names = self.splits.values()
        queries = (text for name in names for text in self._texts(name, "queries_iter", _query, report))
        return once(queries, "id", "title", "text")

    def _texts(self, name: str, method: str, parse: Callable[[str, int, Any], Text], report: Report) -> Iterator[Text]:
        with _explained(name):
            items = enumerate(getattr(self._load(name), method)(), start=1)
            yield from parsed(items, name, report, partial(parse, name))

    def judgements(self, split: str, report: Report) -> Iterator[Judgement]:
        """Yield the judgements of an identifier; a grade below 0 counts as 0."""
        name = self.splits[split]
        with _explained(name):
            for number, judged in enumerate(self._load(name).qrels_iter(), start=1):
                yield Judgement(number, judged.query_id, judged.doc_id, max(0, int(judged.relevance)), name)

    def relevant_from(self, split: str) -> int:
        """Return the level of the track that the judgements are from."""
        name = self.splits[split]
        return next((level for begin, level in RELEVANT_FROM.items() if name.startswith(begin)), 1)

    def _load(self, name: str) -> Any:
        try:
            return self._library.load(name)
        except KeyError:
            raise CollectionError(
                f"ir-datasets {self._library.__version__} knows no collection {name!r}; `ir_datasets list` prints "
                "those it knows."
            ) from None


def _passage(file: str, number: int, passage: Any) -> Text:
    fields = {name: value for name, value in passage._asdict().items() if isinstance(value, str)}
    title, text = fields.get("title", ""), fields.get("text", fields.get("body"))
    if text is None:
        title, text = "", passage.default_text()
    return Text(number, checked_id(passage.doc_id, "passage"), title, text, file, fields)


def _query(file: str, number: int, query: Any) -> Text:
    text, answers = getattr(query, "text", None) or query.default_text(), tuple(getattr(query, "answers", ()))
    return Text(number, checked_id(query.query_id, "query"), "", text, file, answers=answers)


def _explained(name: str) -> AbstractContextManager[None]:
    advice = "See its own documentation of that collection: some need an agreement, files put in place by hand or "
    return explained(f"ir-datasets can't read {name}", f"{advice}further packages.")
