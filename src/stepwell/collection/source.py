"""What a collection is read from: texts, judgements and problems, and the base of every format's reader."""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from operator import attrgetter
from os.path import relpath
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

from stepwell.errors import CollectionError, MissingPackage, StepwellError
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

    def split_files(self, files: Mapping[str, Path], names: re.Pattern[str], report: Report) -> dict[str, Path]:
        """Return the files by the split that their names hold; of two for one split, the later one is reported."""
        found: dict[str, Path] = {}
        for name, file in files.items():
            if match := names.fullmatch(name):
                split = match["split"] or "train"
                if split in found:
                    first, other = (path.relative_to(self.home).as_posix() for path in (found[split], file))
                    message = f"is for the split {split} as {first} is; move one of the two away."
                    report(Problem("error", other, None, "file-twice", message))
                found.setdefault(split, file)
        return found

    def stamp(self) -> dict[str, Any]:
        """Return what shows whether it is still what was read: sizes and times of files, or a version."""
        return stamp_files(self.home, [*self.files["passage"], *self.files["query"], *self.qrels.values()])

    def label(self, kind: Kind) -> str:
        """Return the file of the passages or queries as messages name it."""
        return self.labels[kind]

    def texts(self, kind: Kind, report: Report) -> Iterator[Text]:
        """Yield the passages or queries in a fixed order; empty texts (a query is left out), and none, are reported."""
        found, some = self.read(kind, report), False
        for text in found or ():
            if text.joined:
                yield text
            elif kind == "query":
                message = f"the query {text.id!r} has no text, so nothing can be found for it; remove it here and "
                report(Problem("error", text.file, text.line, "text-empty", f"{message}from the qrels."))
                continue
            else:
                message = f"the passage {text.id!r} has neither title nor text; it can never be found by its content."
                report(Problem("warning", text.file, text.line, "text-empty", message))
                yield text
            some = True
        if found is not None and not some:
            report(Problem("error", self.label(kind), None, "empty", f"holds no {kind}."))

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
    found = {Path(relpath(file, home)).as_posix(): file.stat() for file in files}  # which may lie beside it
    return {"files": {name: [stat.st_size, stat.st_mtime_ns] for name, stat in found.items()}}


def once(items: Iterable[Item], *fields: str) -> Iterator[Item]:
    """Leave out what was there already with the same fields: published files overlap."""
    seen: set[int] = set()
    for item in items:
        key = hash(attrgetter(*fields)(item))
        if key not in seen:
            seen.add(key)
            yield item


def import_reader(library: str, title: str, home: Path) -> Any:
    """Import the library that reads a collection; MissingPackage says how to install it."""
    try:
        return import_module(library)
    except ImportError as error:
        package = library.replace("_", "-")
        raise MissingPackage(
            f"{home} is read through {title}, which can't be imported ({error}): pip install 'stepwell[{package}]'.",
            package,
            package,
        ) from error


@contextmanager
def explained(what: str, advice: str) -> Iterator[None]:
    """Turn what a library raises while it downloads and parses (of many kinds: network, disk, format) into a sentence.

    ``what`` went wrong, without a full stop, and what to do about it.
    """
    try:
        yield
    except StepwellError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:400]
        raise CollectionError(f"{what} ({type(error).__name__}: {reason}). {advice}") from error
