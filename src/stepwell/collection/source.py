"""What a collection is read from: texts, judgements and problems, and the base of every format's reader."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

from stepwell.errors import CollectionError
from stepwell.recipe import CollectionSection

Kind = Literal["passage", "query"]
Item = TypeVar("Item")

_NOTHING: Mapping[str, str] = {}


@dataclass(frozen=True)
class Problem:
    """Something wrong in a collection; an error stops a run, a warning does not."""

    severity: Literal["error", "warning"]
    file: str
    line: int | None
    code: str
    message: str

    def __str__(self) -> str:
        return f"{self.file}{'' if self.line is None else f':{self.line}'}: {self.message}"


Report = Callable[[Problem], None]


def ignore(problem: Problem) -> None:
    """Report a problem to nobody."""


class Text(NamedTuple):
    """One passage or query, as read."""

    line: int
    id: str
    title: str
    text: str
    file: str = ""
    more: Mapping[str, str] = _NOTHING  # further fields that a template may name
    answers: tuple[str, ...] = ()
    synthetic: bool = False  # a query that was made from a passage: nobody asked it

    @property
    def joined(self) -> str:
        """Title and text in one string, as BEIR joins them."""
        return f"{self.title} {self.text}".strip()


class Judgement(NamedTuple):
    """One line of a qrels file, as read."""

    line: int
    query: str
    passage: str  # when empty, the query only belongs to the split: its answers decide what is relevant
    grade: int
    file: str = ""


@dataclass(frozen=True)
class Join:
    """How the fields of a passage become its text: as BEIR does, or by a template; cut to so many characters.

    >>> text = Text(1, "p1", "Money back", "Within fourteen days.")
    >>> Join("{title} [SEP] {text}").of(text)
    'Money back [SEP] Within fourteen days.'
    >>> Join(characters=12).of(text)
    'Money back W'
    """

    template: str | None = None
    characters: int | None = None

    @property
    def plain(self) -> bool:
        """Whether it is the way of BEIR: title, a blank, text."""
        return self == Join()

    def of(self, text: Text) -> str:
        """Return the joined text; StepwellError when the template names a field that the passage does not have."""
        joined = text.joined if self.template is None else self._filled(self.template, text).strip()
        return joined[: self.characters]

    def start(self, text: Text) -> int:
        """Return the character at which the text itself begins, behind title and whatever else is in front."""
        if self.template is None:
            return len(f"{text.title} ".lstrip())
        head, found, _ = self.template.partition("{text}")
        return len(self._filled(head, text).lstrip()) if found else 0

    def _filled(self, template: str, text: Text) -> str:
        fields = {**text.more, "title": text.title, "text": text.text}
        try:
            return template.format_map(fields)
        except KeyError as error:
            raise CollectionError(
                f"{text.file}:{text.line}: the recipe's `collection.template` names {{{error.args[0]}}}, and a "
                f"passage of this collection has {', '.join(fields)}. Name one of these."
            ) from None


class Source(ABC):
    """A collection as it lies somewhere; every format's reader is one.

    A reader finds its files when it is made, and reads them lazily, as often as it is called. What can't be used is
    reported and left out. A reader of files writes ``find``, ``read`` and ``judgements``; the rest is for readers of
    something else.
    """

    answered: bool = False  # whether its queries have answers, and splits are judged by them

    def __init__(self, home: Path, section: CollectionSection | None = None, report: Report = ignore) -> None:
        self.section = section or CollectionSection(path=str(home))
        self.name, self.home = home.name, home
        self.join = Join(self.section.template, self.section.characters)
        self.column_names = {str(role): column for role, column in self.section.columns.items()}
        self.files: dict[Kind, list[Path]] = {"passage": [], "query": []}
        self.labels: dict[Kind, str] = {"passage": home.name, "query": home.name}  # of the files, in messages
        self.qrels: dict[str, Path] = {}  # the file of each split
        self.find(report)

    @abstractmethod
    def find(self, report: Report) -> None:
        """Fill in ``files``, ``labels`` and ``qrels``, and report what is missing."""

    def stamp(self) -> dict[str, Any]:
        """Return what shows whether it is still what was read: sizes and times of files, or a version."""
        return stamp_files(self.home, [*self.files["passage"], *self.files["query"], *self.qrels.values()])

    def label(self, kind: Kind) -> str:
        """Return the file of the passages or queries as messages name it."""
        return self.labels[kind]

    def texts(self, kind: Kind, report: Report) -> Iterator[Text]:
        """Yield the passages or queries, in a fixed order; an empty one is reported, and that there is none."""
        found = self.read(kind, report)
        return iter(()) if found is None else _with_content(found, kind, self.label(kind), report)

    @abstractmethod
    def read(self, kind: Kind, report: Report) -> Iterator[Text] | None:
        """Yield the passages or queries as they stand there; None where nothing is to be read."""

    @property
    def splits(self) -> Mapping[str, str]:
        """The splits in a fixed order, each with its file as messages name it."""
        return {split: file.relative_to(self.home).as_posix() for split, file in self.qrels.items()}

    def judgements(self, split: str, report: Report) -> Iterator[Judgement]:
        """Yield the judgements of a split."""
        return iter(())

    def negatives(self, split: str, report: Report) -> Iterator[Judgement]:
        """Yield the negatives that came with a split, best first for each query; mostly there are none."""
        return iter(())

    def relevant_from(self, split: str) -> int:
        """Return the grade from which binary measures count a passage as relevant."""
        return 1


def stamp_files(home: Path, files: Iterable[Path]) -> dict[str, Any]:
    """Return sizes and times of files."""
    found = {file.relative_to(home).as_posix(): file.stat() for file in files}
    return {"files": {name: [stat.st_size, stat.st_mtime_ns] for name, stat in found.items()}}


def _with_content(texts: Iterable[Text], kind: Kind, file: str, report: Report) -> Iterator[Text]:
    """Report texts that are empty (a query is left out, a passage stays), and a file that holds none."""
    some = False
    for text in texts:
        if not text.joined:
            if kind == "query":
                message = (
                    f"the query {text.id!r} has no text, so nothing can be found for it; remove it here and "
                    "from the qrels."
                )
                report(Problem("error", text.file, text.line, "text-empty", message))
                continue
            message = f"the passage {text.id!r} has neither title nor text; it can never be found by its content."
            report(Problem("warning", text.file, text.line, "text-empty", message))
        some = True
        yield text
    if not some:
        report(Problem("error", file, None, "empty", f"holds no {kind}."))


def once(items: Iterable[Item], *fields: str) -> Iterator[Item]:
    """Leave out what was there already with the same fields: published files overlap."""
    seen: set[int] = set()
    for item in items:
        key = hash(attrgetter(*fields)(item))
        if key not in seen:
            seen.add(key)
            yield item
