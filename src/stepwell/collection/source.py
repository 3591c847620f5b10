"""What a collection is read from: one small protocol, which every format's reader follows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

from stepwell.errors import StepwellError

Kind = Literal["passage", "query"]

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


class BadLineError(ValueError):
    """A line that can't be used: code and message of the problem."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Text(NamedTuple):
    """One passage or query, as read; ``more`` are further fields that a template may name.

    A query is synthetic when it was made from a passage: nobody asked it.
    """

    line: int
    id: str
    title: str
    text: str
    file: str = ""
    more: Mapping[str, str] = _NOTHING
    answers: tuple[str, ...] = ()
    synthetic: bool = False

    @property
    def joined(self) -> str:
        """Title and text in one string, as BEIR joins them."""
        return f"{self.title} {self.text}".strip()


class Judgement(NamedTuple):
    """One line of a qrels file, as read.

    Without a passage it only says that the query belongs to the split: its answers tell what is relevant.
    """

    line: int
    query: str
    passage: str
    grade: int
    file: str = ""


@dataclass(frozen=True)
class Join:
    """How the fields of a passage become its text: as BEIR does, or by a template; cut to so many characters.

    Examples
    --------
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
        """Return the joined text.

        Raises
        ------
        StepwellError
            When the template names a field that the passage does not have.
        """
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
            raise StepwellError(
                f"{text.file}:{text.line}: the recipe's `collection.template` names {{{error.args[0]}}}, and a "
                f"passage of this collection has {', '.join(fields)}. Name one of these."
            ) from None


class Source(Protocol):
    """A collection as it lies somewhere: what :mod:`stepwell.collection.scan` needs to know, nothing else.

    Everything is read lazily and as often as it is asked for; nothing is kept. What can't be used is reported
    and left out.
    """

    name: str
    home: Path
    """Its directory, or what else names it."""
    join: Join
    answered: bool = False
    """Whether its queries have answers, and splits are judged by them."""

    def stamp(self) -> dict[str, Any]:
        """Return what tells whether it is still what was read: sizes and times of files, or a version."""
        ...

    def label(self, kind: Kind) -> str:
        """Return the file of the passages or queries as messages name it."""
        ...

    def texts(self, kind: Kind, report: Report) -> Iterator[Text]:
        """Yield the passages or queries, in a fixed order."""
        ...

    @property
    def splits(self) -> Mapping[str, str]:
        """The splits in a fixed order, each with its file as messages name it."""
        ...

    def judgements(self, split: str, report: Report) -> Iterator[Judgement]:
        """Yield the judgements of a split."""
        ...

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


def with_content(texts: Iterable[Text], kind: Kind, file: str, report: Report) -> Iterator[Text]:
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


def once(texts: Iterable[Text]) -> Iterator[Text]:
    """Leave out what was there already with the same id and text: published files of queries overlap."""
    seen: set[int] = set()
    for text in texts:
        key = hash((text.id, text.title, text.text))
        if key not in seen:
            seen.add(key)
            yield text


def checked_id(name: str, kind: Kind) -> str:
    """Return an id that qrels and runs can name.

    Raises
    ------
    BadLineError
        When it is empty or holds a tab or a line break.
    """
    if not name.strip() or "\t" in name or "\r" in name or "\n" in name:
        raise BadLineError(
            "id",
            f"the id {name!r} is empty or holds a tab or line break, so qrels can't name it; give the {kind} another.",
        )
    return name


def whole_grade(text: str) -> int:
    """Return a grade: a whole number, 0 or more.

    Raises
    ------
    BadLineError
        When it is none.
    """
    try:
        grade = float(text)
        whole = grade == int(grade)
    except (ValueError, OverflowError):
        raise BadLineError(
            "grade",
            f"the grade {text!r} is not a number; write 0 for not relevant, 1 or more for relevant.",
        ) from None
    if grade < 0:
        raise BadLineError("grade", f"the grade {text} is negative; write 0 for not relevant.")
    if not whole or grade > 2**31 - 1:
        raise BadLineError(
            "grade",
            f"the grade {text} is not a whole number (below two thousand million); scale the grades so that they are.",
        )
    return int(grade)
